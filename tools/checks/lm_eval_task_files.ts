/** The part of `check:lm-eval --task-files` that is about task files: which files of lm-evaluation-harness run, small
 * records for each made of questions of the tiny world, and the comparison of metrics.
 *
 * @module
 */
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { aggregateGroup } from "../../benchmarks/evaluation/groups.ts";
import { measureTask } from "../../benchmarks/evaluation/tasks.ts";
import type { Scorer } from "../../benchmarks/evaluation/scorer.ts";
import { readConfig } from "../../datasets/lm_eval/config.ts";
import { selectTasks } from "../../datasets/lm_eval/task_files.ts";
import { addFileTasks, anyTask } from "../../datasets/mod.ts";
import type { TaskResult } from "../../core/schema/schema.ts";
import { type CheckedTask, harnessTasks, ourExamples } from "./lm_eval_harness.ts";

/** A question of the tiny world with four answers. */
interface Question {
  context: string;
  choices: string[];
  gold: number;
}

type Row = Record<string, unknown>;

type MakeRow = (question: Question, index: number) => Row;

/** A task file and records for it. */
interface CheckedFile {
  /** Path below the harness's folder of tasks, or of a file that only this check has. */
  file: string;
  task: string;
  /** The split that is scored. */
  split: string;
  /** The split that solved examples are drawn from. */
  pool?: string;
  row: MakeRow;
}

function checked(file: string, task: string, [split, pool]: [string, string?], row: MakeRow): CheckedFile {
  return { file, task, split, pool, row };
}
/** Fields `NAME1`, `NAME2`, ... from the number `first`. */
const numbered = (name: string, first: number, values: readonly unknown[]): Row =>
  Object.fromEntries(values.map((value, i) => [`${name}${first + i}`, value]));
const LETTERS = ["A", "B", "C", "D", "E"];
const wrongOf = ({ choices, gold }: Question) => choices.filter((_, i) => i !== gold);
const rightOf = ({ choices, gold }: Question) => choices[gold] ?? "";
const labelled = (choices: readonly string[]) => ({ text: choices, label: LETTERS.slice(0, choices.length) });
const sentences = ({ context }: Question) => [...context.split(". "), "", "", "", ""].slice(0, 4);
const whole = (question: Question) => `${question.context} ${rightOf(question)}`;
const arc = (question: Question, index: number): Row => ({
  id: `q${index}`,
  question: question.context,
  choices: labelled(question.choices),
  answerKey: LETTERS[question.gold],
});
const mmlu = (question: Question): Row => ({
  question: ` ${question.context}\n`,
  subject: "tiny",
  choices: question.choices,
  answer: question.gold,
});

/** Choices in the contexts, several right answers, other delimiters, a described task, a group whose mean is over all
 * examples: what few of the harness's own files use. */
const OWN = fileURLToPath(new URL("task_files/", import.meta.url));

