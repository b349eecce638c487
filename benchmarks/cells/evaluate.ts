/** Everything that is scored of a cell's model: perplexities, tasks, continuations.
 *
 * @module
 */
import type { Engine } from "../../core/engine/engine.ts";
import { at } from "../../core/util/indexing.ts";
import type { BatchSizes, DoneRecord } from "../../core/schema/schema.ts";
import type { Tokenizer } from "../../core/formats/tokenizer.ts";
import { addFileTasks } from "../../datasets/mod.ts";
import type { WeightSource } from "../../models/config.ts";
import type { DecoderModel } from "../../models/device.ts";
import { scoringModel } from "../../models/scoring.ts";
import { measureTasks, type ScoredExample } from "../evaluation/multiple_choice.ts";
import { measurePerplexity, type ScoredDocument } from "../evaluation/perplexity.ts";
import { createScorer, type Scorer } from "../evaluation/scorer.ts";
import type { CellJob } from "./job.ts";
import { createTrialMemory } from "./trial_memory.ts";

/** What the process of a cell offers to its measurement. */
export interface CellHost {
  /** Progress in words. */
  report(phase: string): void;
  /** Told the scores of every example of a task. */
  onScored?(task: string, scored: readonly ScoredExample[]): void;
  /** Told the scores of every document of a corpus under protocol (c). */
  onDocuments?(corpus: string, scored: readonly ScoredDocument[]): void;
  signal: AbortSignal;
}

/** A model, and what its scores depend on. */
interface Evaluated {
  model: DecoderModel;
  tokenizer: Tokenizer;
  /** Of the dense model. */
  source: WeightSource;
  engine: Engine;
}

type Job = Pick<CellJob, "cell" | "out" | "data" | "taskDefinitions" | "batchSizes">;

/** What scoring gives a record. */
type Scores = Pick<DoneRecord, "perplexity" | "tasks" | "generations" | "batchTrials">;

/** The scorer of each measurement: one that chooses its batches, unless a record's are to be repeated. */
function scorers(evaluated: Evaluated, { cell, out }: Job, host: CellHost, phase: () => string) {
  let reported = 0;
  const options = {
    signal: host.signal,
    encoding: cell.requestEncoding,
    onProgress: (share: number) => {
      const now = performance.now();
      if (now - reported < 500) return;
      reported = now;
      host.report(`${phase()} ${Math.floor(100 * share)} %`);
    },
  };
  const scoring = scoringModel(evaluated.model);
  const choosing = createScorer(scoring, evaluated.tokenizer, {
    ...options,
    trialMemory: createTrialMemory(out, evaluated),
  });
  const scorerOf = (sizes?: BatchSizes): Scorer =>
    sizes === undefined ? choosing : createScorer(scoring, evaluated.tokenizer, { ...options, ...sizes });
  return { choosing, scorerOf };
}

/** Scores what the cell of `job` asks for.
 * @throws {UsageError} when data cannot be used.
 * @throws {NumericError} when the model's output is not finite. */
export async function evaluate(job: Job, evaluated: Evaluated, host: CellHost): Promise<Scores> {
  const { cell, data, taskDefinitions = [], batchSizes } = job;
  addFileTasks(taskDefinitions);
  let phase = "";
  const enter = (name: string) => host.report(phase = name);
  const { choosing, scorerOf } = scorers(evaluated, job, host, () => phase);
  const perplexity: DoneRecord["perplexity"] = [];
  for (const [i, choice] of cell.perplexity.entries()) {
    enter(`perplexity ${choice.corpus}`);
    perplexity.push(
      await measurePerplexity(scorerOf(batchSizes?.perplexity[i]), choice, {
        data,
        onDocuments: (scored) => host.onDocuments?.(choice.corpus, scored),
      }),
    );
  }
  const tasks: DoneRecord["tasks"] = [];
  const options = { data, limit: cell.limit, fewshot: cell.numFewshot, enter };
  for await (const one of measureTasks(cell.tasks, (i) => scorerOf(batchSizes?.tasks[i]), options)) {
    tasks.push(one.result);
    host.onScored?.(one.id, one.scored);
  }
  const batchTrials = [...choosing.batchTrials()];
  const scores = { perplexity, tasks, ...batchTrials.length > 0 && { batchTrials } };
  if (!cell.generations) return scores;
  enter("generate");
  const { prompts, tokens } = cell.generations;
  const texts = await choosing.generate(prompts, { maxTokens: tokens });
  return { ...scores, generations: prompts.map((prompt, i) => ({ prompt, text: at(texts, i).text })) };
}
