import { z } from "zod";
import { strip } from "../core/util/python_text.ts";
import { defineTask, type Task } from "./define.ts";

/** WinoGrande, partially scored: each option fills the blank of its own context. The rest of the sentence, the same for
 * both, is scored. */
export const winogrande: Task = defineTask({
  id: "winogrande",
  version: 1,
  summary: "WinoGrande: which of two names fills the blank of a sentence",
  source: "Sakaguchi et al. 2019, arXiv:1907.10641",
  licence: "CC-BY (not stated on the data card)",
  hub: { repo: "allenai/winogrande", config: "winogrande_xl" },
  split: "validation",
  record: z.looseObject({ sentence: z.string(), option1: z.string(), option2: z.string(), answer: z.enum(["1", "2"]) }),
  toExample: ({ sentence, option1, option2, answer }) => {
    const blank = sentence.indexOf("_");
    if (blank < 0) throw new RangeError(`sentence has no blank "_": current "${sentence}"`);
    const continuation = ` ${strip(sentence.slice(blank + 1))}`;
    return {
      choices: [option1, option2].map((text) => ({ context: sentence.slice(0, blank) + text, continuation, text })),
      gold: Number(answer) - 1,
    };
  },
  metrics: ["acc"],
});
