/** The two sets of ARC, and their answer format, which OpenBookQA shares.
 *
 * @module
 */
import { z } from "zod";
import { choicesAfter, defineTask, type Task } from "./define.ts";

/** Answer texts and their labels, such as `A` to `E` or `1` to `4`. */
export const labelledTexts: z.ZodObject<{ text: z.ZodArray<z.ZodString>; label: z.ZodArray<z.ZodString> }> = z
  .looseObject({ text: z.array(z.string()).min(2), label: z.array(z.string()) });

/** Index of the text that `key` labels.
 * @throws {RangeError} when no label equals `key`, or texts and labels differ in number. */
export function answerIndex({ text, label }: z.infer<typeof labelledTexts>, key: string): number {
  if (text.length !== label.length) {
    throw new RangeError(`choices.text has ${text.length} entries and choices.label ${label.length}: must be equal`);
  }
  const index = label.indexOf(key);
  if (index < 0) throw new RangeError(`answerKey "${key}" is not one of the labels ${label.join(", ")}`);
  return index;
}

function arcTask(id: string, config: string, which: string): Task {
  return defineTask({
    id,
    version: 1,
    summary: `${config}: ${which} grade-school science questions`,
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

/** ARC-Easy. */
export const arcEasy: Task = arcTask("arc_easy", "ARC-Easy", "easy");
/** ARC-Challenge. */
export const arcChallenge: Task = { ...arcTask("arc_challenge", "ARC-Challenge", "hard"), primaryMetric: "acc_norm" };
