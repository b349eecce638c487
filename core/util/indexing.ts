/** Checked access by a computed index.
 *
 * @module
 */

/** Entry `index` of `values`, for a computed index that must exist. Loops over all entries use `for … of`.
 * @throws {RangeError} if `index` is not a whole number from 0 to `values.length - 1`. */
export function at<T>(values: ArrayLike<T>, index: number): T {
  if (!Number.isInteger(index) || index < 0 || index >= values.length) {
    throw new RangeError(`index ${index} is outside of 0 to ${values.length - 1} (${values.length} entries)`);
  }
  return values[index] as T;
}

/** The entry named `key` of `values`, for a computed key that must exist.
 * @throws {RangeError} if `values` has no own entry of that name. */
export function entry<T>(values: Readonly<Record<string, T>>, key: string): T {
  if (!Object.hasOwn(values, key)) {
    throw new RangeError(`there is no entry "${key}" among ${Object.keys(values).length}`);
  }
  return values[key] as T;
}

/** The value of `map` for a computed key that must exist.
 * @throws {RangeError} if `map` has none. */
export function lookUp<K, V extends NonNullable<unknown>>(map: ReadonlyMap<K, V | undefined>, key: K): V {
  const value = map.get(key);
  if (value === undefined) throw new RangeError(`there is no entry ${JSON.stringify(key)} among ${map.size}`);
  return value;
}
