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
  arguments: Record<string, Record<string, string>>;
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

/** The target, as the harness defines it. */
function targetOf({ choices, gold, target }: Example): string {
  if (target !== undefined) return target;
  const [first] = choices;
  const isPartial = choices.some(({ context }) => context !== first?.context);
  // The scored text without its delimiter, one space.
  return isPartial ? first?.continuation.slice(1) ?? "" : String(gold);
}

/** One line. `args`: what each request was given, one text or two. */
function sample(
  given: Pick<LmEvalSample, "doc_id" | "doc" | "target"> & { args: string[][] },
  answers: LmEvalSample["filtered_resps"],
  metrics: Record<string, unknown>,
): LmEvalSample {
  const { doc_id, doc, target, args } = given;
  const named = (texts: string[]) => Object.fromEntries(texts.map((text, i) => [`arg_${i}`, text]));
  return {
    doc_id,
    doc,
    target,
    arguments: Object.fromEntries(args.map((texts, i) => [`gen_args_${i}`, named(texts)])),
    resps: answers.map((answer) => [answer]),
    filtered_resps: answers,
    filter: "none",
    metrics: Object.keys(metrics),
    doc_hash: sha256(JSON.stringify(doc, null, 2)),
    prompt_hash: sha256(args[0]?.[0] ?? ""),
    target_hash: sha256(target),
    ...metrics,
  };
}

/** The lines of a task's samples file. */
export function lmEvalSamples(task: AnyTask, scored: readonly ScoredExample[]): LmEvalSample[] {
  const type = outputType(task);
  const isRolling = type === "loglikelihood_rolling";
  return scored.map(({ example, record, scores }, doc_id) => {
    const args = requestsOf(example).map(({ context, continuation }) =>
      isRolling ? [continuation] : [context, continuation]
    );
    const answers = scores.map(({ logLikelihood, isGreedy }): [string, string] | string =>
      isRolling ? floatRepr(logLikelihood) : [floatRepr(logLikelihood), isGreedy ? "True" : "False"]
    );
    const metrics = metricNames(task).map((metric) => [metric, exampleMetric(metric, type, { example, scores })]);
    const added = "addedFields" in task ? task.addedFields?.(example) : undefined;
    const doc = { ...record as Record<string, unknown>, ...added };
    return sample({ doc_id, doc, target: targetOf(example), args }, answers, Object.fromEntries(metrics));
  });
}

/** The lines of the samples file of a corpus under protocol (c). `field` is the field of a record that holds the text.
 * Other fields are not kept, so that hashes of records with more fields differ from the harness's. */
export function lmEvalDocuments(field: string, scored: readonly ScoredDocument[]): LmEvalSample[] {
  return scored.map(({ document, text, logLikelihood, words, bytes }, doc_id) =>
    sample({ doc_id, doc: { [field]: document }, target: text, args: [[text]] }, [floatRepr(logLikelihood)], {
      word_perplexity: [logLikelihood, words],
      byte_perplexity: [logLikelihood, bytes],
      bits_per_byte: [logLikelihood, bytes],
    })
  );
}

/** The hash of a task's samples in a results file. */
export function samplesHash(samples: readonly LmEvalSample[]): string {
  return sha256(samples.map((sample) => sample.doc_hash + sample.prompt_hash + sample.target_hash).join(""));
}
