/** Numbers, switches and texts of a model's file by name, checked: `config.json` and GGUF metadata alike.
 *
 * @module
 */

/** Typed access to members; a missing one is its fallback, or refused. */
export interface Members {
  /** Whole, from 1 to `max`. */
  integer(key: string, max: number, fallback?: number): number;
  /** Above 0. */
  number(key: string, fallback?: number): number;
  flag(key: string, fallback?: boolean): boolean;
  text(key: string, fallback: string): string;
}

/** Access to what `value` gives; `fail` throws that the member must be something else. */
export function checkedMembers(
  value: (key: string) => unknown,
  fail: (key: string, must: string) => never,
): Members {
  return {
    integer: (key, max, fallback) => {
      const found = value(key) ?? fallback;
      const isValid = typeof found === "number" && Number.isInteger(found) && found >= 1 && found <= max;
      return isValid ? found : fail(key, `a whole number from 1 to ${max}`);
    },
    number: (key, fallback) => {
      const found = value(key) ?? fallback;
      return typeof found === "number" && found > 0 && found < Infinity ? found : fail(key, "a positive number");
    },
    flag: (key, fallback = false) => {
      const found = value(key) ?? fallback;
      return typeof found === "boolean" ? found : fail(key, "true or false");
    },
    text: (key, fallback) => {
      const found = value(key) ?? fallback;
      return typeof found === "string" ? found : fail(key, "text");
    },
  };
}
