/**
 * Checked access by a computed index.
 * @module
 */

/**
 * Entry `index` of `values`, for an index that is computed and must be there; loops over all entries use `for … of`.
 *
 * @throws {RangeError} where `index` is not a whole number from 0 to `values.length - 1`.
 */
export function at<T>(values: ArrayLike<T>, index: number): T {
  if (!Number.isInteger(index) || index < 0 || index >= values.length) {
    throw new RangeError(`index ${index} is outside of 0 to ${values.length - 1} (${values.length} entries)`);
  }
  return values[index] as T;
}
