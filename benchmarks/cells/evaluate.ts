/** Everything that is scored of a cell's model: perplexities, tasks, continuations.
 *
 * @module
 */
import { at } from "../../core/util/indexing.ts";
import type { DoneRecord } from "../../core/schema/schema.ts";
import type { Tokenizer } from "../../core/formats/tokenizer.ts";
import { addFileTasks } from "../../datasets/mod.ts";
import type { DecoderModel } from "../../models/device.ts";
import { scoringModel } from "../../models/scoring.ts";
import { measureTask, type ScoredExample } from "../evaluation/tasks.ts";
import { measurePerplexity, type ScoredDocument } from "../evaluation/perplexity.ts";
import { createScorer, type Scorer } from "../evaluation/scorer.ts";
import type { CellJob } from "./job.ts";

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

type Job = Pick<CellJob, "cell" | "data" | "taskDefinitions" | "batchTokens">;

/** What scoring gives a record. */
type Scores = Pick<DoneRecord, "perplexity" | "tasks" | "generations">;

/** Scores what the cell of `job` asks for.
 * @throws {UsageError} when data cannot be used.
 * @throws {NumericError} when the model's output is not finite. */
export async function evaluate(
  { cell, data, taskDefinitions = [], batchTokens }: Job,
  { model, tokenizer }: { model: DecoderModel; tokenizer: Tokenizer },
  host: CellHost,
): Promise<Scores> {
  addFileTasks(taskDefinitions);
  let phase = "";
  let reported = 0;
  const enter = (name: string) => host.report(phase = name);
  const options = {
    signal: host.signal,
    encoding: cell.requestEncoding,
    onProgress: (share: number) => {
      const now = performance.now();
      if (now - reported < 500) return;
      reported = now;
      host.report(`${phase} ${Math.floor(100 * share)} %`);
    },
  };
  const scoring = scoringModel(model);
  const scorer = createScorer(scoring, tokenizer, options);
  const scorerOf = (tokens?: number): Scorer =>
    tokens === undefined ? scorer : createScorer(scoring, tokenizer, { ...options, batchTokens: tokens });
  const perplexity: DoneRecord["perplexity"] = [];
  for (const [i, choice] of cell.perplexity.entries()) {
    enter(`perplexity ${choice.corpus}`);
    perplexity.push(
      await measurePerplexity(scorerOf(batchTokens?.perplexity[i]), choice, {
        data,
        onDocuments: (scored) => host.onDocuments?.(choice.corpus, scored),
      }),
    );
  }
  const tasks: DoneRecord["tasks"] = [];
  for (const [i, id] of cell.tasks.entries()) {
    enter(id);
    const options = { data, limit: cell.limit, fewshot: cell.numFewshot };
    const { result, scored } = await measureTask(scorerOf(batchTokens?.tasks[i]), id, options);
    tasks.push(result);
    host.onScored?.(id, scored);
  }
  if (!cell.generations) return { perplexity, tasks };
  enter("generate");
  const { prompts, tokens } = cell.generations;
  const texts = await scorer.generateUntil(prompts, { maxTokens: tokens });
  return { perplexity, tasks, generations: prompts.map((prompt, i) => ({ prompt, text: at(texts, i).text })) };
}
