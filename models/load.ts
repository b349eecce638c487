/** Opens a model: a Hugging Face folder, a GGUF file, or the bundled tiny model.
 *
 * @module
 */
import { lookUp } from "../core/util/indexing.ts";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { FileFormatError, UsageError } from "../core/util/errors.ts";
import { kindOfPath } from "../core/util/paths.ts";
import { closingOnError, type KnownHash, readJsonObject, sha256OfFiles } from "../core/formats/ranged_file.ts";
import { FLOAT_DTYPES, openSafetensorsFolder } from "../core/formats/safetensors.ts";
import {
  createTokenizer,
  readTokenizerDefinition,
  type Tokenizer,
  type TokenizerDefinition,
} from "../core/formats/tokenizer.ts";
import { ggufTokenizerDefinition } from "../core/formats/tokenizer_gguf.ts";
import { checkTensors } from "./check_tensors.ts";
import { type DecoderConfig, expectedTensors, tensorNames, type WeightSource } from "./config.ts";
import { hfTensors } from "./families/hf_tensors.ts";
import { familyOf } from "./families/mod.ts";
import { fromHfConfig } from "./hf_config.ts";
import { openGgufModel } from "./load_gguf.ts";

/** An open model. */
export interface OpenedModel {
  /** Weights, read tensor by tensor. The caller closes it. */
  source: WeightSource;
  /** Text to ids and back; every id is below the model's vocabulary size. */
  tokenizer: Tokenizer;
  /** The tokenizer's definition, for writing it to another folder. */
  tokenizerDefinition: TokenizerDefinition;
}

/** Opens the weights of a Hugging Face folder: `config.json` and safetensors, sharded or not. The checksum covers
 * `config.json` and then the safetensors files in name order.
 *
 * @param folder with the files
 * @param path the user's name for it, for records
 * @param known checksum that was computed before
 * @throws {UsageError} when the folder lacks a file, or the model is not a supported one.
 * @throws {FileFormatError} when a file is damaged, or the tensors do not fit the configuration. */
export function openFolderModel(folder: string, path: string = folder, known?: KnownHash): WeightSource {
  const configPath = join(folder, "config.json");
  if (kindOfPath(configPath) === null) {
    throw new UsageError(`${folder}: has no config.json, so it is not a model folder`);
  }
  const config = readShape(folder);
  const tensors = hfTensors(familyOf(config), config);
  const checkpoint = openSafetensorsFolder(folder);
  return closingOnError(checkpoint, () => {
    checkTensors(config, {
      path: folder,
      tensors: checkpoint.tensors,
      storedName: tensors.stored,
      // Old checkpoints contain the rotary frequencies, and tied ones may contain the head again.
      isHarmless: (name) => name.endsWith(".rotary_emb.inv_freq") || config.tiedHead && name === tensorNames.head,
    });
    const dtypes = new Set<string>();
    for (const name of expectedTensors(config).keys()) {
      const { dtype } = lookUp(checkpoint.tensors, tensors.stored(name));
      if (!(FLOAT_DTYPES as readonly string[]).includes(dtype)) {
        throw new FileFormatError(folder, `tensor "${name}" is ${dtype}: must be one of ${FLOAT_DTYPES.join(", ")}`);
      }
      dtypes.add(dtype);
    }
    let sha256: string | undefined;
    return {
      config,
      origin: {
        path,
        format: "safetensors",
        dtypes: [...dtypes].sort(),
        sizeBytes: checkpoint.sizeBytes,
        get sha256() {
          return sha256 ??= sha256OfFiles([configPath, ...checkpoint.paths], known);
        },
      },
      read: (name) => {
        const stored = tensors.stored(name);
        if (!checkpoint.tensors.has(stored)) throw new UsageError(`${folder}: has no tensor "${stored}"`);
        return tensors.read(name, checkpoint.read(stored));
      },
      close: () => checkpoint.close(),
    };
  });
}

/** The configuration in a folder's `config.json`; weights are not needed.
 * @throws {UsageError} when the model is not supported.
 * @throws {FileFormatError} when the file is damaged. */
export function readShape(folder: string): DecoderConfig {
  const path = join(folder, "config.json");
  return fromHfConfig(readJsonObject(path), path);
}

/** Whether a model folder has `config.json` and no weights. */
export function isShapeOnly(path: string): boolean {
  if (path === "tiny" || kindOfPath(path) !== "folder" || kindOfPath(join(path, "config.json")) === null) return false;
  return ![...Deno.readDirSync(path)].some(({ name }) => name.endsWith(".safetensors"));
}

/** Opens a model and its tokenizer. Headers are checked completely. Weights are read on demand, and the checksum
 * (`source.origin.sha256`) is computed on its first use.
 *
 * @param path a Hugging Face folder, a `.gguf` file, or `tiny` for the bundled model
 * @param known checksum that was computed before
 * @throws {UsageError} when there is no such model, or it has an unsupported feature, with its name.
 * @throws {FileFormatError} when a file is damaged or contradicts itself. */
export function openModel(path: string, known?: KnownHash): Promise<OpenedModel> {
  return Promise.try(() => {
    const isTiny = path === "tiny";
    const place = isTiny ? fileURLToPath(new URL("./tiny", import.meta.url)) : path;
    const kind = kindOfPath(place);
    if (kind === null) {
      throw new UsageError(
        isTiny
          ? "The bundled model is missing: check out the folder models/tiny of the repository"
          : `${path}: there is no such model; must be "tiny", a .gguf file or a folder, as \`hf download\` writes it`,
      );
    }
    if (kind !== "folder" && path.endsWith(".safetensors")) {
      throw new UsageError(`${path}: a model is a folder with config.json and tokenizer.json: use the folder's path`);
    }
    const { source, file } = kind === "folder"
      ? { source: openFolderModel(place, path, known), file: null }
      : openGgufModel(path, known);
    return closingOnError(source, () => {
      const tokenizerDefinition = file ? ggufTokenizerDefinition(file) : readTokenizerDefinition(place);
      const { needsBos: opensWindows, ...ids } = source.config;
      const definedIn = file ? path : join(place, "tokenizer.json");
      return {
        source,
        tokenizer: createTokenizer(tokenizerDefinition, definedIn, { ...ids, opensWindows }),
        tokenizerDefinition,
      };
    });
  });
}
