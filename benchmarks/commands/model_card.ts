/** The card of an exported model: what it is, how it was made, and the record's numbers with their protocol.
 *
 * @module
 */
import type { StoredType } from "../../core/formats/quantize.ts";
import type { DoneRecord } from "../../core/schema/schema.ts";
import { BUDGET_WORDS } from "../../reports/budget.ts";
import { askedResults } from "../records/measured.ts";
import { baseName, capitalised, count, level, percent, withSpread } from "../../reports/format.ts";
import type { Family } from "../../models/families/family.ts";
import { type Column, type Measurement, measurements } from "../../reports/columns.ts";
import { settingsOf } from "../../reports/settings.ts";
import { tableLines } from "../../reports/markdown.ts";
import { definitions } from "./reports.ts";

/** Kinds of export. */
export const EXPORT_FORMATS = ["hf", "gguf"] as const;
/** A kind of export. */
export type ExportFormat = (typeof EXPORT_FORMATS)[number];

/** What a card is made of. */
export interface CardContent {
  record: DoneRecord;
  /** The dense model's record of the same run, for comparison. */
  dense?: DoneRecord;
  format: ExportFormat;
  family: Family;
  type: StoredType;
  /** Whether the stored weights are the measured ones, to the bit. */
  isExact: boolean;
  /** What else a user must know, a sentence each. */
  remarks: readonly string[];
  /** Parameters in the file, if layers were padded with zeros. */
  paddedParameters?: number;
}

/** A Markdown table; columns without a single value are left out. */
function table(head: string[], rows: string[][]): string[] {
  if (rows.length === 0) return [];
  const isUsed = head.map((_, column) => rows.some((row) => row[column] !== ""));
  const used = (cells: string[]) => cells.filter((_, column) => isUsed[column]);
  return tableLines(used(head), used(head).map(() => false), rows.map(used));
}

/** Title of an export, such as `SmolLM2-135M, flap 25 %`. */
export function exportTitle({ cell: { model, method, sparsity } }: DoneRecord): string {
  const name = baseName(model).replace(/\.gguf$/, "");
  return `${name}, ${method === null ? "dense" : `${method.id} ${level(sparsity)}`}`;
}

function madeSection({ record }: CardContent): string[] {
  const { cell, weights, calibrationData, environment: { commit }, size } = record;
  const target = `target ${level(cell.sparsity)} of the ${BUDGET_WORDS[cell.budget ?? "parameters"].long}`;
  const removed = `${percent(size.sparsityOfPrunable, 2)} % of the prunable parameters (${target})`;
  const facts = settingsOf({ cell, runs: [record] }).filter(({ name }) => !name.startsWith("examples"));
  return [
    "## How it was made",
    "",
    `- Weights: \`${baseName(weights.path)}\` (${weights.format}, ${weights.dtypes.join(", ")}, ` +
    `SHA-256 \`${weights.sha256}\`).`,
    ...cell.method === null || cell.checkpoint ? [] : [
      `- Method: \`${cell.method.id}\`, seed ${cell.seed}.`,
      `- Removed: ${removed}, ${percent(size.sparsityOfModel, 2)} % of all.`,
    ],
    ...cell.method === null ? [] : facts.map(({ name, text }) => `- ${capitalised(name)}: ${text}.`),
    ...calibrationData === null
      ? []
      : [`- Calibration data: \`${calibrationData.split}\` split, SHA-256 \`${calibrationData.sha256}\`.`],
    `- Made with MaskPrune Bench${commit === null ? "" : ` at commit ${commit}`}, cell \`${record.id}\`.`,
    "",
  ];
}

function sizeSection({ record: { size, denseSize }, paddedParameters }: CardContent): string[] {
  const hidden = size.hidden ? `, hidden size ${size.hidden.kept} of ${size.hidden.of}` : "";
  return [
    `${count(size.parameters)} of ${count(denseSize.parameters)} parameters, ` +
    `${size.layers.length} of ${denseSize.layers.length} layers${hidden}.`,
    "",
    ...paddedParameters === undefined ? [] : [
      "Layers of unequal width were padded to the widest with zeros: the outputs are the same, and the file holds " +
      `${count(paddedParameters)} parameters.`,
      "",
    ],
  ];
}

/** A value with its error, in percent where it is a part of 1. */
function valueText({ isFraction, kind }: Column, { value, stderr, repeats }: Measurement): string {
  const scale = isFraction ? 100 : 1;
  const spread = repeats?.sd ?? stderr;
  const digits = isFraction || kind === "throughput" ? 1 : 3;
  const { text, spread: error } = withSpread(scale * value, spread === null ? null : scale * spread, 9, digits);
  return error === null ? text : `${text} ± ${error}`;
}

/** Results that were measured again replace the earlier ones. */
const latest = (record: DoneRecord): DoneRecord => ({
  ...askedResults(record, record.cell),
  throughput: record.throughput,
});

function resultSection({ record, dense }: CardContent): string[] {
  const { environment: { engine, library, device } } = record;
  const { primaryMetrics } = definitions();
  const densely = new Map(
    (dense ? measurements(latest(dense), primaryMetrics) : []).map((one) => [one.column.key, one]),
  );
  const rows = measurements(latest(record), primaryMetrics).map((one) => {
    const { column } = one;
    const { name, metric, isFraction, chance, protocol } = column;
    const other = densely.get(column.key);
    return [
      `${name}, ${metric}${isFraction ? " %" : ""}`,
      chance === null ? "" : percent(chance),
      other ? valueText(column, other) : "",
      valueText(column, one),
      protocol,
    ];
  });
  if (rows.length === 0) return [];
  return [
    "## Results",
    "",
    `Measured by MaskPrune Bench with the engine ${engine} (${library}; ${device}), not with this file in another ` +
    "program. Values are shown ± their standard error, tokens/s ± their standard deviation.",
    "",
    ...table(["result", "chance", "dense", "value", "protocol"], rows),
  ];
}

/** Markdown of the card, with the metadata block of the Hugging Face hub. */
export function modelCard(content: CardContent): string {
  const { record, format, family: { id, title }, type, isExact, remarks } = content;
  const isPruned = record.cell.method !== null;
  return [
    "---",
    ...format === "hf" ? ["library_name: transformers"] : [],
    "pipeline_tag: text-generation",
    `tags: [${id}${isPruned ? ", pruned, structured-pruning" : ""}]`,
    "---",
    "",
    `# ${exportTitle(record)}`,
    "",
    `A model of the family ${title}${isPruned ? ", with whole units removed" : ""}.`,
    "",
    ...madeSection(content),
    ...sizeSection(content),
    ...resultSection(content),
    "## Use",
    "",
    [`Weights are stored as ${type}${isExact ? ", exactly as measured" : ""}`, ...remarks].map((one) => `${one}.`)
      .join(" "),
    "",
    format === "hf"
      ? '`AutoModelForCausalLM.from_pretrained("PATH")` of transformers loads the model.'
      : '`llama-cli -m FILE.gguf -p "Once upon a time" --temp 0` runs the model.',
    "The licence of the model that was pruned applies.",
    "",
  ].join("\n");
}
