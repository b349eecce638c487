/** Models that were pruned elsewhere: whether each is a part of the dense model, and its sparsity.
 *
 * @module
 */
import { UsageError } from "../../core/util/errors.ts";
import { at } from "../../core/util/indexing.ts";
import { type RunConfig, UNIT_TYPES } from "../../core/schema/schema.ts";
import type { Tokenizer } from "../../core/formats/tokenizer.ts";
import { listMethods } from "../../methods/mod.ts";
import type { DecoderConfig } from "../../models/config.ts";
import { modelSize } from "../../models/count.ts";
import { type OpenedModel, openModel } from "../../models/load.ts";
import { UNITS, widthOf } from "../../models/units.ts";

/** A model that was pruned elsewhere. */
export interface FoundCheckpoint {
  label: string;
  /** As given. */
  path: string;
  /** Over its files, hex. */
  sha256: string;
  /** Missing fraction of the dense model's prunable parameters, to four digits; replaced by a level of the run within
   * half a percentage point, so that both are in the same rows. */
  sparsity: number;
}

/** Texts that different tokenizers encode differently. */
const PROBES = [
  " Hello, world!  Two  spaces\n\n\ttab, then 1234567890 and 3.14.",
  "naïve café — “quotes” … 日本語 Ελληνικά русский 🙂",
  "def f(x):\n    return x**2  # it's, we'll, DON'T",
];

/** Largest distance of a model's sparsity from the level that it is shown at. */
const NEAR = 0.005;

/** Opens the models that a run's `checkpoints` name and compares each with the dense one. `levels` are the run's.
 * @throws {UsageError} when a label is taken, a model is not a part of the dense one, has another tokenizer, or cannot
 *   be read. */
export async function findCheckpoints(
  given: NonNullable<RunConfig["checkpoints"]>,
  dense: Pick<OpenedModel, "source" | "tokenizer">,
  levels: readonly number[],
): Promise<FoundCheckpoint[]> {
  const taken = new Set(["dense", ...listMethods().map(({ id }) => id)]);
  const found: FoundCheckpoint[] = [];
  for (const { label, model: path } of given) {
    if (taken.has(label)) {
      throw new UsageError(`The label "${label}" is taken by a method or another model: choose another one`);
    }
    taken.add(label);
    const { source, tokenizer } = await openModel(path);
    source.close();
    const problem = misfit(dense.source.config, source.config) ?? otherTokenizer(dense.tokenizer, tokenizer);
    if (problem !== undefined) {
      throw new UsageError(`"${path}" (${label}) is not a pruned version of "${dense.source.origin.path}": ${problem}`);
    }
    const { sparsityOfPrunable } = modelSize(source.config, dense.source.config);
    const near = levels.filter((level) => level > 0 && Math.abs(level - sparsityOfPrunable) <= NEAR);
    const [level = Number(sparsityOfPrunable.toFixed(4))] = near.sort((a, b) =>
      Math.abs(a - sparsityOfPrunable) - Math.abs(b - sparsityOfPrunable)
    );
    found.push({ label, path, sha256: source.origin.sha256, sparsity: level });
  }
  return found;
}

/** Why `pruned` is not a part of `dense`; undefined if it is. */
function misfit(dense: DecoderConfig, pruned: DecoderConfig): string | undefined {
  const sizes: [what: string, own: number, least: number, most: number][] = [
    ["vocabulary", pruned.vocabSize, dense.vocabSize, dense.vocabSize],
    ["head size", pruned.headSize, dense.headSize, dense.headSize],
    ["number of positions", pruned.maxPositions, dense.maxPositions, Infinity],
    ["hidden size", pruned.width, 1, dense.width],
    ["number of layers", pruned.layers.length, 1, dense.layers.length],
  ];
  for (const [what, own, least, most] of sizes) {
    if (own < least) return `its ${what} is ${own}, less than ${least}`;
    if (own > most) return `its ${what} is ${own}, more than ${most}`;
  }
  const isWhole = pruned.layers.length === dense.layers.length;
  for (const [l, layer] of pruned.layers.entries()) {
    for (const type of UNIT_TYPES) {
      const own = widthOf(layer, type);
      // Removed layers are not known.
      const others = isWhole ? [at(dense.layers, l)] : dense.layers;
      const most = Math.max(...others.map((other) => widthOf(other, type)));
      if (own > most) return `layer ${l} has ${own} ${UNITS[type].widthNoun}, more than ${most}`;
    }
  }
  return undefined;
}

/** How two tokenizers differ; undefined if they give the same ids. Files of different formats differ in their text. */
function otherTokenizer(dense: Tokenizer, own: Tokenizer): string | undefined {
  if (own.sha256 === dense.sha256) return undefined;
  // GGUF fills the vocabulary up to the rows of the embedding.
  const shared = Math.min(own.vocabSize, dense.vocabSize);
  for (let id = 0; id < shared; id++) {
    const [text, wanted] = [own.tokenText(id), dense.tokenText(id)];
    if (text !== wanted) {
      return `token ${id} of its tokenizer is ${JSON.stringify(text)}, not ${JSON.stringify(wanted)}`;
    }
  }
  for (const text of PROBES) {
    if (own.encode(text).join() !== dense.encode(text).join()) {
      return `its tokenizer gives other ids for ${JSON.stringify(text)}`;
    }
  }
  return undefined;
}
