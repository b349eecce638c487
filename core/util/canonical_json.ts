/** JSON values: one text for equal ones, and its hash.
 *
 * @module
 */
import { createHash } from "node:crypto";

/** Whether a value is an object and not a list. */
export const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/** JSON with sorted keys and without `undefined`, so that equal values give equal text. */
export function canonicalJson(value: unknown): string {
  return JSON.stringify(
    value,
    (_key, item) =>
      isObject(item) ? Object.fromEntries(Object.entries(item).sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0))) : item,
  );
}

/** SHA-256 over the canonical JSON of a value, hex. */
export const sha256OfJson = (value: unknown): string => createHash("sha256").update(canonicalJson(value)).digest("hex");