/** What the check runs: a file, its task, the scored split, the split of solved examples, its records. */
const CHECKED_FILES: readonly CheckedFile[] = [
  checked("sciq/sciq.yaml", "sciq", ["test", "train"], (question) => {
    const [distractor1, distractor2, distractor3] = wrongOf(question);
    const answers = { distractor1, distractor2, distractor3, correct_answer: rightOf(question) };
    return { question: question.context, ...answers, support: `\n ${question.context} é 🙂` };
  }),
  checked("arc/arc_easy.yaml", "arc_easy", ["test", "train"], arc),
  checked("arc/arc_challenge.yaml", "arc_challenge", ["test", "train"], arc),
  checked("piqa/piqa.yaml", "piqa", ["validation", "train"], (question, index) => {
    const pair = [rightOf(question), wrongOf(question)[0]];
    const [sol1, sol2] = index % 2 === 0 ? pair : pair.reverse();
    return { goal: question.context, sol1, sol2, label: index % 2 };
  }),
  checked("openbookqa/openbookqa.yaml", "openbookqa", ["test", "train"], ({ context, choices, gold }, index) => ({
    id: `o${index}`,
    question_stem: context,
    choices: labelled(choices),
    answerKey: ` ${LETTERS[gold]}`,
  })),
  checked("mmlu/default/mmlu_anatomy.yaml", "mmlu_anatomy", ["test", "dev"], mmlu),
  checked("mmlu/default/mmlu_astronomy.yaml", "mmlu_astronomy", ["test", "dev"], mmlu),
  checked("anli/anli_r1.yaml", "anli_r1", ["test_r1", "train_r1"], (question, index) => ({
    premise: whole(question),
    hypothesis: question.context,
    label: index % 3,
  })),
  checked("glue/rte/default.yaml", "rte", ["validation", "train"], (question, idx) => ({
    sentence1: whole(question),
    sentence2: question.context,
    label: idx % 2,
    idx,
  })),
  checked("super_glue/wic/default.yaml", "wic", ["validation", "train"], (question, index) => ({
    word: "a",
    sentence1: `é ${question.context}`,
    sentence2: whole(question),
    start1: 2,
    end1: 6 + index,
    label: index % 2,
  })),
  checked("swag/swag.yaml", "swag", ["validation", "train"], ({ context, choices, gold }) => ({
    startphrase: context,
    ...numbered("ending", 0, choices),
    label: gold,
  })),
  checked("siqa/siqa.yaml", "social_iqa", ["validation", "train"], ({ context, choices }, index) => {
    const [answerA, answerB, answerC] = choices;
    return { context, question: "And then?", answerA, answerB, answerC, label: String(1 + index % 3) };
  }),
  checked("commonsense_qa/default.yaml", "commonsense_qa", ["validation", "train"], ({ context, choices, gold }) => ({
    question: `${context} `,
    choices: labelled([...choices, "nobody"]),
    answerKey: LETTERS[gold],
  })),
  checked("headqa/headqa_en.yaml", "headqa_en", ["test", "train"], ({ context, choices, gold }) => ({
    qtext: context,
    answers: choices.map((atext, i) => ({ aid: i + 1, atext })),
    ra: gold + 1,
  })),
  checked("xstorycloze/default_en.yaml", "xstorycloze_en", ["eval", "train"], (question, index) => ({
    ...numbered("input_sentence_", 1, sentences(question)),
    ...numbered("sentence_quiz", 1, question.choices.slice(0, 2)),
    answer_right_ending: 1 + index % 2,
  })),
  checked("truthfulqa/truthfulqa_mc1.yaml", "truthfulqa_mc1", ["validation"], (question) => ({
    question: question.context,
    mc1_targets: { choices: [rightOf(question), ...wrongOf(question)], labels: [1, 0, 0, 0] },
  })),
  checked("winogender/winogender.yaml", "winogender_all", ["test"], ({ context, choices }, index) => ({
    sentence: context,
    pronoun: index % 2 === 0 ? "hIS" : "ella",
    occupation: choices[0],
    participant: choices[1],
    label: index % 2,
  })),
  checked("blimp/adjunct_island.yaml", "blimp_adjunct_island", ["train"], (question) => ({
    sentence_good: whole(question),
    sentence_bad: `${question.context} ${wrongOf(question)[0]}`,
  })),
  checked("belebele/belebele_eng_Latn.yaml", "belebele_eng_Latn", ["test"], (question) => ({
    flores_passage: whole(question),
    question: `${question.context}\n`,
    ...numbered("mc_answer", 1, question.choices),
    correct_answer_num: String(1 + question.gold),
  })),
  checked("asdiv/default.yaml", "asdiv", ["validation"], (question) => ({
    body: whole(question),
    question: question.context,
    answer: `${rightOf(question)} (all of them)`,
  })),
  checked("lambada/lambada_openai.yaml", "lambada_openai", ["test"], (question) => ({ text: whole(question) })),
  checked("lambada_cloze/lambada_openai_cloze.yaml", "lambada_openai_cloze_yaml", ["test"], (question) => ({
    text: whole(question),
  })),
  checked("pile/pile_arxiv.yaml", "pile_arxiv", ["train"], (question) => ({
    text: `${whole(question)}\n\n${question.context} é\u00a0x`.repeat(4),
    meta: {},
  })),
  checked(OWN + "tiny_inputs.yaml", "tiny_inputs", ["test", "train"], ({ context, choices }, index) => ({
    place: "the valley",
    before: `${context} `,
    first: choices[0],
    second: choices[1],
    after: " and that was all.",
    right: index % 2,
  })),
  checked(OWN + "tiny_targets.yaml", "tiny_targets", ["validation"], (question, index) => ({
    told: sentences(question).map((text) => ` ${text}`),
    sure: index % 2 === 0,
    kind: index % 2,
  })),
];

/** Writes `count` records of the scored split and as many of the others for each file, as \`TASK-SPLIT.jsonl\`.
 * @returns the files of each task by split */
function writeTaskData(folder: string, count: number): Map<string, Record<string, string>> {
  const source = new URL("../../datasets/tiny_world/data/facts.jsonl", import.meta.url);
  const questions: Question[] = Deno.readTextFileSync(source).trimEnd().split("\n").map((line) => JSON.parse(line));
  const files = new Map<string, Record<string, string>>();
  for (const [place, { task, split, pool, row }] of CHECKED_FILES.entries()) {
    const splits: Record<string, string> = {};
    for (const [part, name] of [...new Set([split, ...pool === undefined ? [] : [pool]])].entries()) {
      const path = join(folder, `${task}-${name}.jsonl`);
      // Groups weight by size, so sizes differ.
      const from = (37 * place + 211 * part) % 180;
      const rows = questions.slice(from, from + count + place % 3).map((question, i) => row(question, i));
      Deno.writeTextFileSync(path, rows.map((one) => `${JSON.stringify(one)}\n`).join(""));
      splits[name] = path;
    }
    files.set(task, splits);
  }
  return files;
}

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
  const paths = CHECKED_FILES.map(({ file }) => resolve(installed, file));
  const group = `${OWN}tiny_group.yaml`;
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
