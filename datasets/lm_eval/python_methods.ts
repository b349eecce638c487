/** String methods and filters of templates, if the library's differ from Python's.
 *
 * @module
 */
import { capitalize, codePointLength, PYTHON_SPACE, strip, stripEnd, stripStart } from "../../core/util/python_text.ts";
import { pythonText, type RuntimeValue } from "./python_values.ts";

/** Characters of a text; JavaScript counts some twice. */
export const codePoints = (text: string): string[] => [...text];

function textArgument(name: string, value: RuntimeValue | undefined): string {
  if (value?.type === "StringValue") return String(value.value);
  throw new RangeError(`${name}() needs a text`);
}

/** `strip`, `lstrip` or `rstrip` with the characters to remove. */
function stripCharacters(text: string, characters: string, start: boolean, end: boolean): string {
  const set = new Set(codePoints(characters));
  const own = codePoints(text);
  let [from, to] = [0, own.length];
  while (start && from < to && set.has(own[from] ?? "")) from++;
  while (end && to > from && set.has(own[to - 1] ?? "")) to--;
  return own.slice(from, to).join("");
}

type Method = (text: string, args: readonly RuntimeValue[]) => unknown;

const stripper =
  (name: string, plain: (text: string) => string, start: boolean, end: boolean): Method => (text, args) => {
    const [characters] = args;
    if (characters === undefined || characters.type === "NullValue") return plain(text);
    return stripCharacters(text, textArgument(name, characters), start, end);
  };

const SPACES = new RegExp(`[${PYTHON_SPACE}]+`);

/** `split` with Python's white space; with a separator, at most `most` times. */
const split: Method = (text, [separator, most]) => {
  const limit = most === undefined ? Infinity : Number(most.value);
  if (separator === undefined || separator.type === "NullValue") {
    if (most !== undefined) throw new RangeError("split() with a limit needs a separator here");
    const stripped = strip(text);
    return stripped === "" ? [] : stripped.split(SPACES);
  }
  const mark = textArgument("split", separator);
  if (mark === "") throw new RangeError("split() needs a separator that is not empty");
  const parts = text.split(mark);
  if (!(limit >= 0) || parts.length - 1 <= limit) return parts;
  return [...parts.slice(0, limit), parts.slice(limit).join(mark)];
};

const place = (text: string, part: string): number => {
  const at = text.indexOf(part);
  return at < 0 ? -1 : codePointLength(text.slice(0, at));
};

/** Methods of strings by name. */
export const STRING_METHODS: Readonly<Record<string, Method | undefined>> = {
  __proto__: null as never,
  strip: stripper("strip", strip, true, true),
  lstrip: stripper("lstrip", stripStart, true, false),
  rstrip: stripper("rstrip", stripEnd, false, true),
  split,
  capitalize: (text) => capitalize(text),
  join: (text, [items]) => {
    if (!Array.isArray(items?.value)) throw new RangeError("join() needs a list");
    return items.value.map((item: RuntimeValue) => textArgument("join", item)).join(text);
  },
  find: (text, [part]) => place(text, textArgument("find", part)),
  index: (text, [part]) => {
    const at = place(text, textArgument("index", part));
    if (at < 0) throw new RangeError(`index(): ${JSON.stringify(textArgument("index", part))} is not in the text`);
    return at;
  },
  count: (text, [part]) => text.split(textArgument("count", part)).length - 1,
};

type Filter = (value: RuntimeValue, args: readonly RuntimeValue[]) => unknown;

const ofText = (apply: (text: string) => unknown): Filter => (value) =>
  value.type === "StringValue" ? apply(String(value.value)) : undefined;

/** Filters by name; for undefined results the library's own filter is used. */
export const FILTERS: Readonly<Record<string, Filter | undefined>> = {
  __proto__: null as never,
  string: pythonText,
  trim: (value, args) => args.length === 0 ? ofText(strip)(value, args) : undefined,
  capitalize: ofText(capitalize),
  length: ofText(codePointLength),
  list: ofText(codePoints),
  join: (value, [separator]) => {
    if (!Array.isArray(value.value)) return undefined;
    const mark = separator === undefined ? "" : textArgument("join", separator);
    return value.value.map((item: RuntimeValue) => pythonText(item)).join(mark);
  },
};
