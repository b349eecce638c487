import { z } from "zod";
import { answerIndex, labelledTexts } from "./_answers.ts";
import { choicesAfter, defineTask, type Task } from "./define.ts";

/** ARC-Easy: grade-school science questions, the easy ones. */
export const arcEasy: Task = defineTask({
  id: "arc_easy",
  version: 1,
  summary: "ARC-Easy: grade-school science questions, the easy ones",
  source: "Clark et al. 2018, arXiv:1803.05457",
  licence: "CC-BY-SA-4.0",
  hub: { repo: "allenai/ai2_arc", config: "ARC-Easy" },
  split: "test",
  record: z.looseObject({ question: z.string(), choices: labelledTexts, answerKey: z.string() }),
  toExample: ({ question, choices, answerKey }) => ({
    choices: choicesAfter(`Question: ${question}\nAnswer:`, choices.text),
    gold: answerIndex(choices, answerKey),
  }),
  metrics: ["acc", "acc_norm"],
});
