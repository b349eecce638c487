import { assertEquals, assertRejects, assertThrows } from "@std/assert";
import { join } from "node:path";
import { wantedSplits } from "../../benchmarks/commands/fetch.ts";
import { aggregateGroup } from "../../benchmarks/evaluation/tasks.ts";
import { FileFormatError, MissingDataError, UsageError } from "../../core/util/errors.ts";
import type { TaskResult } from "../../core/schema/schema.ts";
import type { FileTask, TaskDefinition } from "../../datasets/define.ts";
import { definitionHash, fileTask, selectTasks } from "../../datasets/lm_eval/task_files.ts";
import { withFiles } from "../support/weights_fixture.ts";

const lines = (rows: unknown[]) => rows.map((row) => `${JSON.stringify(row)}\n`).join("");
/** The only task of a file. */
function taskOf(path: string): FileTask {
  const [definition] = selectTasks([path], []).definitions;
  return fileTask(definition as TaskDefinition);
}

const BASE = `
task: base
dataset_path: json
dataset_kwargs: {data_files: {test: data/test.jsonl, train: [data/train.jsonl]}}
output_type: multiple_choice
test_split: test
training_split: train
doc_to_text: "{{asked.strip()}} ->"
doc_to_choice: "{{[one, two]}}"
doc_to_target: right
description: "On {{topic}}: "
metadata: {version: 2}
`;
const DATA = {
  "data/test.jsonl": lines([
    { asked: " is it so ", one: "yes", two: "no", right: 0, topic: "x" },
    { asked: "again?", one: "né", two: "no", right: "no" },
  ]),
  "data/train.jsonl": lines([{ asked: "was it", one: "a", two: "b", right: 1, topic: "z" }]),
};

Deno.test("a task file gives the prompts that lm-evaluation-harness makes of it", async () => {
  const files = { "base.yaml": BASE.replace("On {{topic}}", "On"), ...DATA };
  await withFiles(files, async (folder) => {
    const task = taskOf(join(folder, "base.yaml"));
    const { id, version, outputType, metrics } = task;
    assertEquals([id, version, outputType, metrics], ["base", 2, "multiple_choice", ["acc", "acc_norm"]]);
    const { examples, records, total, numFewshot, dataset } = await task.load({ fewshot: 1 });
    assertEquals([total, numFewshot, dataset.split, dataset.source], [2, 1, "test", "data/test.jsonl"]);
    const prefix = "On: was it -> b\n\n";
    const choicesOf = (context: string, ...texts: string[]) =>
      texts.map((text) => ({ context: `${context} ->`, continuation: ` ${text}`, text }));
    assertEquals(examples, [
      { prefix, choices: choicesOf("is it so", "yes", "no"), gold: 0, target: "0" },
      // A text that is a choice; the log has the text.
      { prefix, choices: choicesOf("again?", "né", "no"), gold: 1, target: "no" },
    ]);
    // As in a table, what a record lacks is null.
    assertEquals((records[1] as Record<string, unknown>).topic, null);
  });
});

Deno.test("the example of docs/tasks-and-data.md is one", async () => {
  const text = Deno.readTextFileSync(new URL("../../docs/tasks-and-data.md", import.meta.url));
  const [, yaml = ""] = /```yaml\n(.*?)```/s.exec(text) ?? [];
  const [, record = ""] = /is\s+`(\{"question".*?\})`/s.exec(text) ?? [];
  const data = { "data/capitals.jsonl": record, "data/capitals-train.jsonl": `${record}\n${record}` };
  await withFiles({ "task.yaml": yaml, ...data }, async (folder) => {
    const { examples: [example], numFewshot } = await taskOf(join(folder, "task.yaml")).load({});
    assertEquals(example?.choices.map(({ text }) => text), ["Nairobi", "Lagos", "Cairo"]);
    assertEquals([example?.gold, numFewshot], [0, 2]);
    const asked = "Question: Which city is the capital of Kenya?\nAnswer:";
    assertEquals(example?.prefix, `Questions about countries.\n\n${`${asked} Nairobi\n\n`.repeat(2)}`);
  });
});

Deno.test("includes are merged, later keys win, and a file that includes itself is refused", async () => {
  const files = {
    "base.yaml": BASE,
    "sub/child.yaml": `include: ../base.yaml\ntask: child\ndoc_to_choice: [no, "yes"]\n`,
    "sub/good.yaml": `include: ../base.yaml\ntask: good\ndoc_to_choice: ["no", "yes"]\n`,
    "loop.yaml": "include: [base.yaml, loop.yaml]\n",
  };
  await withFiles(files, (folder) => {
    // YAML 1.1, as PyYAML reads it: no without quotes is false.
    assertThrows(() => taskOf(join(folder, "sub/child.yaml")), FileFormatError, "doc_to_choice");
    const { definitions: [definition] } = selectTasks([join(folder, "sub/good.yaml")], []);
    const { task, doc_to_choice, description } = definition!.config;
    assertEquals([task, doc_to_choice, description], ["good", ["no", "yes"], "On {{topic}}: "]);
    assertThrows(() => selectTasks([join(folder, "loop.yaml")], []), FileFormatError, "includes itself");
  });
});

