/** A cell's model as a Hugging Face folder or a GGUF file.
 *
 * @module
 */
import { dirname } from "node:path";
import { startEngine } from "../../core/engine/engine.ts";
import { UsageError } from "../../core/util/errors.ts";
import { at } from "../../core/util/indexing.ts";
import type { GgufEntry } from "../../core/formats/gguf_write.ts";
import type { StoredType } from "../../core/formats/quantize.ts";
import { FLOAT_DTYPES, type FloatDtype } from "../../core/formats/safetensors.ts";
import type { DoneRecord } from "../../core/schema/schema.ts";
import type { TokenizerDefinition } from "../../core/formats/tokenizer.ts";
import { ggufTokenizerMetadata } from "../../core/formats/tokenizer_gguf_write.ts";
import { isLayerwiseUniform, memorySource, type WeightSource } from "../../models/config.ts";
import { queryHeads } from "../../models/units.ts";
import { modelSize, totalParameters } from "../../models/count.ts";
import { differingWidths, exportHfFolder } from "../../models/export.ts";
import { exportGguf, f16Fallbacks } from "../../models/export_gguf.ts";
import { paddedSource, prunedSource } from "../../models/export_source.ts";
import { familyOf, hfFamilyOf } from "../../models/families/mod.ts";
import { disposeModel, uploadModel } from "../../models/device.ts";
import { openModel } from "../../models/load.ts";
import { hostTensors } from "../../models/surgery.ts";
import { checkSource, keptModel, openCheckpoint } from "../cells/rebuild.ts";
import { isSystemError, kindOfPath } from "../../core/util/paths.ts";
import { cellName } from "../../core/schema/cell_names.ts";
import { type ExportFormat, exportTitle, modelCard } from "./model_card.ts";
import { storedPath } from "../records/run_file.ts";
import { openStoredWeights } from "../records/kept_weights.ts";
import { companionFiles } from "../pipeline/load.ts";

/** What to export, and how. */
export interface ExportOptions {
  record: DoneRecord;
  out: string;
  dense?: DoneRecord;
  format: ExportFormat;
  to: string;
  type?: StoredType;
  pad?: boolean;
  /** Path of the dense model, if it moved since the run. */
  model?: string;
}

/** Weights of the cell: stored ones, the dense ones without the removed units, or ones that the record's engine
 * rebuilds.
 * @throws {UsageError} when the run kept nothing of changed weights, or the dense model changed.
 * @throws {EngineError} when that engine does not start.
 * @throws {FileFormatError} when kept files are not the record's. */
async function cellSource(record: DoneRecord, source: WeightSource, out: string): Promise<WeightSource> {
  checkSource(record, source);
  const { storedWeights, rebuild, plan, cell, environment } = record;
  if (cell.method === null) return source;
  if (cell.checkpoint) return await openCheckpoint(out, cell.checkpoint);
  if (storedWeights) return openStoredWeights(out, { ...record, storedWeights }, source);
  if (rebuild) {
    await startEngine(environment.engine, { arithmetic: cell.arithmetic });
    return await rebuiltSource(out, record, source);
  }
  const pruned = prunedSource(source, plan);
  const { parameters } = modelSize(pruned.config, source.config);
  if (!record.changedWeights && parameters === record.size.parameters) return pruned;
  throw new UsageError(
    `Cell "${cellName(record)}" has changed weights that the run did not store: ` +
      "`bench eval DIR --keep-weights` rebuilds and stores them",
  );
}

/** The cell's tensors in host memory, rebuilt from what the run kept. */
async function rebuiltSource(out: string, record: DoneRecord, source: WeightSource): Promise<WeightSource> {
  const dense = await uploadModel(source, record.cell.weights);
  const model = await keptModel(out, record, { dense, source });
  const tensors = await hostTensors(model);
  const { config } = model;
  for (const each of [model, dense]) disposeModel(each);
  return { ...memorySource(config, tensors), origin: { ...source.origin, dtypes: ["F32"] } };
}

/** The half precision that holds a record's weights exactly. */
function halfType({ cell, weights, storedWeights, rebuild }: DoneRecord, format: ExportFormat): StoredType | undefined {
  if (cell.checkpoint ?? storedWeights ?? rebuild) return undefined;
  // GGUF keeps norms and biases in F32 whatever the matrices are.
  const types = format === "gguf" ? weights.dtypes.filter((type) => type !== "F32") : weights.dtypes;
  return types.length === 1 && (types[0] === "F16" || types[0] === "BF16") ? types[0] : undefined;
}

/** The smallest storage type that keeps the measured weights: the original's F16 or BF16, else F32. */
export function defaultType(record: DoneRecord, format: ExportFormat): StoredType {
  return halfType(record, format) ?? "F32";
}

