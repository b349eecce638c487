/** From records to prompts, as in lm-evaluation-harness 0.4.13 (`api/task.py`).
 *
 * @module
 */
import { at } from "../../core/util/indexing.ts";
import type { Choice, Example } from "../define.ts";
import { drawFewshot } from "../fewshot.ts";
import type { TaskConfig } from "./config.ts";
import { parseLiteral, parseTemplate, type Rendered } from "./jinja.ts";
import { pythonText, toRuntime } from "./python_values.ts";

/** A record of a data set. */
export type DataRow = Readonly<Record<string, unknown>>;

interface Formats {
  text(record: DataRow): unknown;
  target(record: DataRow): unknown;
  /** Undefined if the task has none. */
  choices?(record: DataRow): string[];
}

/** A field's name or a template. */
function reader(source: string, fields: ReadonlySet<string>): (record: DataRow) => Rendered & { isField: boolean } {
  if (fields.has(source)) return (record) => ({ text: "", value: record[source] ?? null, isField: true });
  const render = parseTemplate(source);
  return (record) => ({ ...render(record), isField: false });
}

/** A text, the index of a choice, or, if `mayBeList` as in `doc_to_target`, a list of either. */
function valueFormat(
  source: TaskConfig["doc_to_target"],
  fields: ReadonlySet<string>,
  { hasChoices, mayBeList }: { hasChoices: boolean; mayBeList: boolean },
): (record: DataRow) => unknown {
  if (typeof source !== "string") return () => source ?? "";
  const read = reader(source, fields);
  return (record) => {
    const { text, value, isField } = read(record);
    if (isField) return value;
    if (hasChoices && /^[0-9]+$/.test(text)) return Number(text);
    if (!mayBeList || !/^\[.*\]$/s.test(text)) return text;
    if (value !== undefined) return value;
    try {
      return parseLiteral(text);
    } catch {
      return text;
    }
  };
}

function choiceFormat(
  source: NonNullable<TaskConfig["doc_to_choice"]>,
  fields: ReadonlySet<string>,
): (record: DataRow) => string[] {
  const checked = (choices: unknown): string[] => {
    if (Array.isArray(choices) && choices.length > 0 && choices.every((one) => typeof one === "string" && one !== "")) {
      return choices;
    }
    throw new RangeError(`doc_to_choice must give a list of texts: current ${JSON.stringify(choices)?.slice(0, 80)}`);
  };
  if (typeof source !== "string") return () => checked(Array.isArray(source) ? source : Object.values(source));
  const read = reader(source, fields);
  return (record) => {
    const { text, value, isField } = read(record);
    return checked(isField || value !== undefined ? value : parseLiteral(text));
  };
}

function formatsOf(
  config: Pick<TaskConfig, "doc_to_text" | "doc_to_target" | "doc_to_choice">,
  fields: ReadonlySet<string>,
  hasChoices: boolean,
): Formats {
  const { doc_to_text: text, doc_to_target: target, doc_to_choice: choice } = config;
  return {
    text: valueFormat(text, fields, { hasChoices, mayBeList: false }),
    target: valueFormat(target, fields, { hasChoices, mayBeList: true }),
    ...choice !== undefined && choice !== null && { choices: choiceFormat(choice, fields) },
  };
}

/** Index of the right answer; −1 if it is not among the choices. */
function goldIndex(gold: unknown, choices: readonly string[]): number {
  if (typeof gold === "string") return choices.indexOf(gold);
  const index = Number(gold);
  if (!Number.isInteger(index) || gold === null) {
    throw new RangeError(`doc_to_target must give the index of a choice or its text: current ${JSON.stringify(gold)}`);
  }
  return index >= 0 && index < choices.length ? index : -1;
}

function expectText(value: unknown, key: string): string {
  if (typeof value === "string") return value;
  throw new RangeError(`${key} must give a text: current ${JSON.stringify(value)?.slice(0, 80)}`);
}

