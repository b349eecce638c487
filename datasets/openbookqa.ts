import { z } from "zod";
import { stripStart } from "../core/util/python_text.ts";
import { answerIndex, labelledTexts } from "./arc.ts";
import { choicesAfter, defineTask, type Task } from "./define.ts";

/** OpenBookQA: elementary science, the question alone, without the book of facts. */
export const openbookqa: Task = defineTask({
  id: "openbookqa",
  version: 1,
  summary: "OpenBookQA: elementary science questions, without the book of facts",
  source: "Mihaylov et al. 2018, arXiv:1809.02789",
  licence: "not stated on the data card",
  hub: { repo: "allenai/openbookqa", config: "main" },
  split: "test",
  record: z.looseObject({ question_stem: z.string(), choices: labelledTexts, answerKey: z.string() }),
  toExample: ({ question_stem, choices, answerKey }) => ({
    choices: choicesAfter(question_stem, choices.text),
    gold: answerIndex(choices, stripStart(answerKey)),
  }),
  metrics: ["acc", "acc_norm"],
  primaryMetric: "acc_norm",
});
