/** Models on the device: loaded, written to a folder, freed.
 *
 * @module
 */
import { join } from "node:path";
import { currentEngine, type EngineOptions, startBestEngine, startEngine } from "../../core/engine/engine.ts";
import type { KnownHash } from "../../core/formats/ranged_file.ts";
import type { FloatDtype } from "../../core/formats/safetensors.ts";
import type { Tokenizer, TokenizerDefinition } from "../../core/formats/tokenizer.ts";
import type { EngineName } from "../../core/schema/schema.ts";
import { UsageError } from "../../core/util/errors.ts";
import { kindOfPath } from "../../core/util/paths.ts";
import { memorySource, type WeightSource } from "../../models/config.ts";
import { type DecoderModel, disposeModel, uploadModel, usualForm, type WeightForm } from "../../models/device.ts";
import { exportHfFolder } from "../../models/export.ts";
import { paddedSource } from "../../models/export_source.ts";
import { openLayerwise } from "../../models/layerwise.ts";
import { openModel } from "../../models/load.ts";
import { hostTensors } from "../../models/surgery.ts";

/** A model on the device with its tokenizer. Free it with {@linkcode free}. */
export interface LoadedModel {
  /** Weights on the device. */
  model: DecoderModel;
  /** Text to ids and back. */
  tokenizer: Tokenizer;
  /** What the tokenizer was made of. */
  tokenizerDefinition: TokenizerDefinition;
  /** The checkpoint: its origin and dense shape. It is closed unless layers are read one at a time. */
  source: WeightSource;
}

/** Where and how a model is computed, as the command line's `--engine`, `--device`, `--arithmetic` and `--weights`. */
export interface LoadOptions extends EngineOptions {
  /** The fastest that starts with this device and arithmetic by default. */
  engine?: EngineName;
  /** As stored by default where the checkpoint has 16-bit numbers and the engine holds them, else f32. */
  weights?: WeightForm;
  /** Checksum of the checkpoint that was computed before. */
  hash?: KnownHash;
  /** Whether one layer at a time is on the device while the model is pruned. */
  layerwise?: boolean;
}

/** Starts an engine and loads a model.
 * @param path a Hugging Face folder, a `.gguf` file, or `tiny`
 * @throws {UsageError} when there is no such model, or it is not supported.
 * @throws {EngineError} when the engine does not start, or has no such device or arithmetic. */
export async function load(
  path: string,
  { engine, weights, hash, layerwise = false, ...options }: LoadOptions = {},
): Promise<LoadedModel> {
  if (engine === undefined) await startBestEngine(options);
  else await startEngine(engine, options);
  const { source, tokenizer, tokenizerDefinition } = await openModel(path, hash);
  const form = weights ?? usualForm(source, currentEngine());
  try {
    const model = await (layerwise ? openLayerwise : uploadModel)(source, form);
    if (!layerwise) source.close();
    return { model, tokenizer, tokenizerDefinition, source };
  } catch (error) {
    source.close();
    throw error;
  }
}

/** Files of a model folder that go with every copy of the model: settings, chat template, licences. */
const COMPANION =
  /^(generation_config\.json|special_tokens_map\.json|chat_template\.jinja|tokenizer\.model|(LICEN[CS]E|NOTICE|USE_POLICY)(\..*)?)$/i;

/** The companions in the model's folder; none of a GGUF file or the bundled model. */
export function companionFiles(path: string): Record<string, Uint8Array> {
  if (kindOfPath(path) !== "folder") return {};
  const names = [...Deno.readDirSync(path)].filter(({ name, isDirectory }) => !isDirectory && COMPANION.test(name));
  return Object.fromEntries(names.map(({ name }) => [name, Deno.readFileSync(join(path, name))]));
}

/** Writes a model as a folder that transformers and this program load; the folder around it must exist. All weights are
 * in host memory at once.
 * @throws {UsageError} when `to` is there and no empty folder, or layers have unequal widths without `pad`, which
 * fills them up with zeros. */
export async function save(
  { model, tokenizerDefinition, source: dense }: Pick<LoadedModel, "model" | "tokenizerDefinition" | "source">,
  to: string,
  { dtype = "F32", pad = false }: { dtype?: FloatDtype; pad?: boolean } = {},
): Promise<void> {
  const kind = kindOfPath(to);
  if (kind !== null && (kind !== "folder" || !Deno.readDirSync(to).next().done)) {
    throw new UsageError(`"${to}" exists and is not an empty folder: remove it or choose another`);
  }
  const source = memorySource(model.config, await hostTensors(model));
  const files = companionFiles(dense.origin.path);
  exportHfFolder(pad ? paddedSource(source) : source, { to, dtype, tokenizer: tokenizerDefinition, files });
}

/** Frees a model's memory on the device. */
export function free({ model, source }: LoadedModel): void {
  disposeModel(model);
  if (model.readLayer) source.close();
}
