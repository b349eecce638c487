/** Checked numbers, flags and texts of a model's file by name, for `config.json` and GGUF metadata.
 *
 * @module
 */

/** Most layers that a file may claim. Other sizes are compared with the tensors of the file. */
export const MAX_LAYERS = 1024;
const MAX_INTEGER = 2 ** 30;

/** Typed access to members. A missing one is its fallback, or an error. */
export interface Members {
  /** Whole, from 1 to `max` (default 2^30). */
  integer(key: string, fallback?: number, max?: number): number;
  /** Above 0. */
  number(key: string, fallback?: number): number;
  flag(key: string, fallback?: boolean): boolean;
  text(key: string, fallback: string): string;
}

/** Access to the members that `value` returns; `fail` throws an error that says what a member must be. */
export function checkedMembers(value: (key: string) => unknown, fail: (key: string, must: string) => never): Members {
  return {
    integer: (key, fallback, max = MAX_INTEGER) => {
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
