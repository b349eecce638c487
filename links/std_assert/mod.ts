/** Stand-in for the functions of `jsr:@std/assert` that this project uses, over `node:assert`.
 *
 * @module
 */
import { AssertionError, deepStrictEqual, match, notDeepStrictEqual } from "node:assert";

export { AssertionError };

/** Throws unless `expr` is truthy. */
export function assert(expr: unknown, msg = ""): asserts expr {
  if (!expr) throw new AssertionError({ message: msg || `Expected a truthy value, got ${String(expr)}` });
}

/** Throws unless `actual` and `expected` are deeply equal. */
export function assertEquals<T>(actual: T, expected: T, msg?: string): void {
  deepStrictEqual(actual, expected, msg as string);
}

/** Throws when `actual` and `expected` are deeply equal. */
export function assertNotEquals<T>(actual: T, expected: T, msg?: string): void {
  notDeepStrictEqual(actual, expected, msg as string);
}

/** Throws unless `actual` contains `expected`. */
export function assertStringIncludes(actual: string, expected: string, msg?: string): void {
  assert(actual.includes(expected), msg ?? `Expected actual: "${actual}" to contain: "${expected}"`);
}

/** Throws unless `actual` matches `expected`. */
export function assertMatch(actual: string, expected: RegExp, msg?: string): void {
  match(actual, expected, msg as string);
}

/** Throws unless `actual` and `expected` differ by at most `tolerance` (1e-7 relative to `expected` by default). */
export function assertAlmostEquals(actual: number, expected: number, tolerance?: number, msg?: string): void {
  const limit = tolerance ?? Math.abs(expected) * 1e-7;
  if (Object.is(actual, expected) || Math.abs(actual - expected) <= limit) return;
  throw new AssertionError({
    message: msg ?? `Expected actual: "${actual}" to be close to "${expected}": delta "${limit}"`,
  });
}

// deno-lint-ignore no-explicit-any
type ErrorClass<E extends Error> = abstract new (...args: any[]) => E;

function checkError<E extends Error>(error: unknown, errorClass?: ErrorClass<E>, includes?: string, msg?: string): E {
  assert(error instanceof Error, msg ?? `Expected an Error, got ${String(error)}`);
  if (errorClass) {
    assert(error instanceof errorClass, msg ?? `Expected ${errorClass.name}, got ${error.name}: ${error.message}`);
  }
  if (includes) assertStringIncludes(error.message, includes, msg);
  return error as E;
}

/** Runs `fn`, which must throw, and returns the error. */
export function assertThrows<E extends Error = Error>(
  fn: () => unknown,
  errorClass?: ErrorClass<E>,
  msgIncludes?: string,
  msg?: string,
): E {
  try {
    fn();
  } catch (error) {
    return checkError(error, errorClass, msgIncludes, msg);
  }
  throw new AssertionError({ message: msg ?? "Expected function to throw" });
}

/** Runs `fn`, whose promise must reject, and returns the error. */
export async function assertRejects<E extends Error = Error>(
  fn: () => PromiseLike<unknown>,
  errorClass?: ErrorClass<E>,
  msgIncludes?: string,
  msg?: string,
): Promise<E> {
  try {
    await fn();
  } catch (error) {
    return checkError(error, errorClass, msgIncludes, msg);
  }
  throw new AssertionError({ message: msg ?? "Expected function to reject" });
}
