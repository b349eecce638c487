/** ARC-Easy, and its common part with ARC-Challenge.
 *
 * @module
 */
import { z } from "zod";
import { answerIndex, labelledTexts } from "./_answers.ts";
import { choicesAfter, defineTask, type Task } from "./define.ts";

/** One of the two sets of ARC, by the task's id and the hub's name. */
export function arcTask(id: string, config: string, which: string): Task {
  return defineTask({
    id,
    version: 1,
    summary: `${config}: grade-school science questions, the ${which} ones`,
    source: "Clark et al. 2018, arXiv:1803.05457",
    licence: "CC-BY-SA-4.0",
    hub: { repo: "allenai/ai2_arc", config },
    split: "test",
    record: z.looseObject({ question: z.string(), choices: labelledTexts, answerKey: z.string() }),
    toExample: ({ question, choices, answerKey }) => ({
      choices: choicesAfter(`Question: ${question}\nAnswer:`, choices.text),
      gold: answerIndex(choices, answerKey),
    }),
    metrics: ["acc", "acc_norm"],
  });
}

/** ARC-Easy: grade-school science questions, the easy ones. */
export const arcEasy: Task = arcTask("arc_easy", "ARC-Easy", "easy");
