/** Expands a run into cells, and names each cell by what decides its numbers.
 *
 * @module
 */
import type { FoundCheckpoint } from "./checkpoints.ts";
import { canonicalJson, sha256OfJson } from "../../core/util/canonical_json.ts";
import type { NamedCell } from "../../core/schema/cell_names.ts";
import { at } from "../../core/util/indexing.ts";
import type { Method } from "../../methods/define.ts";
import { getMethod, parseOptions } from "../../methods/mod.ts";
import { ranksLayers } from "../../models/target.ts";
import { movePaths } from "./paths.ts";
import {
  type Cell,
  type EngineName,
  type MethodFile,
  type PerplexityChoice,
  pruningOf,
  type RunConfig,
  scaleRateOf,
  trainingSchema,
} from "../../core/schema/schema.ts";

/** A configuration with everything filled in that depends on model and data. */
export type ReadyConfig = Omit<RunConfig, "calibration" | "perplexity" | "ffnMultiple"> & {
  calibration: Cell["calibration"];
  ffnMultiple: number;
  perplexity: PerplexityChoice[];
};

/** Contents behind the names in a cell: weights and data are known by their bytes, not by their paths. */
export interface Fingerprint {
  /** SHA-256 over the checkpoint's files, hex. */
  weights: string;
  /** SHA-256 of the tokenizer's definition, hex. */
  tokenizer: string;
  /** SHA-256 of each data set a cell reads, by what it is used for (`perplexity wikitext2`). */
  data: Record<string, string>;
}

/** Name of a file without its folder. */
const withoutFolder = (path: string) => path.replace(/^.*[/\\]/s, "");

/** Part of every id; to be raised when equal cells no longer mean equal numbers. */
const IDENTITY_VERSION = 2;

/** The id of a cell: a hash of everything that decides its model, and of nothing that is only measured. Files count by
 * their contents, not by their paths. Settings that the cell does not read do not count. */
export function cellId(cell: Cell, fingerprint: Fingerprint, { calibrated }: { calibrated: boolean }): string {
  const { model: _path, methodFile, checkpoint, ...pruning } = pruningOf(cell);
  const { calibration, ...decisive } = movePaths(pruning, withoutFolder) as typeof pruning;
  const { units: _units, ffnMultiple: _multiple, seed: _seed, ...dense } = decisive;
  const { changed: _changed, ...method } = cell.method ?? {};
  const { weights, tokenizer, data: { [calibrationUse(cell)]: calibrationData, ...others } } = fingerprint;
  const trained = Object.entries(others).filter(([use]) => cell.training && use.startsWith(TRAINING_USE))
    .map(([use, hash]) => [trainingUse(use.slice(TRAINING_USE.length).replace(/^file:.*[/\\]/s, "file:")), hash]);
  const identity = {
    schemaVersion: IDENTITY_VERSION,
    cell: cell.method === null || checkpoint ? dense : { ...decisive, method },
    ...checkpoint && { checkpoint: checkpoint.sha256 },
    ...methodFile && { methodFile: methodFile.sha256 },
    fingerprint: { weights, tokenizer, data: Object.fromEntries(trained) },
    ...calibrated ? { calibration, calibrationData } : {},
  };
  return sha256OfJson(identity).slice(0, 16);
}

/** Key of the calibration data in {@linkcode Fingerprint.data}. */
export function calibrationUse(cell: Pick<Cell, "calibration">): string {
  return `calibration ${cell.calibration.corpus}`;
}

const TRAINING_USE = "training ";

/** Key of a corpus that is trained on in {@linkcode Fingerprint.data}. */
export function trainingUse(corpus: string): string {
  return `${TRAINING_USE}${corpus}`;
}

/** Whether a run's `recover` or `compensate` asks for anything. */
export const isOn = <Choice extends string>(choice: Choice | undefined): choice is Exclude<Choice, "none"> =>
  choice !== undefined && choice !== "none";

type Learning = Pick<Cell, "recover" | "compensate" | "training">;

