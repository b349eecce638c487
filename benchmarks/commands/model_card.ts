/** The card of an exported model: what it is, how it was made, and the record's numbers with their protocol.
 *
 * @module
 */
import { basename } from "node:path";
import { canonicalJson } from "../../core/schema/cell_names.ts";
import type { StoredType } from "../../core/formats/quantize.ts";
import type { DoneRecord, ModelSize, PerplexityResult, TaskResult } from "../../core/schema/schema.ts";
import { isFraction, taskIdentity } from "../../reports/measurements.ts";
import { settingsOf } from "../../reports/settings.ts";

/** What a card is made of. */
export interface CardContent {
  /** The cell's. */
  record: DoneRecord;
  /** The dense model's record of the same run, for comparison. */
  dense?: DoneRecord;
  /** Hugging Face folder or GGUF file. */
  format: "hf" | "gguf";
  /** Storage type of the weights. */
  type: StoredType;
  /** Whether the stored weights are those that were measured, to the bit. */
  isExact: boolean;
  /** Parameters in the file, when layers were filled up with zeros. */
  paddedParameters?: number;
  /** The configuration says Mistral, since transformers accepts no Llama with this number of heads. */
  isMistral?: boolean;
  /** Matrices stored as F16 because Q8_0 does not fit their rows. */
  fallbacks?: number;
}

/** A count with three digits or more: `45.1 k`, `134.5 M`, `6.74 G`. */
function compact(count: number): string {
  const power = [9, 6, 3].find((power) => count >= 10 ** power) ?? 0;
  const value = count / 10 ** power;
  return `${value.toFixed(power === 0 ? 0 : value < 10 ? 2 : 1)} ${{ 0: "", 3: "k", 6: "M", 9: "G" }[power]}`.trim();
}
const percent = (share: number, digits = 1) => `${(100 * share).toFixed(digits)} %`;

/** A Markdown table; columns without a single value are left out. */
function table(head: string[], rows: string[][]): string[] {
  if (rows.length === 0) return [];
  const isUsed = head.map((_, column) => rows.some((row) => row[column] !== ""));
  const line = (cells: string[]) => `| ${cells.filter((_, column) => isUsed[column]).join(" | ")} |`;
  return [line(head), line(head.map(() => "---")), ...rows.map(line), ""];
}

/** `a` for equal values, `a to b` for a range. */
function span(values: number[]): string {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  return low === high ? String(low) : `${low} to ${high}`;
}

/** A value with its error, in the precision that the error allows. */
function withError(value: number, error: number | null, digits: number): string {
  return error === null ? value.toFixed(digits) : `${value.toFixed(digits)} ± ${error.toFixed(digits)}`;
}

/** Name of the model that was pruned: the last part of its path. */
const baseName = ({ cell }: DoneRecord) => basename(cell.model).replace(/\.gguf$/, "");

/** Title of an export, such as `SmolLM2-135M, flap 25 %`. */
export function exportTitle(record: DoneRecord): string {
  const { method, sparsity } = record.cell;
  return `${baseName(record)}, ${method === null ? "dense" : `${method.id} ${Number((100 * sparsity).toFixed(4))} %`}`;
}

/** Settings that the section on how a model was made tells in their own words. */
const MADE_FACTS = ["recovery", "compensation", "training", "arithmetic"];

const madeFacts = (record: DoneRecord): string[] =>
  settingsOf({ cell: record.cell, runs: [record] }).filter(({ name }) => MADE_FACTS.includes(name))
    .map(({ name, text }) => `- ${name.charAt(0).toUpperCase()}${name.slice(1)}: ${text}.`);

function madeSection({ record }: CardContent): string[] {
  const { cell, weights, calibrationData, environment } = record;
  const lines = [
    "## How it was made",
    "",
    `- Weights: \`${basename(weights.path)}\` (${weights.format}, ${
      weights.dtypes.join(", ")
    }, SHA-256 \`${weights.sha256}\`).`,
  ];
  if (cell.method !== null) {
    const options = Object.entries(cell.method.options).filter(([, value]) => value !== null).map(([key, value]) =>
      `${key}=${JSON.stringify(value)}`
    );
    lines.push(
      `- Method: \`${cell.method.id}\`${options.length > 0 ? ` with ${options.join(", ")}` : ""}; seed ${cell.seed}; ` +
        `units that could go: ${cell.units.join(", ")}.`,
      `- Asked: ${percent(cell.sparsity)} of the prunable parameters removed. Realised: ` +
        `${percent(record.size.sparsityOfPrunable, 2)} of the prunable, ${
          percent(record.size.sparsityOfModel, 2)
        } of all.`,
      ...madeFacts(record),
    );
  }
  if (calibrationData !== null) {
    const { corpus, sequences, tokens } = cell.calibration;
    lines.push(
      `- Calibration: ${sequences} windows of ${tokens} tokens from ${corpus} (\`${calibrationData.split}\`, ` +
        `SHA-256 \`${calibrationData.sha256}\`).`,
    );
  }
  const { commit } = environment;
  lines.push(`- Made with MaskPrune Bench${commit === null ? "" : ` at commit ${commit}`}, cell \`${record.id}\`.`, "");
  return lines;
}

