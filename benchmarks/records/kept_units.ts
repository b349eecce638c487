/** Kept units as records store them. A list of indices is a hexadecimal number whose bit u is set if unit u stays, half
 * of the bytes of a compressed list. In Python: `[u for u in range(m.bit_length()) if m >> u & 1]` with `m = int(text
 * or "0", 16)`.
 *
 * @module
 */
import { at } from "../../core/util/indexing.ts";

/** Longest text that is read: a short file could otherwise name billions of units. */
const MOST_DIGITS = 2 ** 18;

/** The text of a list; the empty one for no unit.
 * @throws {TypeError} when the indices are no whole numbers that ascend from 0 on. */
export function packUnits(units: readonly number[]): string {
  let bits = 0n;
  units.forEach((unit, i) => {
    if (!Number.isInteger(unit) || unit <= (i === 0 ? -1 : at(units, i - 1)) || unit >= 4 * MOST_DIGITS) {
      throw new TypeError(`Kept units must be whole numbers that ascend, below ${4 * MOST_DIGITS}; ${unit} is at ${i}`);
    }
    bits |= 1n << BigInt(unit);
  });
  return bits === 0n ? "" : bits.toString(16);
}

/** The list of a text; undefined when it is none of {@linkcode packUnits}. */
export function unpackUnits(text: string): number[] | undefined {
  if (text.length > MOST_DIGITS || !/^([1-9a-f][0-9a-f]*)?$/.test(text)) return undefined;
  return [...text].reverse().flatMap((digit, d) =>
    [0, 1, 2, 3].filter((bit) => parseInt(digit, 16) >> bit & 1).map((bit) => 4 * d + bit)
  );
}

const isObject = (value: unknown): value is Record<string, unknown> => typeof value === "object" && value !== null;

/** A record with `change` made to every list of units of its plan. The schema refuses anything else. */
function inPlan(record: object, change: (units: unknown) => unknown): object {
  const { plan } = record as Record<string, unknown>;
  if (!isObject(plan) || !Array.isArray(plan.layers)) return record;
  const layers = plan.layers.map((layer: unknown) =>
    isObject(layer) ? Object.fromEntries(Object.entries(layer).map(([type, units]) => [type, change(units)])) : layer
  );
  return { ...record, plan: { ...plan, layers, ..."hidden" in plan && { hidden: change(plan.hidden) } } };
}

/** A record as it is stored: every list of kept units is a text. */
export function withPackedUnits(record: object): object {
  return inPlan(record, (units) => Array.isArray(units) ? packUnits(units) : units);
}

/** A stored record with lists again. */
export function withUnpackedUnits(record: object): object {
  return inPlan(record, (text) => typeof text === "string" ? unpackUnits(text) ?? text : text);
}
