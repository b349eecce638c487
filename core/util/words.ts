/** `1 cell`, `2 cells`.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { counted } from "./words.ts";
 *
 * assertEquals([counted(1, "cell"), counted(0, "cell")], ["1 cell", "0 cells"]);
 * ```
 */
export const counted = (count: number, noun: string): string => `${count} ${noun}${count === 1 ? "" : "s"}`;
