/** What a run will read and take, before it runs. Nothing is started or written.
 *
 * @module
 */
import { cellLabels, type NamedCell } from "../../core/schema/cell_names.ts";
import { type Cell, ofTask, type RunConfig } from "../../core/schema/schema.ts";
import { counted } from "../../core/util/words.ts";
import { loadCorpus, loadTask } from "../../datasets/load.ts";
import type { Example } from "../../datasets/define.ts";
import { anyTask, getCorpus } from "../../datasets/mod.ts";
import { getMethod } from "../../methods/mod.ts";
import { type CellCost, cellCost, type EvaluationTokens } from "../cells/cell_cost.ts";
import { type PreparedRun, prepareRun, wantedOf } from "../configuration/prepare.ts";
import type { ReadyConfig } from "../configuration/expand.ts";
import { isComplete } from "../records/measured.ts";
import { doneRecord } from "../records/store.ts";

/** Characters of English text in a token, about: a model's shape comes without a tokenizer. */
const CHARACTERS_PER_TOKEN = 4;

/** A data set of a run, and how much of it is read. */
export interface ReadData {
  /** What for, and of what: `task piqa`. */
  use: string;
  /** How much, in words. */
  amount: string;
}

/** A cell of a run, and what it takes. */
export interface EstimatedCell {
  named: NamedCell;
  label: string;
  /** Whether the run's folder has everything that the cell asks for. */
  isFinished: boolean;
  cost: CellCost;
}

/** What a run will read and take. */
export interface RunEstimate {
  run: PreparedRun;
  data: ReadData[];
  cells: EstimatedCell[];
}

/** Estimates `config` after every check that a run makes before its first cell; a model's shape is enough.
 * @throws {UsageError} as `runSweep`. */
export async function estimateRun(
  config: RunConfig,
  note: (message: string) => void,
  { elsewhere }: { elsewhere: boolean },
): Promise<RunEstimate> {
  const run = await prepareRun(config, note, { elsewhere, planned: true });
  const { tokens, data } = await evaluationOf(run.config);
  const labels = cellLabels(run.cells);
  const wanted = wantedOf(run);
  const cells = run.cells.map((named): EstimatedCell => {
    const record = run.fingerprint.weights === "" ? undefined : doneRecord(run.config.out, named);
    const { layerwise } = run.config;
    return {
      named,
      label: labels.get(named.id) ?? named.id,
      isFinished: record !== undefined && isComplete(named.cell, record, wanted),
      cost: cellCost(named.cell, run.model, {
        method: methodOf(named.cell),
        tokens,
        layerwise,
        resource: run.resource,
      }),
    };
  });
  return { run, data: [...learnedData(run), ...data], cells };
}

/** What prunes in a cell; null for the dense model and for a foreign checkpoint. */
const methodOf = ({ method, checkpoint }: Cell) => method === null || checkpoint ? null : getMethod(method.id);

const about = (tokens: number) => `about ${Math.round(tokens).toLocaleString("en")} tokens`;

/** Data that is calibrated and trained on, if any cell reads it. */
function learnedData({ cells, config: { calibration } }: PreparedRun): ReadData[] {
  const data: ReadData[] = [];
  const isCalibrated = cells.some(({ cell }) => {
    const method = methodOf(cell);
    return method !== null && (method.needs.calibration || cell.compensate !== undefined);
  });
  const { corpus, sequences, tokens } = calibration;
  if (isCalibrated) data.push({ use: `calibration ${corpus}`, amount: `${sequences} windows of ${tokens} tokens` });
  const trained = cells.find(({ cell }) => cell.training)?.cell;
  if (trained?.training) {
    const { steps, batch, tokens, corpus = trained.calibration.corpus } = trained.training;
    data.push({ use: `training ${corpus}`, amount: `${steps} steps of ${batch} × ${tokens} tokens` });
  }
  return data;
}

/** Characters of an example that become inputs: equal contexts are read once, as in a packed row. */
function charactersOf({ prefix = "", choices }: Example): number {
  const contexts = new Set(choices.map(({ context }) => prefix + context));
  return [...contexts, ...choices.map(({ continuation }) => continuation)].join("").length;
}

/** What the measurements read, counted in characters. */
async function evaluationOf(
  { perplexity, tasks, limit, numFewshot, data: folder }: ReadyConfig,
): Promise<{ tokens: EvaluationTokens; data: ReadData[] }> {
  const read: EvaluationTokens = { windows: 0, tasks: 0 };
  const data: ReadData[] = [];
  for (const { corpus, split, protocol, windowTokens, maxWindows = Infinity } of perplexity) {
    const source = getCorpus(corpus);
    const { texts } = await loadCorpus(source, { data: folder, split });
    const scored = protocol === "c" ? source.documents?.(texts).slice(0, maxWindows) ?? [] : texts;
    const all = scored.reduce((sum, text) => sum + text.length, 0) / CHARACTERS_PER_TOKEN;
    const windows = Math.min(maxWindows, source.maxWindows ?? Infinity);
    const tokens = protocol === "c" ? all : Math.min(all, windows * windowTokens);
    read.windows += tokens;
    data.push({ use: `perplexity ${corpus}, protocol ${protocol}`, amount: about(tokens) });
  }
  for (const id of tasks) {
    const own = { limit: ofTask(limit, id), fewshot: ofTask(numFewshot, id) };
    const { examples } = await loadTask(anyTask(id), { data: folder, ...own });
    const tokens = examples.reduce((sum, example) => sum + charactersOf(example), 0) / CHARACTERS_PER_TOKEN;
    read.tasks += tokens;
    data.push({ use: `task ${id}`, amount: `${counted(examples.length, "example")}, ${about(tokens)}` });
  }
  return { tokens: read, data };
}
