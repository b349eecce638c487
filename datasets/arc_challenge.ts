import { z } from "zod";
import { answerIndex, labelledTexts } from "./_answers.ts";
import { choicesAfter, defineTask, type Task } from "./define.ts";

/** ARC-Challenge: grade-school science questions, the hard ones. */
export const arcChallenge: Task = defineTask({
  id: "arc_challenge",
  version: 1,
  summary: "ARC-Challenge: grade-school science questions, the hard ones",
  source: "Clark et al. 2018, arXiv:1803.05457",
  licence: "CC-BY-SA-4.0",
  hub: { repo: "allenai/ai2_arc", config: "ARC-Challenge" },
  split: "test",
  record: z.looseObject({ question: z.string(), choices: labelledTexts, answerKey: z.string() }),
  toExample: ({ question, choices, answerKey }) => ({
    choices: choicesAfter(`Question: ${question}\nAnswer:`, choices.text),
    gold: answerIndex(choices, answerKey),
  }),
  metrics: ["acc", "acc_norm"],
});
