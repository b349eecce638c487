/** Values that a test knows to be there, with types that say so.
 *
 * @module
 */
import { AssertionError } from "@std/assert";

/** As many values of one type as the number says. */
type Row<T, N extends 2 | 3 | 4 | 5> = { 2: [T, T]; 3: [T, T, T]; 4: [T, T, T, T]; 5: [T, T, T, T, T] }[N];

/** The first `count` of `values`, to be taken apart.
 *
 * @throws {AssertionError} where there are fewer. */
export function take<T, N extends 2 | 3 | 4 | 5>(values: Iterable<T>, count: N): Row<T, N> {
  const taken = [...values].slice(0, count);
  if (taken.length < count) throw new AssertionError({ message: `${count} values must be there, not ${taken.length}` });
  return taken as Row<T, N>;
}

/** The value, which is there.
 *
 * @throws {AssertionError} where it is undefined or null. */
export function known<T>(value: T, what = "the value"): NonNullable<T> {
  if (value === undefined || value === null) throw new AssertionError({ message: `${what} must be there` });
  return value;
}

/** Ends something at the end of the block: `using _end = atEnd(() => source.close())`. */
export const atEnd = (end: () => void): Disposable => ({ [Symbol.dispose]: end });
