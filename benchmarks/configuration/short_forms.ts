/** Shorthand that flags and YAML files share: `flap:structure=UL-UM`, `wikitext2:b:128`.
 *
 * @module
 */
import { UsageError } from "../../core/util/errors.ts";
import { isFileName } from "../../datasets/text_file.ts";

/** `a, b` -> its parts. */
export const list = (text: string): string[] =>
  text.split(",").map((part) => part.trim()).filter((part) => part !== "");
/** `text` as a number if it is one; the schema refuses other text. */
export const number = (text: string): unknown =>
  text.trim() !== "" && Number.isFinite(Number(text)) ? Number(text) : text;

/** `steps=200,corpus=c4` -> `{ steps: 200, corpus: "c4" }`. */
export function parseAssignments(text: string): unknown {
  return Object.fromEntries(
    list(text).map((part) => {
      const [, key, value = ""] = /^([^=]+)=(.*)$/.exec(part) ?? [];
      if (key === undefined) throw new UsageError(`"${part}" is not a setting: write KEY=VALUE,...`);
      return [key, number(value)];
    }),
  );
}

const PERPLEXITY_PARTS = ["corpus", "protocol", "windowTokens", "maxWindows"];

/** `wikitext2:b:128` -> an object; an empty part keeps its default (`wikitext2::512`). */
function parseColons(text: string, keys: string[]): unknown {
  // `file:PATH` is one part.
  const parts = text.split(/(?<!^file):/);
  if (parts.length > keys.length) {
    throw new UsageError(`"${text}" has ${parts.length} parts between colons: write at most ${keys.join(":")}`);
  }
  const entries = parts.map((part, i) => [keys[i], i === 0 ? part : number(part)]).filter(([, part]) => part !== "");
  return Object.fromEntries(entries);
}

/** `c4:64:128:distinct-rows` -> corpus, sequences, tokens, draw. */
export function parseCalibration(text: string): unknown {
  return parseColons(text, ["corpus", "sequences", "tokens", "draw"]);
}

/** `wikitext2/validation:b:128`: as {@linkcode parseColons}, with a split after a slash. */
export function parsePerplexity(text: string): unknown {
  const choice = parseColons(text, PERPLEXITY_PARTS) as { corpus?: string };
  if (isFileName(choice.corpus ?? "")) return choice;
  const [corpus, ...split] = (choice.corpus ?? "").split("/");
  return { ...choice, corpus, ...split.length > 0 ? { split: split.join("/") } : {} };
}

/** `mine=models/mine` -> label and model. */
export function parseCheckpoint(text: string): unknown {
  const [, label, model] = /^([^=]*)=(.+)$/.exec(text) ?? [];
  if (label === undefined) throw new UsageError(`"${text}" is not a checkpoint: write LABEL=PATH`);
  return { label, model };
}

/** `random,flap:structure=UL-UM,bias=true` -> methods with options: a part with `=` and no method before its `=`
 * belongs to the method before it. */
export function parseMethods(text: string): { id: string; options: Record<string, unknown> }[] {
  const methods: { id: string; options: Record<string, unknown> }[] = [];
  for (const part of list(text)) {
    const [, id, option] = /^([^:=]+)(?::(.*))?$/.exec(part) ?? [];
    if (id !== undefined) methods.push({ id, options: {} });
    const assignment = id === undefined ? part : option;
    if (!assignment) continue;
    const [, name, value = ""] = /^([^=:]+)=(.*)$/.exec(assignment) ?? [];
    if (name === undefined || methods.length === 0) {
      throw new UsageError(`"${part}" is not a method: write METHOD or METHOD:OPTION=VALUE,OPTION=VALUE`);
    }
    methods.at(-1)!.options[name] = /^(true|false|null)$/.test(value) ? JSON.parse(value) : number(value);
  }
  return methods;
}
