/** Values of templates in Python's notation.
 *
 * @module
 */
import { Environment, type Interpreter } from "@huggingface/jinja";
import { floatRepr } from "../../core/util/python_text.ts";

/** A value of the template library. */
export type RuntimeValue = ReturnType<Interpreter["evaluate"]>;

/** A JavaScript value as a value of the library. */
export function toRuntime(value: unknown): RuntimeValue {
  return new Environment().set("value", value);
}

/** Characters that `repr` escapes. */
const UNPRINTABLE = /[\p{C}\p{Z}]/gu;
const ESCAPES: Readonly<Record<string, string>> = { "\n": "\\n", "\r": "\\r", "\t": "\\t", " ": " " };

function escapeUnprintable(character: string): string {
  const known = ESCAPES[character];
  if (known !== undefined) return known;
  const code = character.codePointAt(0) ?? 0;
  const [mark, digits] = code < 0x100 ? ["x", 2] : code < 0x10000 ? ["u", 4] : ["U", 8];
  return `\\${mark}${code.toString(16).padStart(Number(digits), "0")}`;
}

function stringRepr(text: string): string {
  const quote = text.includes("'") && !text.includes('"') ? '"' : "'";
  const escaped = text.replaceAll("\\", "\\\\").replaceAll(quote, `\\${quote}`).replace(UNPRINTABLE, escapeUnprintable);
  return quote + escaped + quote;
}

/** `repr(value)` in Python.
 * @throws {RangeError} for values that no record holds, such as functions. */
function pythonRepr(value: RuntimeValue): string {
  switch (value.type) {
    case "StringValue":
      return stringRepr(String(value.value));
    case "IntegerValue":
      return String(value.value);
    case "FloatValue":
      return floatRepr(Number(value.value));
    case "BooleanValue":
      return value.value ? "True" : "False";
    case "NullValue":
      return "None";
  }
  if (Array.isArray(value.value)) return `[${value.value.map(pythonRepr).join(", ")}]`;
  if (value.value instanceof Map) {
    return `{${[...value.value].map(([key, item]) => `${stringRepr(key)}: ${pythonRepr(item)}`).join(", ")}}`;
  }
  throw new RangeError(`a template gives a value of type ${value.type}, which has no text`);
}

/** `str(value)` in Python. */
export function pythonText(value: RuntimeValue): string {
  return value.type === "StringValue" ? String(value.value) : pythonRepr(value);
}

/** The value as JSON. */
export function toJson(value: RuntimeValue): unknown {
  if (Array.isArray(value.value)) return value.value.map(toJson);
  if (value.value instanceof Map) {
    return Object.fromEntries([...value.value].map(([key, item]) => [key, toJson(item)]));
  }
  return value.value ?? null;
}

/** Equality in Python: by value, at any depth; `True` is 1. */
export function pythonEqual(a: RuntimeValue, b: RuntimeValue): boolean {
  const plain = ({ value }: RuntimeValue) => typeof value === "boolean" ? Number(value) : value;
  const [x, y] = [plain(a), plain(b)];
  if (Array.isArray(x) && Array.isArray(y)) {
    return x.length === y.length && x.every((item, i) => y[i] !== undefined && pythonEqual(item, y[i]));
  }
  if (x instanceof Map && y instanceof Map) {
    return x.size === y.size && [...x].every(([key, item]) => {
      const other = y.get(key);
      return other !== undefined && pythonEqual(item, other);
    });
  }
  return x === y;
}
