/** Makes a run ready to go: everything that can be checked before the first cell is checked here.
 *
 * @module
 */
import { startBestEngine, startEngine } from "../core/engine.ts";
import { UsageError } from "../core/errors.ts";
import type { DatasetUse, EngineName, RunConfig } from "../core/schema.ts";
import { loadCorpus, loadTask } from "../datasets/load.ts";
import { corpora, getCorpus, getTask, tasks } from "../datasets/mod.ts";
import { getMethod, parseOptions } from "../methods/mod.ts";
import { openModel } from "../models/load.ts";
import { calibrationUse, expandCells, type Fingerprint, type PlannedCell } from "./cells.ts";
import { resolveNames } from "./config.ts";
import type { SweepEvent } from "./progress.ts";

/** A run, ready to go. */
export interface SweepPlan {
  config: RunConfig & { calibration: NonNullable<RunConfig["calibration"]> };
  engine: EngineName;
  fingerprint: Fingerprint;
  cells: PlannedCell[];
}

/** Checks everything that can be checked before the first cell: names, engine, checkpoint, data. */
export async function planSweep(asked: RunConfig, onEvent: (event: SweepEvent) => void): Promise<SweepPlan> {
  const resolved = resolveNames(asked, {
    parseOptions: (id, options) => parseOptions(getMethod(id), options) as Record<string, unknown>,
    tasks: [...tasks.keys()],
    corpora: [...corpora.keys()],
  });
  const config = { ...resolved, calibration: resolved.calibration ?? defaultCalibration(resolved) };
  const engine = await chooseEngine(config.engine, onEvent);
  const { source, tokenizer } = await openModel(config.model);
  const weights = source.origin.sha256;
  source.close();
  const fingerprint = { weights, tokenizer: tokenizer.sha256, data: await hashData(config) };
  return { config, engine, fingerprint, cells: expandCells(config, engine, fingerprint) };
}

function defaultCalibration(config: RunConfig): NonNullable<RunConfig["calibration"]> {
  const corpus = config.model === "tiny" ? "tiny-world" : config.perplexity[0]?.corpus;
  if (corpus === undefined) {
    throw new UsageError("A calibration corpus must be given: --calibration CORPUS, see `bench ls tasks`");
  }
  return { corpus, sequences: 32, tokens: 128 };
}

/** Starts the engine once here, so that one that cannot start is reported before any cell. */
async function chooseEngine(name: RunConfig["engine"], onEvent: (event: SweepEvent) => void): Promise<EngineName> {
  if (name !== "auto") return (await startEngine(name)).name;
  const { engine, note } = await startBestEngine();
  onEvent({ event: "note", message: note });
  return engine.name;
}

async function hashData(config: SweepPlan["config"]): Promise<Record<string, string>> {
  const { data } = config;
  const uses: Record<string, DatasetUse> = {};
  uses[calibrationUse(config)] =
    (await loadCorpus(getCorpus(config.calibration.corpus), { data, split: "calibration" })).dataset;
  for (const { corpus, split } of config.perplexity) {
    const { dataset } = await loadCorpus(getCorpus(corpus), { data, split });
    uses[`perplexity ${corpus}/${dataset.split}`] = dataset;
  }
  for (const task of config.tasks) uses[`task ${task}`] = (await loadTask(getTask(task), { data, limit: 1 })).dataset;
  return Object.fromEntries(Object.entries(uses).map(([use, { sha256 }]) => [use, sha256]));
}
