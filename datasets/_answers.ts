/** The answer format of ARC and OpenBookQA: texts with labels, and the label of the right answer.
 *
 * @module
 */
import { z } from "zod";

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
