import { fileURLToPath } from "node:url";
import { assertEquals, assertMatch } from "@std/assert";
import { take } from "../support/values.ts";
import { at } from "../../core/util/indexing.ts";
import {
  lmEvalResults,
  lmEvalStamp,
  sanitizeModelName,
  writeLmEvalFiles,
} from "../../benchmarks/records/lm_eval_files.ts";
import { lmEvalDocuments, lmEvalSamples, samplesHash } from "../../benchmarks/records/lm_eval_samples.ts";
import { measureTask } from "../../benchmarks/evaluation/tasks.ts";
import { createScorer, type Scorer } from "../../benchmarks/evaluation/scorer.ts";
import type { DoneRecord } from "../../core/schema/schema.ts";
import { getTask } from "../../datasets/mod.ts";
import { doneRecord } from "../support/reports_fixture.ts";
import { fakeModel, fakeTokenizer } from "../support/scoring_fakes.ts";
import { folderTest } from "../support/weights_fixture.ts";

const data = fileURLToPath(new URL("../../datasets/fixtures", import.meta.url));

async function measure(task: string, values: number[], limit?: number) {
  const scorer: Scorer = {
    ...createScorer(fakeModel(), fakeTokenizer()),
    loglikelihood: (requests) =>
      Promise.resolve(requests.map((_, i) => ({ logLikelihood: values[i] ?? -9, isGreedy: i === 0 }))),
  };
  return await measureTask(scorer, task, { data, limit });
}

// The hashes are lm-evaluation-harness's for this record.
Deno.test("lmEvalSamples() gives the document's record, arguments, answers and hashes", async () => {
  const { scored } = await measure("openbookqa", [-3.25, -4, -1e-7, -12.5]);
  const first = at(lmEvalSamples(getTask("openbookqa"), scored), 0);
  const keys = "doc_id doc target arguments resps filtered_resps filter metrics doc_hash prompt_hash target_hash acc " +
    "acc_norm acc_bytes";
  assertEquals(Object.keys(first), keys.split(" "));
  assertEquals(first.doc_hash, "af421576b2e4953c7e9555f218b826a0bc519096eb0d76521f0f4f041cbeb22d");
  assertEquals(first.prompt_hash, "48c6f8babb99d4d7754aef37a87640e8fabedade116ec59b68cffca8389e12c8");
  assertEquals(first.target_hash, "5feceb66ffc86f38d952786c6d696c79c2dbc239dd4e91b46729d73a27fb57e9");
  assertEquals(first.target, "0");
  assertEquals(first.arguments.gen_args_1, { arg_0: "A magnet will pull on", arg_1: " a leaf" });
  assertEquals(first.resps[0], [["-3.25", "True"]]);
  assertEquals(first.filtered_resps, [["-3.25", "True"], ["-4.0", "False"], ["-1e-07", "False"], ["-12.5", "False"]]);
  assertEquals([first.acc, first.acc_norm, first.acc_bytes], [0, 0, 0]);
});

Deno.test("lmEvalSamples() logs HellaSwag's processed record and WinoGrande's text", async () => {
  const hellaswag = await measure("hellaswag", []);
  const first = at(lmEvalSamples(getTask("hellaswag"), hellaswag.scored), 0);
  assertEquals(Object.keys(first.doc).slice(-4), ["label", "query", "choices", "gold"]);
  assertEquals(first.doc.query, "Mopping floor: A man fills a bucket in the kitchen. The nasa engineer");
  assertEquals(first.doc.gold, 0);
  const winogrande = await measure("winogrande", [-1, -2, -2, -1]);
  const [, second] = take(lmEvalSamples(getTask("winogrande"), winogrande.scored), 2);
  assertEquals(second.target, "had driven all night.");
  const [context, continuation] = ["Ana thanked Bea for the lift since Bea", " had driven all night."];
  assertEquals(second.arguments.gen_args_1, { arg_0: context, arg_1: continuation });
  assertEquals([second.metrics, second.acc], [["acc"], 1]);
});

Deno.test("lmEvalDocuments() logs a whole document with its counts", () => {
  const document = { document: " a N \n", text: " a 1\n", logLikelihood: -40, words: 4, bytes: 6 };
  const line = at(lmEvalDocuments("page", [document]), 0);
  assertEquals([line.doc, line.target], [{ page: " a N \n" }, " a 1\n"]);
  assertEquals(line.arguments, { gen_args_0: { arg_0: " a 1\n" } });
  assertEquals([line.resps, line.filtered_resps], [[["-40.0"]], ["-40.0"]]);
  assertEquals(line.metrics, ["word_perplexity", "byte_perplexity", "bits_per_byte"]);
  assertEquals([line.word_perplexity, line.byte_perplexity, line.bits_per_byte], [[-40, 4], [-40, 6], [-40, 6]]);
});