/** What a run adds to a cell besides its method. Learned methods train in any case, the others if the run recovers. */
function learningOf(
  { recover, compensate, training = trainingSchema.parse({}) }: Pick<RunConfig, keyof Learning>,
  learned: boolean,
): Learning {
  const recovers = isOn(recover);
  return {
    ...recovers && { recover },
    ...isOn(compensate) && { compensate },
    ...(learned || recovers) &&
      { training: { ...training, ...recovers && { scaleRate: scaleRateOf(training, recover) } } },
  };
}

/** Numbers of layers that a method gets cells for: those of the run, unless it removes layers itself. Undefined leaves
 * them to the method, or to what the budget needs. */
export function depthsOf(
  { granularity, ownDepth }: Pick<Method, "granularity" | "ownDepth">,
  { units, dropLayers }: Pick<RunConfig, "units" | "dropLayers">,
): (number | undefined)[] {
  const isOwn = granularity === "layer" || (ownDepth && units.includes("layers"));
  return dropLayers === undefined || isOwn ? [undefined] : dropLayers;
}

/** Options of a method that are not its defaults, by name. */
function changedOptions({ id, options }: RunConfig["methods"][number]): string[] {
  const defaults = parseOptions(getMethod(id), {}) as Record<string, unknown>;
  const isChanged = (name: string) => canonicalJson(options[name] ?? null) !== canonicalJson(defaults[name] ?? null);
  return Object.keys(options).filter(isChanged);
}

/** All cells of a run: the dense model first, then methods by sparsity by seed, in the order given, each once. If
 * nothing is drawn, only the first seed counts. A level of 0 is the dense model. */
export function expandCells(
  config: ReadyConfig,
  { engine, fingerprint, latency, checkpoints = [], fileOf }: {
    engine: EngineName;
    fingerprint: Fingerprint;
    /** SHA-256 of the table of times that the budget is met by. */
    latency?: string;
    /** Models of the run that were pruned elsewhere. */
    checkpoints?: readonly FoundCheckpoint[];
    fileOf?: ReadonlyMap<string, MethodFile>;
  },
): NamedCell[] {
  const { model, units, ffnMultiple, calibration, perplexity, tasks, limit, numFewshot, throughput, seeds } = config;
  const common = {
    ...{ model, engine, units, ffnMultiple, calibration },
    ...config.weights === "stored" && { weights: config.weights },
    ...config.arithmetic === "fast" && { arithmetic: config.arithmetic },
    ...{ perplexity, tasks },
    ...limit !== undefined && { limit },
    ...numFewshot !== 0 && tasks.length > 0 && { numFewshot },
    ...config.requestEncoding === "llm-pruner" && tasks.length > 0 && { requestEncoding: config.requestEncoding },
    ...throughput !== undefined && { throughput },
  };
  const named = new Map<string, NamedCell>();
  const add = (cell: Cell, calibrated: boolean) => {
    const id = cellId(cell, fingerprint, { calibrated });
    if (!named.has(id)) named.set(id, { id, cell });
  };
  const first = at(seeds, 0);
  add({ ...common, method: null, sparsity: 0, seed: first }, false);
  for (const choice of config.methods) {
    const method = getMethod(choice.id);
    const { needs, kind, version } = method;
    const learning = learningOf(config, kind === "learned");
    const file = fileOf?.get(choice.id);
    const own = {
      ...common,
      ...learning,
      ...config.budget !== "parameters" && { budget: config.budget },
      ...latency !== undefined && { latency },
      ...file && { methodFile: file },
      method: { ...choice, ...version > 1 && { version }, changed: changedOptions(choice) },
    };
    for (const dropLayers of depthsOf(method, config)) {
      const calibrated = needs.calibration || ranksLayers({ units, dropLayers });
      const isDrawn = (needs.seed ?? true) || calibrated || Object.keys(learning).length > 0;
      for (const sparsity of config.sparsity.filter((level) => level > 0)) {
        for (const seed of isDrawn ? seeds : [first]) {
          const cell = { ...own, ...dropLayers !== undefined && { dropLayers }, sparsity, seed };
          add(cell, calibrated || learning.compensate !== undefined);
        }
      }
    }
  }
  for (const { label, path, sha256, sparsity } of checkpoints) {
    const method = { id: label, options: {}, changed: [] };
    add({ ...common, method, checkpoint: { path, sha256 }, sparsity, seed: first }, false);
  }
  return [...named.values()];
}
