/** How the plans of two records differ.
 *
 * @module
 */
import type { DoneRecord } from "./schema.ts";

const unitsOf = ({ layers, hidden = [] }: DoneRecord["plan"]): string[] => [
  ...layers.flatMap((layer, l) =>
    Object.entries(layer).flatMap(([type, kept]) => kept.map((u) => `${l} ${type} ${u}`))
  ),
  ...hidden.map((u) => `hidden ${u}`),
];

/** How many units a plan keeps, and how many of these another does not. */
export function changedUnits(before: DoneRecord["plan"], after: DoneRecord["plan"]): { kept: number; changed: number } {
  const [was, is] = [unitsOf(before), new Set(unitsOf(after))];
  return { kept: was.length, changed: was.filter((unit) => !is.has(unit)).length };
}
