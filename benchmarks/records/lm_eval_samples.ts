/** Samples as lm-evaluation-harness 0.4.13 logs them: one line per example or document.
 *
 * @module
 */
import { createHash } from "node:crypto";
import { floatRepr } from "../../core/util/python_text.ts";
import type { AnyTask, Example } from "../../datasets/define.ts";
import { exampleMetric, metricNames, outputType, requestsOf, type ScoredExample } from "../evaluation/tasks.ts";
import type { ScoredDocument } from "../evaluation/perplexity.ts";

/** One line of a samples file; the task's metrics follow the named keys, one each. */
export interface LmEvalSample {
  /** Index in the scored split. */
  doc_id: number;
  doc: Record<string, unknown>;
  /** Index of the right choice; the scored text of a document, or where the choices differ in their contexts. */
  target: string;
  /** Context and continuation of each choice; a document has its text alone. */
  arguments: Record<string, { arg_0: string; arg_1?: string }>;
  /** Per choice and repeat: log-likelihood and whether it is greedy, both as Python writes them; of a document the
   * log-likelihood alone. */
  resps: ([logLikelihood: string, isGreedy: string] | string)[][];
  filtered_resps: ([logLikelihood: string, isGreedy: string] | string)[];
  filter: "none";
  metrics: string[];
  doc_hash: string;
  prompt_hash: string;
  target_hash: string;
  [metric: string]: unknown;
}

const sha256 = (text: string) => createHash("sha256").update(text).digest("hex");

/** The record as the harness logs it. */
function loggedDoc(task: AnyTask, example: Example, record: unknown): Record<string, unknown> {
  const own = "addedFields" in task ? task.addedFields?.(example) : undefined;
  return { ...record as Record<string, unknown>, ...own };
}

/** The target, as the harness defines it. */
function targetOf({ choices, gold, target }: Example): string {
  if (target !== undefined) return target;
  const [first] = choices;
  const isPartial = choices.some(({ context }) => context !== first?.context);
  // The scored text without its delimiter, one space.
  return isPartial ? first?.continuation.slice(1) ?? "" : String(gold);
}

/** The lines of a task's samples file. */
export function lmEvalSamples(task: AnyTask, scored: readonly ScoredExample[]): LmEvalSample[] {
  const type = outputType(task);
  const isRolling = type === "loglikelihood_rolling";
  return scored.map(({ example, record, scores }, index): LmEvalSample => {
    const doc = loggedDoc(task, example, record);
    const requests = requestsOf(example);
    const target = targetOf(example);
    const answers = scores.map(({ logLikelihood, isGreedy }): [string, string] | string =>
      isRolling ? floatRepr(logLikelihood) : [floatRepr(logLikelihood), isGreedy ? "True" : "False"]
    );
    const metrics = metricNames(task);
    const [first] = requests;
    return {
      doc_id: index,
      doc,
      target,
      arguments: Object.fromEntries(
        requests.map(({ context, continuation }, i) => [
          `gen_args_${i}`,
          isRolling ? { arg_0: continuation } : { arg_0: context, arg_1: continuation },
        ]),
      ),
      resps: answers.map((answer) => [answer]),
      filtered_resps: answers,
      filter: "none",
      metrics,
      doc_hash: sha256(JSON.stringify(doc, null, 2)),
      prompt_hash: sha256((isRolling ? first?.continuation : first?.context) ?? ""),
      target_hash: sha256(target),
      ...Object.fromEntries(metrics.map((metric) => [metric, exampleMetric(metric, type, { example, scores })])),
    };
  });
}

/** The lines of the samples file of a corpus under protocol (c). `field` is the field of a record that holds the text.
 * Other fields are not kept, so that hashes of records with more fields differ from the harness's. */
export function lmEvalDocuments(field: string, scored: readonly ScoredDocument[]): LmEvalSample[] {
  return scored.map(({ document, text, logLikelihood, words, bytes }, index): LmEvalSample => {
    const doc = { [field]: document };
    const answer = floatRepr(logLikelihood);
    const metrics = {
      word_perplexity: [logLikelihood, words],
      byte_perplexity: [logLikelihood, bytes],
      bits_per_byte: [logLikelihood, bytes],
    };
    return {
      doc_id: index,
      doc,
      target: text,
      arguments: { gen_args_0: { arg_0: text } },
      resps: [[answer]],
      filtered_resps: [answer],
      filter: "none",
      metrics: Object.keys(metrics),
      doc_hash: sha256(JSON.stringify(doc, null, 2)),
      prompt_hash: sha256(text),
      target_hash: sha256(text),
      ...metrics,
    };
  });
}

/** The hash of a task's samples in a results file. */
export function samplesHash(samples: readonly LmEvalSample[]): string {
  return sha256(samples.map((sample) => sample.doc_hash + sample.prompt_hash + sample.target_hash).join(""));
}