function sizeSection({ record, paddedParameters }: CardContent): string[] {
  const { size, denseSize } = record;
  const layers = (pick: (layer: ModelSize["layers"][number]) => number) => (model: ModelSize) =>
    span(model.layers.map(pick));
  const rows: [string, (model: ModelSize) => string][] = [
    ["parameters", ({ parameters }) => compact(parameters)],
    ["multiply-accumulates, 64 tokens", ({ macs64 }) => compact(macs64)],
    ["layers", (model) => String(model.layers.length)],
    ...size.hidden
      ? [["hidden size", (model) => String(size.hidden![model === size ? "kept" : "of"])] as typeof rows[number]]
      : [],
    ["key/value groups per layer", layers(({ kvGroups }) => kvGroups)],
    ["query heads per group", layers(({ queryHeadsPerGroup }) => queryHeadsPerGroup)],
    ["FFN channels per layer", layers(({ ffnChannels }) => ffnChannels)],
  ];
  return [
    "## Size",
    "",
    ...table(
      ["what", "dense", record.cell.method === null ? "" : "pruned"],
      rows.map(([name, value]) => [name, value(denseSize), record.cell.method === null ? "" : value(size)]),
    ),
    ...paddedParameters === undefined ? [] : [
      `The layers differ in width and were filled up to the widest with zeros: the file holds ${
        compact(paddedParameters)
      } parameters and computes the same outputs; it is no faster than its widest layer.`,
      "",
    ],
  ];
}

const sameText = (a: PerplexityResult, b: PerplexityResult) =>
  a.corpus === b.corpus && a.dataset.sha256 === b.dataset.sha256 && a.protocol === b.protocol &&
  a.windowTokens === b.windowTokens && a.windows === b.windows && a.bosPolicy === b.bosPolicy;
const sameTask = (a: TaskResult, b: TaskResult) => canonicalJson(taskIdentity(a)) === canonicalJson(taskIdentity(b));

function perplexityRows({ record, dense }: CardContent): string[][] {
  const shown = (result?: PerplexityResult) =>
    result === undefined ? "" : withError(result.perplexity, result.perplexityStderr, 3);
  return record.perplexity.map((result) => [
    result.corpus,
    result.dataset.split,
    `(${result.protocol})`,
    String(result.windowTokens),
    result.maxWindows === undefined ? String(result.windows) : `the first ${result.windows}`,
    result.bosPolicy,
    shown(dense?.perplexity.find((other) => sameText(result, other))),
    shown(result),
  ]);
}

function taskRows({ record, dense }: CardContent): string[][] {
  return record.tasks.flatMap((result) => {
    const other = dense?.tasks.find((other) => sameTask(result, other));
    const shown = (metric: string, { metrics }: TaskResult) => {
      const found = metrics[metric];
      if (found === undefined) return "";
      const { value, stderr } = found;
      if (!isFraction(metric)) return withError(value, stderr, 3);
      return withError(100 * value, stderr === null ? null : 100 * stderr, 1);
    };
    return Object.keys(result.metrics).map((metric) => [
      result.task,
      isFraction(metric) ? `${metric} %` : metric,
      String(result.numFewshot),
      `${result.samples.effective} of ${result.samples.original}`,
      metric.startsWith("acc") ? (100 * result.chance).toFixed(1) : "",
      other === undefined ? "" : shown(metric, other),
      shown(metric, result),
    ]);
  });
}

function throughputRows({ record, dense }: CardContent): string[][] {
  const shown = (result?: DoneRecord["throughput"][number]) =>
    result === undefined ? "" : withError(result.tokensPerS.mean, result.tokensPerS.sd, 1);
  return record.throughput.map((result) => [
    result.name,
    String(result.batch),
    String(result.samplesMs.length),
    shown(dense?.throughput.find(({ name, batch }) => name === result.name && batch === result.batch)),
    shown(result),
  ]);
}