Deno.test("what is not supported is refused by name", async () => {
  const refusals: [change: string, message: string][] = [
    ["process_docs: !function utils.process", "process_docs is the Python function utils.process"],
    ["doc_to_text: !function utils.text", "doc_to_text is the Python function utils.text"],
    ["filter_list: [{name: a, filter: [{function: take_first}]}]", "filters are not supported"],
    ["output_type: generate_until", "generation is not supported"],
    ["metric_list: [{metric: f1}]", 'the metric "f1" is not supported'],
    ["metric_list: [{metric: acc, aggregation: median}]", 'the aggregation "median" of acc'],
    ["metric_list: [{metric: perplexity}]", "not supported for multiple_choice"],
    ["class: !function task.Own", "written in Python"],
    ["repeats: 3", "repeats must be 1"],
    ["fewshot_splt: train", 'Did you mean "fewshot_split"?'],
    ["doc_to_choice: null", "doc_to_choice is missing"],
    ["num_fewshot: -1", "num_fewshot"],
    ["gen_prefix: Answer", "generation prefix"],
  ];
  for (const [change, message] of refusals) {
    const key = change.split(":")[0] ?? "";
    const text = BASE.split("\n").filter((line) => !line.startsWith(`${key}:`)).join("\n");
    await withFiles({ "task.yaml": `${text}\n${change}\n` }, (folder) => {
      const path = join(folder, "task.yaml");
      assertThrows(() => selectTasks([path], []), FileFormatError, message);
    });
  }
});

Deno.test("records that a template does not fit, and data that are not there, are named", async () => {
  const other = { ...DATA, "data/test.jsonl": lines([{ asked: "a", one: "b", topic: "c" }]) };
  await withFiles({ "base.yaml": BASE, ...other }, async (folder) => {
    const task = taskOf(join(folder, "base.yaml"));
    await assertRejects(() => task.load({}), FileFormatError, 'record 1: the template "{{[one, two]}}": "two"');
    Deno.removeSync(join(folder, "data/test.jsonl"));
    await assertRejects(() => task.load({}), MissingDataError, join(folder, "data/test.jsonl"));
  });
  const hub = BASE.replace("dataset_path: json", "dataset_path: some/where").replace(/dataset_kwargs.*/, "");
  await withFiles({ "hub.yaml": hub, "given/base-test.jsonl": DATA["data/test.jsonl"] }, async (folder) => {
    const task = taskOf(join(folder, "hub.yaml"));
    const fetch = `bench fetch ${join(folder, "hub.yaml")}`;
    await assertRejects(() => task.load({ cache: folder }), MissingDataError, fetch);
    const { total } = await task.load({ cache: folder, data: join(folder, "given") });
    assertEquals(total, 2);
    // Without a split of its own, solved examples are of the first that there is.
    const hub = Deno.readTextFileSync(join(folder, "hub.yaml"));
    Deno.writeTextFileSync(join(folder, "few.yaml"), hub.replace("training_split: train", "validation_split: dev"));
    assertEquals(wantedSplits([join(folder, "few.yaml")]).map(({ split }) => split), ["test", "dev"]);
    const wanted = wantedSplits([join(folder, "hub.yaml")]);
    const found = wanted.map(({ source: { id, hub }, split }) => `${id} ${hub?.repo} ${split}`);
    assertEquals(found, ["base some/where test", "base some/where train"]);
  });
});

Deno.test("a task none of whose answers is a choice is refused", async () => {
  const files = { "base.yaml": BASE.replace("doc_to_target: right", "doc_to_target: rihgt"), ...DATA };
  await withFiles(files, async (folder) => {
    const task = taskOf(join(folder, "base.yaml"));
    await assertRejects(() => task.load({}), FileFormatError, 'doc_to_target gives "rihgt"');
  });
});

Deno.test("data come from lists in JSON, from text, and from a folder", async () => {
  const rolling = (more: string) =>
    `task: lines\noutput_type: loglikelihood_rolling\ntest_split: test\ndoc_to_target: text\n${more}`;
  const files = {
    "list.yaml": rolling("dataset_path: json\ndataset_kwargs: {data_files: {test: list.json}}\n"),
    "list.json": `[\n  {"text": "a"},\n  {"text": "b"}\n]\n`,
    "text.yaml": rolling("dataset_path: text\ndataset_kwargs: {data_files: {test: a.txt}}\n"),
    "a.txt": "first\n\nlast\n",
    "folder.yaml": rolling("dataset_path: ./set\n"),
    "set/test.jsonl": lines([{ text: "c" }]),
  };
  await withFiles(files, async (folder) => {
    const texts = async (name: string) =>
      (await taskOf(join(folder, name)).load({})).examples.map(({ choices }) => choices[0]?.continuation);
    assertEquals(await texts("list.yaml"), ["a", "b"]);
    assertEquals(await texts("text.yaml"), ["first", "", "last"]);
    assertEquals(await texts("folder.yaml"), ["c"]);
  });
});

