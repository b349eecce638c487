/** The part of `check:lm-eval --task-files` that is about task files: which files of lm-evaluation-harness run, and
 * the comparison of metrics.
 *
 * @module
 */
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { aggregateGroup, measureTask } from "../../benchmarks/evaluation/tasks.ts";
import type { Scorer } from "../../benchmarks/evaluation/scorer.ts";
import { readConfig } from "../../datasets/lm_eval/config.ts";
import { selectTasks } from "../../datasets/lm_eval/task_files.ts";
import { addFileTasks, anyTask } from "../../datasets/mod.ts";
import type { TaskResult } from "../../core/schema/schema.ts";
import { type CheckedTask, harnessTasks, ourExamples } from "./lm_eval_harness.ts";

/** Choices in the contexts, several right answers, other delimiters, a described task, a group whose mean is over all
 * examples: what few of the harness's own files use. */
const OWN = fileURLToPath(new URL("task_files/", import.meta.url));

/** Files below the harness's folder of tasks, or of ours; the task of each, its scored split, and the split that solved
 * examples are drawn from. Records of each split are in `task_files/records/TASK-SPLIT.jsonl`: questions of the tiny
 * world in the task's fields, unequally many, since groups weight by size. */
const CHECKED_FILES: readonly [file: string, task: string, split: string, pool?: string][] = [
  ["sciq/sciq.yaml", "sciq", "test", "train"],
  ["arc/arc_easy.yaml", "arc_easy", "test", "train"],
  ["arc/arc_challenge.yaml", "arc_challenge", "test", "train"],
  ["piqa/piqa.yaml", "piqa", "validation", "train"],
  ["openbookqa/openbookqa.yaml", "openbookqa", "test", "train"],
  ["mmlu/default/mmlu_anatomy.yaml", "mmlu_anatomy", "test", "dev"],
  ["mmlu/default/mmlu_astronomy.yaml", "mmlu_astronomy", "test", "dev"],
  ["anli/anli_r1.yaml", "anli_r1", "test_r1", "train_r1"],
  ["glue/rte/default.yaml", "rte", "validation", "train"],
  ["super_glue/wic/default.yaml", "wic", "validation", "train"],
  ["swag/swag.yaml", "swag", "validation", "train"],
  ["siqa/siqa.yaml", "social_iqa", "validation", "train"],
  ["commonsense_qa/default.yaml", "commonsense_qa", "validation", "train"],
  ["headqa/headqa_en.yaml", "headqa_en", "test", "train"],
  ["xstorycloze/default_en.yaml", "xstorycloze_en", "eval", "train"],
  ["truthfulqa/truthfulqa_mc1.yaml", "truthfulqa_mc1", "validation"],
  ["winogender/winogender.yaml", "winogender_all", "test"],
  ["blimp/adjunct_island.yaml", "blimp_adjunct_island", "train"],
  ["belebele/belebele_eng_Latn.yaml", "belebele_eng_Latn", "test"],
  ["asdiv/default.yaml", "asdiv", "validation"],
  ["lambada/lambada_openai.yaml", "lambada_openai", "test"],
  ["lambada_cloze/lambada_openai_cloze.yaml", "lambada_openai_cloze_yaml", "test"],
  ["pile/pile_arxiv.yaml", "pile_arxiv", "train"],
  [`${OWN}tiny_inputs.yaml`, "tiny_inputs", "test", "train"],
  [`${OWN}tiny_targets.yaml`, "tiny_targets", "validation"],
];

/** Solved examples in the prompts of every other task that has some to draw. */
const FEWSHOT = 2;

/** Metrics by task or group, named as in the harness's results. */
export type Metrics = Map<string, Record<string, number | null>>;

/** Scores all files of the check. */
export async function scoreTaskFiles(
  scorer: Scorer,
  python: string,
): Promise<{ tasks: CheckedTask[]; asked: Pick<CheckedTask, "name" | "config">[]; metrics: Metrics }> {
  const data = join(OWN, "records");
  const installed = await harnessTasks(python);
  const paths = CHECKED_FILES.map(([file]) => resolve(installed, file));
  const group = `${OWN}tiny_group.yaml`;
  const { definitions, groups } = selectTasks([...paths, group], []);
  addFileTasks(definitions);
  const tasks: CheckedTask[] = [];
  const results: TaskResult[] = [];
  for (const [i, [, name, split, pool]] of CHECKED_FILES.entries()) {
    const path = paths[i] ?? "";
    const own = readConfig(path);
    const fewshot = pool !== undefined && i % 2 === 0 && own.num_fewshot === undefined ? FEWSHOT : 0;
    const { result, scored } = await measureTask(scorer, name, { data, fewshot });
    const files = Object.fromEntries(
      [split, ...pool === undefined ? [] : [pool]].map((part) => [part, join(data, `${name}-${part}.jsonl`)]),
    );
    const present = (key: string) => typeof own[key] === "string" && own[key] in files ? own[key] : null;
    const splits = ["training_split", "validation_split", "test_split", "fewshot_split"];
    results.push(result);
    tasks.push({
      name,
      config: {
        include: path,
        dataset_path: "json",
        dataset_name: null,
        dataset_kwargs: { data_files: files },
        ...Object.fromEntries(splits.map((key) => [key, present(key)])),
        ...fewshot > 0 && { num_fewshot: fewshot },
      },
      ours: ourExamples(anyTask(name), scored),
    });
  }
  const totals = groups.map((group) => aggregateGroup(group, results));
  const metrics: Metrics = new Map([
    ...results.map(({ task, metrics }) => [task, metrics] as const),
    ...totals.map(({ group, metrics }) => [group, metrics] as const),
  ].map(([name, metrics]) => [name, named(metrics)]));
  const asked = [...tasks, { name: "tiny_group", config: readConfig(group) }];
  return { tasks, asked: asked.map(({ name, config }) => ({ name, config })), metrics };
}

/** As the harness names them; its standard errors of perplexities are bootstrapped and are not compared. */
function named(metrics: Record<string, { value: number; stderr: number | null }>): Record<string, number | null> {
  return Object.fromEntries(
    Object.entries(metrics).flatMap(([metric, { value, stderr }]) => [
      [`${metric},none`, value] as const,
      ...metric.startsWith("acc") ? [[`${metric}_stderr,none`, stderr] as const] : [],
    ]),
  );
}

/** By how much metrics may differ, relative to their size: perplexities carry the rounding of their log-likelihoods. */
const TOLERANCE = 1e-4;

/** Prints metrics that differ or that the harness has and we have not; returns whether there are none. */
export function compareMetrics(ours: Metrics, theirs: Record<string, Record<string, unknown>>): boolean {
  let compared = 0;
  const wrong: string[] = [];
  for (const [name, own] of ours) {
    const other = theirs[name] ?? {};
    for (const [metric, value] of Object.entries(other)) {
      const isKnown = metric.endsWith(",none") && typeof value === "number" &&
        (metric.startsWith("acc") || !metric.includes("_stderr"));
      if (!isKnown) continue;
      const mine = own[metric];
      compared++;
      if (typeof mine === "number" && Math.abs(mine - value) <= TOLERANCE * Math.max(1, Math.abs(value))) continue;
      wrong.push(`${name} ${metric}: ${mine} here, ${value} there`);
    }
    if (Object.keys(other).length === 0) wrong.push(`${name}: the harness has no results`);
  }
  for (const line of wrong) console.log(line);
  console.log(`${compared} metrics of ${ours.size} tasks and groups compared, ${wrong.length} differ`);
  return wrong.length === 0 && compared > 0;
}
