/** Numbers as a reader wants them. Every function gives the same text for the same number everywhere.
 *
 * @module
 */

/** Digits after the point that leave about `significant` digits of `value`, at most `most`. */
function decimals(value: number, significant: number, most: number): number {
  if (value === 0) return most;
  const before = Math.floor(Math.log10(Math.abs(value))) + 1;
  return Math.min(most, Math.max(0, significant - before));
}

/** A value and its spread with equally many decimals. */
export function withSpread(
  value: number,
  spread: number | null,
  significant: number,
  most: number,
): { text: string; spread: string | null } {
  const digits = decimals(value, significant, most);
  const show = (x: number) => Math.abs(x) >= 1e6 ? x.toExponential(1) : x.toFixed(digits);
  return { text: show(value), spread: spread === null ? null : show(spread) };
}

/** `0.1986` as `19.9`. */
export function percent(fraction: number, digits = 1): string {
  const text = (100 * fraction).toFixed(digits);
  return Number(text) === 0 ? (0).toFixed(digits) : text;
}

/** An asked level without needless zeros: `0.2` as `20 %`, `0.125` as `12.5 %`. */
export function level(fraction: number): string {
  return `${Number((100 * fraction).toFixed(2))} %`;
}

/** Shown where there is no result. */
export const NO_VALUE = "–";

/** Distinct values, in their order. */
export const unique = <T>(values: readonly T[]): T[] => [...new Set(values)];

/** The least and the greatest of numbers, such as `21–23`. */
export const span = (values: number[]): string => unique([Math.min(...values), Math.max(...values)]).join("–");

/** A text that begins a sentence. */
export const capitalised = (text: string): string => text.charAt(0).toUpperCase() + text.slice(1);

/** Last part of a path: reports do not show where files lie on a machine. */
export const baseName = (path: string): string => path.replace(/[/\\]+$/, "").split(/[/\\]/).pop() || path;

/** A path or name as a shell reads it. */
export const quoted = (text: string): string =>
  /^[\w./:@%+=,-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;

/** Where data came from: a file by its name alone, anything else as it is. */
export const sourceName = (source: string): string => /^[/\\]|^[A-Za-z]:/.test(source) ? baseName(source) : source;

/** Breaks a text into lines of at most `width` characters, those after the first indented. A number stays with its
 * `%`. */
export function wrapped(text: string, width: number, indent = ""): string[] {
  const lines: string[] = [];
  let last = "";
  for (const word of text.split(/ (?!%)/)) {
    if (last.trim() !== "" && last.length + word.length + 1 > width) {
      lines.push(last);
      last = indent + word;
    } else last = last === "" ? word : `${last} ${word}`;
  }
  return [...lines, last];
}

/** Names in a row, apart by semicolons where some hold commas themselves; `and`, if given, stands before the last. */
export function listed(names: readonly string[], and = ""): string {
  const apart = names.some((name) => name.includes(",")) ? "; " : ", ";
  if (and === "" || names.length < 2) return names.join(apart);
  return `${names.slice(0, -1).join(apart)}${apart === ", " ? " " : apart}${and} ${names.at(-1)}`;
}

/** `134515008` as `134.5M`. */
export function count(value: number): string {
  const units: [number, string][] = [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]];
  const unit = units.find(([size]) => value >= size);
  if (unit === undefined) return String(value);
  const scaled = value / unit[0];
  return scaled.toFixed(decimals(scaled, 4, 2)) + unit[1];
}

/** Operations in units of 10^9, or 10^6 for tiny models: `7930000000` as `7.93G`. */
export function operations(value: number): string {
  const [size, unit] = value >= 1e8 ? [1e9, "G"] : [1e6, "M"];
  const scaled = value / Number(size);
  return `${scaled.toFixed(decimals(scaled, 3, 2))}${unit}`;
}

/** Bytes as MiB without the unit. */
export function mebibytes(bytes: number): string {
  const scaled = bytes / 2 ** 20;
  return scaled.toFixed(scaled >= 100 ? 0 : scaled >= 10 ? 1 : 2);
}

/** A p value with spaces that do not break: `p < 0.001`, `p = 0.013`, or `p ≤ 0.004` if a test cannot give less. */
export function pValue({ p, isFloor }: { p: number; isFloor: boolean }): string {
  if (p < 0.001) return "p\u00a0<\u00a00.001";
  return `p\u00a0${isFloor ? "≤" : "="}\u00a0${p.toFixed(3)}`;
}

/** Seconds with three digits or so: `0.42`, `12.3`, `480`. */
export function seconds(value: number): string {
  return value.toFixed(decimals(value, 3, 2));
}

/** What a spread is of, in words. */
export const SPREAD_WORDS = {
  seeds: "sample sd over seeds",
  stderr: "standard error of one run",
  repeats: "sample sd over repeats",
  interval: "95 % intervals",
};