Deno.test("files, folders, tags and groups say which tasks run", async () => {
  const named = (name: string, more = "") => BASE.replace("task: base", `task: ${name}\n${more}`);
  const files = {
    "a.yaml": named("a", "tag: letters"),
    "b.yaml": named("b", "tag: [letters, others]"),
    "c.yaml": named("c"),
    "part.yaml": "output_type: multiple_choice\n",
    "group.yaml": "group: all\ntask: [letters, {task: c, num_fewshot: 3}, {group: inner, task: [arc_easy]}]\n" +
      "doc_to_target: 1\naggregate_metric_list: {metric: acc}\n",
  };
  await withFiles(files, (folder) => {
    const select = (paths: string[], names: string[]) =>
      selectTasks(paths.map((path) => join(folder, path)), names, ["arc_easy"]);
    assertEquals(select(["a.yaml", "c.yaml"], ["arc_easy"]).tasks, ["arc_easy", "a", "c"]);
    assertEquals(select(["."], ["letters"]).tasks, ["a", "b"]);
    assertEquals(select(["."], ["others", "arc_easy"]).tasks, ["b", "arc_easy"]);
    const { tasks, groups, definitions } = select(["."], ["all"]);
    assertEquals(tasks, ["a", "b", "c", "arc_easy"]);
    assertEquals(groups, [
      { group: "all::inner", tasks: ["arc_easy"], metrics: [] },
      { group: "all", tasks: ["a", "b", "c", "arc_easy"], metrics: [{ metric: "acc", weightBySize: true }] },
    ]);
    assertEquals(definitions.map(({ config }) => config.doc_to_target), [1, 1, 1]);
    assertEquals(definitions.map(({ config }) => config.num_fewshot), [undefined, undefined, 3]);
    // Twice the same is no second way, also with keys that are not kept.
    const again = "generation_kwargs: {until: []}\ndoc_to_decontamination_query: q\ntag: [letters, others]";
    Deno.writeTextFileSync(join(folder, "b.yaml"), named("b", again));
    assertEquals(select(["."], ["letters", "others"]).tasks, ["a", "b"]);
    const unknown = 'Unknown task "d". Did you mean "a"? Known: arc_easy, a, letters';
    assertThrows(() => select(["a.yaml"], ["d"]), UsageError, unknown);
    assertThrows(() => select(["none.yaml"], []), UsageError, "does not exist");
    assertThrows(() => select(["part.yaml"], []), FileFormatError, "neither a task nor a group");
  });
});

Deno.test("the hash of a definition depends on what files say and not on where they are", async () => {
  const hashes: string[] = [];
  for (const text of [BASE, BASE, BASE.replace("->", "=>")]) {
    await withFiles({ "base.yaml": text, ...DATA }, (folder) => {
      hashes.push(definitionHash(taskOf(join(folder, "base.yaml")).definition));
    });
  }
  assertEquals([hashes[0] === hashes[1], hashes[0] === hashes[2]], [true, false]);
});

Deno.test("aggregateGroup() weights by size with the pooled error, or all alike", () => {
  const result = (task: string, value: number, stderr: number, effective: number) =>
    ({
      task,
      metrics: { acc: { value, stderr, higherIsBetter: true } },
      samples: { original: effective, effective },
    }) as unknown as TaskResult;
  // 0/1 outcomes 1 1 0 and 0 1 0 0 0: the pooled deviation about their own means, by hand.
  const results = [result("a", 2 / 3, 1 / 3, 3), result("b", 1 / 5, 1 / 5, 5), result("c", 1, 0, 9)];
  const group = (weightBySize: boolean) =>
    aggregateGroup({ group: "g", tasks: ["a", "b", "d"], metrics: [{ metric: "acc", weightBySize }] }, results);
  const close = (actual: number | null | undefined, expected: number) =>
    assertEquals(Math.abs((actual ?? NaN) - expected) < 1e-12, true, `${actual}, not ${expected}`);
  const { acc } = group(true).metrics;
  close(acc?.value, 3 / 8);
  close(acc?.stderr, Math.sqrt((2 * (1 / 9) * 3 + 4 * (1 / 25) * 5) / (8 - 2) / 8));
  const alike = group(false).metrics.acc;
  close(alike?.value, (2 / 3 + 1 / 5) / 2);
  close(alike?.stderr, Math.sqrt(1 / 9 + 1 / 25) / 2);
});
