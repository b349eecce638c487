/** Task files of lm-evaluation-harness in whole runs. */
import { assert, assertAlmostEquals, assertEquals, assertStringIncludes } from "@std/assert";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { DoneRecord } from "../../core/schema/schema.ts";
import { readRecords, runPaths } from "../../benchmarks/records/store.ts";
import { folderTest } from "../support/weights_fixture.ts";
import { doneCells, refused, succeed } from "../support/bench_process.ts";
import { take } from "../support/values.ts";

const FACTS = fileURLToPath(new URL("../../datasets/tiny_world/data/facts.jsonl", import.meta.url));
const RUN = "run --model tiny --engine wasm --methods random --sparsity 0 --no-throughput --limit 12".split(" ");

const FILES = {
  // The task tiny-facts of this program, as a file.
  "facts.yaml": `task: facts
tag: known
dataset_path: json
dataset_kwargs: {data_files: {test: data/facts.jsonl}}
output_type: multiple_choice
test_split: test
doc_to_text: context
doc_to_choice: choices
doc_to_target: gold
metric_list: [{metric: acc}]
`,
  "last.yaml": `include: facts.yaml
task: last
output_type: loglikelihood
doc_to_text: "{{context.split(' ')[:-1]|join(' ')}}"
doc_to_target: "{{' ' ~ context.split(' ')[-1]}}"
metric_list: [{metric: perplexity}, {metric: acc}]
`,
  "whole.yaml": `include: facts.yaml
task: whole
output_type: loglikelihood_rolling
doc_to_target: "{{context}}"
metric_list: null
`,
  "both.yaml": `group: both
task: [facts, tiny-facts]
aggregate_metric_list: [{metric: acc}]
`,
};

function writeFiles(folder: string, files: Record<string, string> = FILES): void {
  Deno.mkdirSync(join(folder, "data"), { recursive: true });
  Deno.copyFileSync(FACTS, join(folder, "data/facts.jsonl"));
  for (const [name, text] of Object.entries(files)) Deno.writeTextFileSync(join(folder, name), text);
}

/** The only record, finished. */
function onlyRecord(out: string): DoneRecord {
  const { records: [record] } = readRecords(out);
  assert(record?.state === "done");
  return record;
}