/** A record with its answer, as a solved example of the prompt. `isInput`: the choices are contexts. */
function solved(
  record: DataRow,
  { text, target, choices }: Formats,
  { isInput, target_delimiter: between, fewshot_delimiter: after }:
    & Pick<TaskConfig, "target_delimiter" | "fewshot_delimiter">
    & { isInput: boolean },
): string {
  const own = choices?.(record);
  const asked = text(record);
  const question = isInput ? at(own ?? [], Number(asked)) : expectText(asked, "doc_to_text");
  const answer = target(record);
  if (answer === null || answer === "") return question;
  const isIndex = typeof answer === "number" || typeof answer === "boolean";
  const shown = own && !isInput && isIndex ? at(own, Number(answer)) : Array.isArray(answer) ? answer[0] : answer;
  return question + between + expectText(shown, "doc_to_target") + after;
}

function multipleChoice(
  record: DataRow,
  { text, target, choices }: Formats,
  delimiter: string,
  isInput: boolean,
): Example {
  const own = choices?.(record) ?? [];
  const [asked, answer] = [text(record), target(record)];
  const gold = isInput ? asked : answer;
  const golds = (Array.isArray(gold) ? gold : [gold]).map((one) => goldIndex(one, own));
  const answerText = pythonText(toRuntime(answer));
  return {
    choices: own.map((choice): Choice =>
      isInput
        ? { context: choice, continuation: delimiter + answerText, text: choice }
        : { context: expectText(asked, "doc_to_text"), continuation: delimiter + choice, text: choice }
    ),
    gold: golds[0] ?? -1,
    ...golds.length > 1 && { golds },
    target: answerText,
  };
}

/** The examples of a task, in the order of `records`, with `count` solved ones of `pool` before each.
 * @throws {RangeError} with the record's number when a template or a value does not fit, and when no record has an
 *   answer among its choices.
 * @throws {UsageError} when the pool is too small. */
export function buildExamples(
  config: TaskConfig,
  records: readonly DataRow[],
  { pool, count }: { pool: readonly DataRow[]; count: number },
): Example[] {
  const type = config.output_type;
  const fields = new Set(Object.keys(records[0] ?? {}));
  const hasChoices = config.doc_to_choice !== undefined && config.doc_to_choice !== null;
  const formats = formatsOf(config, fields, hasChoices);
  const own = Object.fromEntries(Object.entries(config.fewshot_config ?? {}).filter(([, value]) => value !== null));
  const shown = { ...config, ...own };
  const shotFormats = formatsOf(shown, fields, hasChoices);
  const isInput = hasChoices && records[0] !== undefined && typeof formats.text(records[0]) === "number";
  const describe = config.description ? reader(config.description, fields) : undefined;
  const draws = count === 0 || type === "loglikelihood_rolling" ? [] : drawFewshot(records, pool, {
    count,
    excludes: fewshotSplit(config) === (config.test_split ?? null),
    sampler: config.fewshot_config?.sampler ?? "default",
  });
  const examples = records.map((record, i): Example => {
    try {
      if (type === "loglikelihood_rolling") {
        const text = expectText(formats.target(record), "doc_to_target");
        return { choices: [{ context: "", continuation: text, text }], gold: 0, target: text };
      }
      const described = describe?.(record);
      const description = described?.isField ? expectText(described.value, "description") : described?.text ?? "";
      const shots = (draws[i] ?? []).map((index) => solved(at(pool, index), shotFormats, { ...shown, isInput }));
      const prefix = description + shots.join("");
      if (type === "multiple_choice") {
        return { prefix, ...multipleChoice(record, formats, config.target_delimiter, isInput) };
      }
      const [context, continuation] = [
        expectText(formats.text(record), "doc_to_text"),
        expectText(formats.target(record), "doc_to_target"),
      ];
      return { prefix, choices: [{ context, continuation, text: continuation }], gold: 0, target: continuation };
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      throw new RangeError(`record ${i + 1}: ${error.message}`);
    }
  });
  const [first] = examples;
  if (first && examples.every(({ gold, golds = [gold] }) => golds.every((one) => one < 0))) {
    throw new RangeError(
      `no record's answer is one of its choices: of the first, doc_to_target gives ${JSON.stringify(first.target)}`,
    );
  }
  return examples;
}

/** The configured split of solved examples; null if there is none. */
export function fewshotSplit({ fewshot_config: own, fewshot_split: split }: TaskConfig): string | null {
  return own && own.split !== undefined ? own.split ?? null : split ?? null;
}
