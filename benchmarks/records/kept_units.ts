/** Kept units as records store them: a list of indices is a number in hexadecimal whose bit u is set when unit u stays, half
 * of the bytes that the list takes compressed. In Python: `[u for u in range(m.bit_length()) if m >> u & 1]` with
 * `m = int(text or "0", 16)`.
 *
 * @module
 */
import { at } from "../../core/util/indexing.ts";

/** Longest text that is read: a short file could otherwise name billions of units. */
const MOST_DIGITS = 2 ** 18;

/** The text of a list; the empty one for no unit.
 * @throws {TypeError} when the indices are no whole numbers that ascend from 0 on. */
export function packUnits(units: readonly number[]): string {
  const digits: number[] = [];
  units.forEach((unit, i) => {
    if (!Number.isInteger(unit) || unit <= (i === 0 ? -1 : at(units, i - 1)) || unit >= 4 * MOST_DIGITS) {
      throw new TypeError(`Kept units must be whole numbers that ascend, below ${4 * MOST_DIGITS}; ${unit} is at ${i}`);
    }
    while (digits.length <= unit >> 2) digits.push(0);
    digits[unit >> 2] = at(digits, unit >> 2) | 1 << (unit & 3);
  });
  return digits.reverse().map((digit) => digit.toString(16)).join("");
}

/** The list of a text; undefined when it is none of {@linkcode packUnits}. */
export function unpackUnits(text: string): number[] | undefined {
  if (text.length > MOST_DIGITS || !/^([1-9a-f][0-9a-f]*)?$/.test(text)) return undefined;
  return [...text].reverse().flatMap((digit, d) =>
    [0, 1, 2, 3].filter((bit) => parseInt(digit, 16) >> bit & 1).map((bit) => 4 * d + bit)
  );
}

type Change = (value: unknown) => unknown;

/** `value` with the fields that have a change changed, if it is an object. */
function fields(value: unknown, changes: ReadonlyMap<string, Change>): unknown {
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, changes.get(key)?.(inner) ?? inner]));
}

/** A record with `change` made to every list of units of its plans: in `plan` itself and in the stages of `rebuild`. */
function inPlans(record: object, change: Change): object {
  const each = (change: Change): Change => (value) => Array.isArray(value) ? value.map(change) : value;
  const named = (changes: Record<string, Change>): Change => (value) => fields(value, new Map(Object.entries(changes)));
  const layer = named({ kvGroups: change, queryHeads: change, ffnChannels: change });
  const plan = named({ layers: each(layer), hidden: change });
  return named({ plan, rebuild: named({ stages: each(named({ plan })) }) })(record) as object;
}

/** A record as it is stored: every list of kept units is a text. */
export function withPackedUnits(record: object): object {
  return inPlans(record, (units) => packUnits(units as number[]));
}

/** A stored record with lists again. What is no list's text stays as it is, for the schema to tell. */
export function withUnpackedUnits(record: object): object {
  return inPlans(record, (text) => typeof text === "string" ? unpackUnits(text) ?? text : text);
}
