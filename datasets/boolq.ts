import { z } from "zod";
import { choicesAfter, defineTask, type Task } from "./define.ts";

/** BoolQ: yes/no questions about a passage. */
export const boolq: Task = defineTask({
  id: "boolq",
  version: 2,
  summary: "BoolQ: yes/no questions about a passage",
  source: "Clark et al. 2019, arXiv:1905.10044",
  licence: "CC-BY-SA-3.0",
  hub: { repo: "aps/super_glue", config: "boolq" },
  split: "validation",
  record: z.looseObject({ question: z.string(), passage: z.string(), label: z.union([z.literal(0), z.literal(1)]) }),
  toExample: ({ question, passage, label }) => ({
    choices: choicesAfter(`${passage}\nQuestion: ${question}?\nAnswer:`, ["no", "yes"]),
    gold: label,
  }),
  metrics: ["acc"],
});