folderTest("--task-file runs tasks of all types and groups; a changed file is measured again", async (root) => {
  const [tasks, out] = [join(root, "tasks"), join(root, "out")];
  writeFiles(tasks);
  const run = (...flags: string[]) =>
    succeed(...RUN, "--task-file", tasks, "--tasks", "both,last,whole", "--log-samples", "--out", out, ...flags);
  await run();
  const record = onlyRecord(out);
  const [facts, own, last, whole] = take(record.tasks, 4);
  assertEquals([facts.task, own.task, last.task, whole.task], ["facts", "tiny-facts", "last", "whole"]);
  // The same task by this program's own definition.
  assertEquals([facts.metrics, facts.outcomes, facts.chance], [own.metrics, own.outcomes, own.chance]);
  assertEquals(facts.definition?.path, join(tasks, "facts.yaml"));
  assertEquals(own.definition, undefined);
  assertEquals(record.groups?.map(({ group, tasks }) => [group, tasks]), [["both", ["facts", "tiny-facts"]]]);
  assertAlmostEquals(record.groups?.[0]?.metrics.acc?.value ?? NaN, facts.metrics.acc?.value ?? NaN, 1e-12);
  assertEquals(Object.keys(last.metrics), ["perplexity", "acc"]);

  // Perplexities against the logged log-likelihoods.
  const lmEval = join(runPaths(out).lmEval, `dense-${record.id}`);
  const samples = (task: string) => {
    const { name } = [...Deno.readDirSync(lmEval)].find(({ name }) => name.startsWith(`samples_${task}_`)) ??
      { name: "" };
    return Deno.readTextFileSync(join(lmEval, name)).trimEnd().split("\n").map((line) => JSON.parse(line));
  };
  const nats = samples("last").map(({ filtered_resps: [[value]] }) => Number(value));
  assertEquals(nats.length, 12);
  assertAlmostEquals(Math.log(last.metrics.perplexity?.value ?? NaN), -nats.reduce((a, b) => a + b) / 12, 1e-9);
  const rolled = samples("whole").map(({ filtered_resps: [value], doc: { context } }) => [Number(value), context]);
  const bytes = rolled.reduce((sum, [, text]) => sum + new TextEncoder().encode(text).length, 0);
  const total = rolled.reduce((sum, [value]) => sum + value, 0);
  assertAlmostEquals(whole.metrics.bits_per_byte?.value ?? NaN, -total / bytes / Math.LN2, 1e-9);

  const [results = ""] = [...Deno.readDirSync(lmEval)].flatMap(({ name }) => name.startsWith("results_") ? name : []);
  const { configs } = JSON.parse(Deno.readTextFileSync(join(lmEval, results)));
  assertEquals([configs.facts.doc_to_target, configs.facts.metric_list], ["gold", [{ metric: "acc" }]]);

  const csv = Deno.readTextFileSync(join(out, "report/comparison.csv"));
  for (const column of ["facts", "last", "whole", "both"]) assertStringIncludes(csv, column);

  const { stderr } = await run();
  assertStringIncludes(stderr, "1 finished earlier");
  writeFiles(tasks, { ...FILES, "last.yaml": FILES["last.yaml"].replace("task: last", "task: last\ndescription: x") });
  await run();
  const again = onlyRecord(out);
  // The model is the same, the task is not: it is measured again.
  assertEquals(again.id, record.id);
  const definitions = again.tasks.filter(({ task }) => task === "last").map(({ definition }) => definition?.sha256);
  assert(definitions.some((sha256) => sha256 !== undefined && sha256 !== last.definition?.sha256));
  writeFiles(tasks);

  // Each set of files for lm-evaluation-harness's readers holds the results of one limit.
  const known = new Set([...Deno.readDirSync(lmEval)].map(({ name }) => name));
  await run("--tasks", "last", "--limit", "2");
  const [file = ""] = [...Deno.readDirSync(lmEval)].map(({ name }) => name)
    .filter((name) => name.startsWith("results_") && !known.has(name));
  const written = JSON.parse(Deno.readTextFileSync(join(lmEval, file)));
  assertEquals(written["n-samples"], { last: { original: last.samples.original, effective: 2 } });
  // So does each group, also one that is asked for when its tasks were measured already.
  const groupsOf = () => doneCells(out).map(({ groups }) => groups?.map(({ metrics }) => metrics));
  assertEquals(groupsOf(), [undefined]);
  await run("--tasks", "both", "--limit", "2");
  assertStringIncludes((await run()).stderr, "1 finished earlier");
  // A task that is added leaves it.
  await succeed("eval", out, "--tasks", "tiny-agreement", "--limit", "2");
  assertEquals(groupsOf(), [record.groups?.map(({ metrics }) => metrics)]);
});

folderTest("results of tasks whose files say how many examples the prompt has are found again", async (root) => {
  const own = "include: facts.yaml\nfewshot_split: test\nfewshot_config: {sampler: first_n}\n";
  writeFiles(root, {
    ...FILES,
    "one.yaml": `${own}task: one\nnum_fewshot: 1\n`,
    "none.yaml": `${own}task: none\nnum_fewshot: 0\n`,
  });
  const cases = [
    { flags: ["--tasks", "one"], shots: [1] },
    { flags: ["--tasks", "one,none,whole", "--num-fewshot", "2"], shots: [2, 0, 0] },
  ];
  for (const [i, { flags, shots }] of cases.entries()) {
    const out = join(root, `out ${i}`);
    const run = () => succeed(...RUN, "--limit", "2", "--task-file", root, ...flags, "--out", out);
    await run();
    const asked = () => doneCells(out).flatMap(({ tasks }) => tasks);
    assertEquals(asked().map(({ numFewshot }) => numFewshot), shots);
    assertStringIncludes((await run()).stderr, "1 finished earlier");
    assertEquals(asked().length, shots.length);
  }
});

folderTest("missing data and an unknown task are refused before the first cell", async (root) => {
  writeFiles(root);
  const run = [...RUN, "--out", join(root, "out"), "--task-file", join(root, "facts.yaml")];
  await refused('"fatcs"', ...run, "--tasks", "fatcs");
  Deno.removeSync(join(root, "data/facts.jsonl"));
  await refused("data/facts.jsonl", ...run);
});
