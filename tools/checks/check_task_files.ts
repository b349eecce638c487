/** The part of `deno task check:lm-eval --task-files` that is about task files: our side, what the harness is asked, and the
 * comparison of metrics.
 *
 * @module
 */
import { join } from "node:path";
import { aggregateGroup } from "../../benchmarks/evaluation/groups.ts";
import { measureTask } from "../../benchmarks/evaluation/tasks.ts";
import type { Scorer } from "../../benchmarks/evaluation/scorer.ts";
import type { TaskResult } from "../../core/schema/schema.ts";
import { readConfig } from "../../datasets/lm_eval/config.ts";
import { selectTasks } from "../../datasets/lm_eval/task_files.ts";
import { addFileTasks, anyTask } from "../../datasets/mod.ts";
import { type CheckedTask, harnessTasks, ourExamples } from "./lm_eval_harness.ts";
import { CHECKED_FILES, GROUP, writeTaskData } from "./lm_eval_task_files.ts";

/** Records of each task. */
const RECORDS = 6;
/** Solved examples in the prompts of every other task that has some to draw. */
const FEWSHOT = 2;

/** Metrics by task or group, named as in the harness's results. */
export type Metrics = Map<string, Record<string, number | null>>;

/** Scores all files of the check with their data in `work`. */
export async function scoreTaskFiles(
  scorer: Scorer,
  python: string,
  work: string,
): Promise<{ tasks: CheckedTask[]; asked: Pick<CheckedTask, "name" | "config">[]; metrics: Metrics }> {
  Deno.mkdirSync(work);
  const data = writeTaskData(work, RECORDS);
  const installed = await harnessTasks(python);
  const paths = CHECKED_FILES.map(({ file, own }) => {
    if (own === undefined) return join(installed, file);
    Deno.writeTextFileSync(join(work, file), own);
    return join(work, file);
  });
  const group = join(work, "tiny_group.yaml");
  Deno.writeTextFileSync(group, GROUP);
  const { definitions, groups } = selectTasks([...paths, group], []);
  addFileTasks(definitions);
  const tasks: CheckedTask[] = [];
  const results: TaskResult[] = [];
  for (const [i, { task: name, pool }] of CHECKED_FILES.entries()) {
    const path = paths[i] ?? "";
    const own = readConfig(path);
    const fewshot = pool !== undefined && i % 2 === 0 && own.num_fewshot === undefined ? FEWSHOT : 0;
    const { result, scored } = await measureTask(scorer, name, { data: work, fewshot });
    const files = data.get(name) ?? {};
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
      seconds: result.seconds,
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