function resultSection(content: CardContent): string[] {
  const { cell, environment } = content.record;
  const perplexity = table(
    ["corpus", "split", "protocol", "window", "windows", "BOS", "dense perplexity", "perplexity ± stderr"],
    perplexityRows(content),
  );
  const tasks = table(
    ["task", "metric", "shots", "examples", "chance", "dense", "value ± stderr"],
    taskRows(content),
  );
  const throughput = table(
    ["work", "batch", "repeats", "dense tokens/s", "tokens/s ± sd"],
    throughputRows(content),
  );
  if (perplexity.length + tasks.length + throughput.length === 0) return [];
  return [
    "## Results",
    "",
    `Measured by MaskPrune Bench in ${
      cell.arithmetic === "fast" ? "f32 with factors of products in TF32" : "f32"
    } with the engine ${environment.engine} (${environment.library}; ${environment.device}), ` +
    "not with this file in another engine.",
    "",
    ...perplexity,
    ...perplexity.length === 0 ? [] : [
      "Protocols: (a) mean of window means, SparseGPT and Wanda; (b) mean over tokens, LLM-Pruner; (c) whole documents per " +
      "word, lm-evaluation-harness.",
      "",
    ],
    ...tasks,
    ...throughput,
  ];
}

function useSection({ format, type, isExact, isMistral = false, fallbacks = 0 }: CardContent): string[] {
  const stored = isExact
    ? `Weights are stored as ${type}, which keeps the measured ones exactly.`
    : `Weights are stored as ${type}, equal to the measured ones but for rounding: expect small differences from the numbers above.`;
  const mixed = fallbacks > 0 ? ` ${fallbacks} matrices are F16 because their rows are not multiples of 32.` : "";
  const code = format === "hf"
    ? [
      "```python",
      "from transformers import AutoModelForCausalLM, AutoTokenizer",
      "",
      'model = AutoModelForCausalLM.from_pretrained("PATH")',
      'tokenizer = AutoTokenizer.from_pretrained("PATH")',
      "```",
    ]
    : ["```sh", 'llama-cli -m FILE.gguf -p "Once upon a time" --temp 0', "```"];
  const named = isMistral
    ? [
      "`config.json` says Mistral without a sliding window, which computes the same as Llama: transformers accepts a Llama " +
      "only if the number of its heads divides its width.",
      "",
    ]
    : [];
  return [
    "## Use",
    "",
    stored + mixed,
    "",
    ...named,
    ...code,
    "",
    "The licence of the model that was pruned applies.",
    "",
  ];
}

/** Kinds of export. */
export const EXPORT_FORMATS = ["hf", "gguf"] as const;
/** A kind of export. */
export type ExportFormat = (typeof EXPORT_FORMATS)[number];

/** Kinds of what is gone. */
function removedWords({ size, denseSize }: DoneRecord): string {
  const total = (model: ModelSize, pick: (layer: ModelSize["layers"][number]) => number) =>
    model.layers.reduce((sum, layer) => sum + pick(layer), 0) / model.layers.length;
  const isFewer = (pick: (layer: ModelSize["layers"][number]) => number) => total(size, pick) < total(denseSize, pick);
  const kinds = [
    ...isFewer(({ kvGroups, queryHeadsPerGroup }) => kvGroups * queryHeadsPerGroup) ? ["attention heads"] : [],
    ...isFewer(({ ffnChannels }) => ffnChannels) ? ["FFN channels"] : [],
    ...size.layers.length < denseSize.layers.length ? ["layers"] : [],
    ...size.hidden ? ["hidden dimensions"] : [],
  ];
  return kinds.length < 2 ? kinds.join("") : `${kinds.slice(0, -1).join(", ")} and ${kinds.at(-1)}`;
}

/** Markdown of the card, with the metadata block of the Hugging Face hub. */
export function modelCard(content: CardContent): string {
  const { record } = content;
  const isPruned = record.cell.method !== null;
  return [
    "---",
    ...content.format === "hf" ? ["library_name: transformers"] : [],
    "pipeline_tag: text-generation",
    `tags: [llama${isPruned ? ", pruned, structured-pruning" : ""}]`,
    "---",
    "",
    `# ${exportTitle(record)}`,
    "",
    isPruned && removedWords(record) !== ""
      ? `A LLaMA-family model with whole ${removedWords(record)} removed.`
      : "A LLaMA-family model, as measured.",
    "",
    ...madeSection(content),
    ...sizeSection(content),
    ...resultSection(content),
    ...useSection(content),
  ].join("\n");
}
