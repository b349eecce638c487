/** String operations with the meaning that Python gives them. The benchmarks' prompts and metrics were defined in
 * Python, and JavaScript's `trim`, `\s` and `length` differ from `strip`, `\s` and `len`.
 *
 * @module
 */

/** Python's white space, as the inside of a regular expression's character class: what `str.strip()`, `str.isspace()`
 * and `\s` of `re` agree on. JavaScript's `\s` has U+FEFF as well, and lacks U+001C to U+001F and U+0085. */
export const PYTHON_SPACE = "\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";

const LEADING = new RegExp(`^[${PYTHON_SPACE}]+`);
// Without the lookbehind a long inner run of spaces would be tried again from each of its characters.
const TRAILING = new RegExp(`(?<![${PYTHON_SPACE}])[${PYTHON_SPACE}]+$`);
const RUN = new RegExp(`[${PYTHON_SPACE}]+`);

/** `text.lstrip()`. */
export function stripStart(text: string): string {
  return text.replace(LEADING, "");
}

/** `text.rstrip()`. */
export function stripEnd(text: string): string {
  return text.replace(TRAILING, "");
}

/** `text.strip()`. */
export function strip(text: string): string {
  return stripEnd(stripStart(text));
}

/** `re.split(r"\s+", text)`: empty first and last pieces are kept. */
export function splitAtSpaces(text: string): string[] {
  return text.split(RUN);
}

/** `text.replace(from, to)`: every non-overlapping hit, left to right, `$` without special meaning. */
export function replaceEach(text: string, from: string, to: string): string {
  return text.replaceAll(from, () => to);
}

/** `text.capitalize()`: the first character in title case and all others in lower case.
 *
 * JavaScript has no title case, so the few characters whose title and upper case differ (Latin digraphs such as
 * U+01C4, Georgian, Greek with iota subscript) are given their upper case. */
export function capitalize(text: string): string {
  const [first] = text;
  if (first === undefined) return "";
  const [head, ...tail] = first.toUpperCase();
  // The whole string is lowered at once: the form of a final sigma depends on the letter before it.
  const lowered = text.toLowerCase().slice(first.toLowerCase().length);
  return head + tail.join("").toLowerCase() + lowered;
}

/** `len(text)`: code points, not UTF-16 code units. */
export function codePointLength(text: string): number {
  return [...text].length;
}

/** `len(text.encode())`: bytes of UTF-8. */
export function utf8Length(text: string): number {
  return new TextEncoder().encode(text).length;
}

/** `repr(value)` of a finite float: the shortest digits that give the value back, as in JavaScript, in Python's form
 * (`-3.0`, `1e-07`, `1e+16`). */
export function floatRepr(value: number): string {
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-4 || size >= 1e16)) {
    return value.toExponential().replace(/e(?<sign>[+-])(?<digit>\d)$/, "e$<sign>0$<digit>");
  }
  return Number.isInteger(value) ? `${Object.is(value, -0) ? "-0" : value}.0` : String(value);
}
