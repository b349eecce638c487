/** Scores of a model: perplexities and tasks.
 *
 * @module
 */
import {
  type Cell,
  ofTask,
  type PerplexityChoice,
  perplexityChoiceSchema,
  type PerplexityResult,
  type TaskResult,
} from "../../core/schema/schema.ts";
import { UsageError } from "../../core/util/errors.ts";
import { scoringModel } from "../../models/scoring.ts";
import { measurePerplexity, type ScoredDocument } from "../evaluation/perplexity.ts";
import type { RequestEncoding } from "../evaluation/requests.ts";
import { createScorer } from "../evaluation/scorer.ts";
import { measureTask, type ScoredExample } from "../evaluation/tasks.ts";
import type { LoadedModel } from "./load.ts";
import type { StepOptions } from "./step.ts";

/** What to score on. */
export interface ScoreOptions extends StepOptions {
  /** Corpora, and what differs from the default protocol (`a`, as SparseGPT and Wanda measure). */
  perplexity?: readonly (string | Partial<PerplexityChoice> & { corpus: string })[];
  /** Tasks, see `bench ls tasks`. */
  tasks?: readonly string[];
  /** Only the first examples of each task. */
  limit?: Cell["limit"];
  /** Solved examples in the prompts. */
  numFewshot?: Cell["numFewshot"];
  /** How requests become ids; `lm-eval` by default. */
  encoding?: RequestEncoding;
  /** Folder with data sets. */
  data?: string;
  /** Tokens of the batches of each measurement, on which rounding depends; as engine and memory suggest by default. */
  batchTokens?: { perplexity: readonly number[]; tasks: readonly number[] };
  /** Told the scores of every example of a task. */
  onScored?(task: string, scored: readonly ScoredExample[]): void;
  /** Told the scores of every document of a corpus under protocol (c). */
  onDocuments?(corpus: string, scored: readonly ScoredDocument[]): void;
}

/** Milliseconds from one word of progress to the next. */
const REPORT_MS = 500;

/** Perplexities and task results of a model, with the protocol in each.
 * @throws {UsageError} when a corpus or task is unknown, its data are missing, or `limit` is no number of examples.
 * @throws {NumericError} when the model's scores are not finite. */
export async function score(
  { model, tokenizer }: Pick<LoadedModel, "model" | "tokenizer">,
  given: ScoreOptions,
): Promise<{ perplexity: PerplexityResult[]; tasks: TaskResult[] }> {
  const { perplexity = [], tasks = [], limit, numFewshot, data, batchTokens, report } = given;
  const wrong = tasks.map((task) => ofTask(limit, task) ?? 1).find((own) => !(Number.isInteger(own) && own > 0));
  if (wrong !== undefined) throw new UsageError(`limit must be a whole number above 0: current ${wrong}`);
  let now = "";
  let reported = 0;
  const enter = (name: string) => report?.(now = name);
  const onProgress = (share: number) => {
    if (performance.now() - reported < REPORT_MS) return;
    reported = performance.now();
    report?.(`${now} ${Math.floor(100 * share)} %`);
  };
  const options = { signal: given.signal, encoding: given.encoding, onProgress };
  const scoring = scoringModel(model);
  const usual = createScorer(scoring, tokenizer, options);
  const scorerOf = (tokens?: number) =>
    tokens === undefined ? usual : createScorer(scoring, tokenizer, { ...options, batchTokens: tokens });
  const found = { perplexity: [] as PerplexityResult[], tasks: [] as TaskResult[] };
  for (const [i, choice] of perplexity.entries()) {
    const parsed = perplexityChoiceSchema.parse(typeof choice === "string" ? { corpus: choice } : choice);
    enter(`perplexity ${parsed.corpus}`);
    const onDocuments = (scored: readonly ScoredDocument[]) => given.onDocuments?.(parsed.corpus, scored);
    found.perplexity.push(await measurePerplexity(scorerOf(batchTokens?.perplexity[i]), parsed, { data, onDocuments }));
  }
  for (const [i, id] of tasks.entries()) {
    enter(id);
    const scorer = scorerOf(batchTokens?.tasks[i]);
    const own = { data, limit: ofTask(limit, id), fewshot: ofTask(numFewshot, id) };
    const { result, scored } = await measureTask(scorer, id, own);
    found.tasks.push(result);
    given.onScored?.(id, scored);
  }
  return found;
}