Deno.test("lmEvalStamp() and sanitizeModelName() name files as lm-evaluation-harness does", () => {
  assertEquals(lmEvalStamp(new Date(2026, 0, 31, 10, 20, 30, 123)), "2026-01-31T10-20-30.123000");
  assertEquals(sanitizeModelName("org/a model:[x]?"), "org__a model__x__");
});

const documents = { words: 10, bytes: 50, wordPerplexity: 5.5, bytePerplexity: 1.6, bitsPerByte: 0.68 };

/** A record with one scored task and one perplexity per protocol. */
async function record(): Promise<DoneRecord> {
  const done = doneRecord({ method: "flap", sparsity: 0.25, seed: 3 });
  const { result } = await measure("openbookqa", [-1, -2, -2, -2, -1, -2, -2, -2, -1, -2, -2, -2]);
  const perplexity = at(done.perplexity, 0);
  return {
    ...done,
    tasks: [{ ...result, samples: { original: 500, effective: 3 } }],
    perplexity: [perplexity, { ...perplexity, corpus: "wikitext", protocol: "c", windows: 62, documents }],
  };
}

/** Parts of a results file that this test looks into. */
type Part = "results" | "higher_is_better" | "n-samples" | "configs" | "config" | "pruning";

Deno.test("lmEvalResults() has the keys of a results file in their order, and ours under one", async () => {
  const done = await record();
  const results = lmEvalResults(done) as Record<string, unknown> & Record<Part, Record<string, unknown>>;
  const keys = "results group_subtasks configs versions n-shot higher_is_better n-samples config git_hash date " +
    "pretty_env_info transformers_version lm_eval_version upper_git_hash task_hashes model_source model_name " +
    "model_name_sanitized system_instruction system_instruction_sha fewshot_as_multiturn chat_template " +
    "chat_template_sha total_evaluation_time_seconds pruning";
  assertEquals(Object.keys(results), keys.split(" "));
  // By length the long third answer of the first record comes before the right one.
  const entry = (name: string, sample_len: number, stderr: number | string, values: Record<string, number>) => {
    const metrics = Object.entries(values).map(([metric, value]) => ({
      ...{ [`${metric},none`]: value, [`${metric}_stderr,none`]: stderr },
    }));
    return Object.assign({ name, alias: name, sample_len }, ...metrics);
  };
  const accuracies = { acc: 2 / 3, acc_norm: 1 / 3, acc_bytes: 1 / 3 };
  assertEquals(results.results.openbookqa, entry("openbookqa", 3, 0.33333333333333337, accuracies));
  const perplexities = { word_perplexity: 5.5, byte_perplexity: 1.6, bits_per_byte: 0.68 };
  assertEquals(results.results.wikitext, entry("wikitext", 62, "N/A", perplexities));
  assertEquals(Object.keys(results.results), ["openbookqa", "wikitext"]);
  assertEquals(results.versions, { openbookqa: 1, wikitext: 2 });
  assertEquals(results["n-shot"], { openbookqa: 0, wikitext: 0 });
  const lower = { word_perplexity: false, byte_perplexity: false, bits_per_byte: false };
  assertEquals(results.higher_is_better.wikitext, lower);
  assertEquals(results["n-samples"].openbookqa, { original: 500, effective: 3 });
  assertEquals((results.configs.openbookqa as { dataset_path: string }).dataset_path, "allenai/openbookqa");
  assertEquals(results.config.model_num_parameters, done.size.parameters);
  assertEquals(typeof results.total_evaluation_time_seconds, "string");
  assertEquals((results.pruning.cell as { sparsity: number }).sparsity, 0.25);
});

folderTest("writeLmEvalFiles() writes results and samples of a cell side by side", async (folder) => {
  const done = await record();
  const { scored } = await measure("openbookqa", [], 2);
  const lines = lmEvalSamples(getTask("openbookqa"), scored);
  const written = writeLmEvalFiles(folder, done, new Map([["openbookqa", lines]]));
  assertEquals(written.length, 2);
  const [results, samples] = take(written, 2);
  assertMatch(results, /\/flap-0\.25-s3-[^/]+\/results_\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d\.\d{6}\.json$/);
  assertEquals(samples, results.replace("results_", "samples_openbookqa_").replace(/json$/, "jsonl"));
  assertEquals((await Deno.readTextFile(samples)).trimEnd().split("\n").map((line) => JSON.parse(line)), lines);
  assertEquals(JSON.parse(await Deno.readTextFile(results)).task_hashes, { openbookqa: samplesHash(lines) });
  assertEquals(writeLmEvalFiles(folder, done, new Map([["openbookqa", lines]])), [results, samples]);
});