/** Where the dense model lies. */
const densePath = ({ model, out, record }: ExportOptions): string => model ?? storedPath(out, record.cell.model);

/** The tokenizer's definition with the chat template, which newer folders keep in a file. */
function withTemplate(definition: TokenizerDefinition, files: Record<string, Uint8Array>): TokenizerDefinition {
  const template = files["chat_template.jinja"];
  if (template === undefined || "chat_template" in definition.config) return definition;
  return { ...definition, config: { ...definition.config, chat_template: new TextDecoder().decode(template) } };
}

function uniform(source: WeightSource, { record, pad = false }: ExportOptions): WeightSource {
  if (isLayerwiseUniform(source.config)) return source;
  const padded = paddedSource(source);
  if (pad) return padded;
  const [own, filled] = [source, padded].map(({ config }) => (totalParameters(config) / 1e6).toFixed(1));
  throw new UsageError(
    `Cannot export "${cellName(record)}": its layers have unequal widths (${differingWidths(source.config)}), which ` +
      "config.json and llama.cpp do not allow. Give --pad to fill them with zeros (same outputs, " +
      `${filled} M parameters instead of ${own} M), or use a method with equal widths (\`bench ls methods\`)`,
  );
}

/** Exports a cell's model, whole or not at all. Unless weights are rebuilt, no
 * engine is needed and one tensor is held at a time.
 * @returns remarks for the user, a sentence each
 * @throws {UsageError} when the cell's weights were not kept, the model has changed, its layers are unequal, the
 *   tokenizer or the storage type do not fit the format, or the path is taken or cannot be written. */
export async function exportCell(options: ExportOptions): Promise<string[]> {
  const { record, out, dense, format, to, type = defaultType(record, format) } = options;
  const opened = await openModel(densePath(options));
  let measured: WeightSource | undefined;
  try {
    if (kindOfPath(to) !== null) throw new UsageError(`"${to}" exists: remove it or choose another --to`);
    measured = await cellSource(record, opened.source, out);
    const source = uniform(measured, options);
    const padded = source !== measured;
    const isRounded = type !== "F32" && type !== halfType(record, format);
    const remarks = [
      ...isRounded ? [`The weights are rounded to ${type}, after the run measured its numbers`] : [],
      ...formatRemarks(source, format, type),
    ];
    const card = modelCard({
      ...{ record, dense, format, type, remarks },
      family: familyOf(source.config),
      isExact: !isRounded,
      ...padded && { paddedParameters: totalParameters(source.config) },
    });
    Deno.mkdirSync(dirname(to), { recursive: true });
    const companions = companionFiles(densePath(options));
    const { tokenizer, tokenizerDefinition } = opened;
    if (format === "hf") {
      const own = { "README.md": card, "maskprune.json": JSON.stringify({ format, type, padded, record }) };
      const files = { ...companions, ...own };
      exportHfFolder(source, { to, dtype: asFloat(type), tokenizer: tokenizerDefinition, files });
    } else {
      const definition = withTemplate(tokenizerDefinition, companions);
      exportGguf(source, {
        ...{ to, type, tokenizer: ggufTokenizerMetadata(definition, tokenizer, source.config.vocabSize) },
        metadata: new Map<string, GgufEntry>([
          ["general.name", { text: exportTitle(record) }],
          ["maskprune.cell", { text: record.id }],
          ["maskprune.card", { text: card }],
        ]),
      });
    }
    return remarks;
  } catch (error) {
    if (!isSystemError(error)) throw error;
    throw new UsageError(`"${to}" cannot be written: ${error.message}`);
  } finally {
    if (record.storedWeights ?? record.cell.checkpoint) measured?.close();
    opened.source.close();
  }
}

/** What a format changes in a model, a sentence each. */
function formatRemarks({ config }: WeightSource, format: ExportFormat, type: StoredType): string[] {
  if (format === "hf") {
    if (hfFamilyOf(config).reason === undefined) return [];
    const heads = queryHeads(at(config.layers, 0));
    return [
      "config.json says Mistral without a sliding window, which computes the same: transformers accepts a Llama only " +
      `if its heads (${heads}) divide its width (${config.width})`,
    ];
  }
  const fallbacks = f16Fallbacks(config, type).length;
  if (fallbacks === 0) return [];
  return [
    `${fallbacks} matrices are stored as F16: their rows are not multiples of Q8_0's 32 values. A run with ` +
    "--ffn-multiple 32 avoids that",
  ];
}

function asFloat(type: StoredType): FloatDtype {
  const found = FLOAT_DTYPES.find((dtype) => dtype === type);
  if (!found) throw new UsageError(`--dtype ${type.toLowerCase()} is for --format gguf: hf takes f32, f16 and bf16`);
  return found;
}
