/** Task files that come with lm-evaluation-harness, and small local data for each in the form that it reads: questions of the
 * tiny world under the names of the data set's columns. For `deno task check:lm-eval --task-files`.
 *
 * @module
 */
import { join } from "node:path";

/** A question of the tiny world with four answers. */
interface Question {
  context: string;
  choices: string[];
  gold: number;
}

type Row = Record<string, unknown>;

/** A task file and records for it. */
interface CheckedFile {
  /** Path below the harness's folder of tasks; of a file of ours, its text is in `own`. */
  file: string;
  /** A task that only this check has. */
  own?: string;
  task: string;
  /** The split that is scored. */
  split: string;
  /** The split that solved examples are drawn from, where the check asks for some. */
  pool?: string;
  row(question: Question, index: number): Row;
}

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

/** Choices in the contexts, several right answers, other delimiters, a described task: what few of the harness's own files
 * use. */
const OWN = {
  inputs: `task: tiny_inputs
dataset_path: tiny/inputs
output_type: multiple_choice
training_split: train
test_split: test
description: "Stories of {{place}}.\\n\\n"
doc_to_text: right
doc_to_choice: "{{[before + first, before + second]}}"
doc_to_target: after
target_delimiter: ""
fewshot_delimiter: "\\n---\\n"
metric_list:
  - metric: acc
metadata: {version: 3}
`,
  targets: `task: tiny_targets
dataset_path: tiny/targets
output_type: multiple_choice
validation_split: validation
num_fewshot: 0
doc_to_text: "{% for one in told %}{{loop.index}}: {{one.strip()}}\\n{% endfor %}Was it so ({{ None }}, {{ sure }})?"
doc_to_choice: ["no", "yes", "who knows"]
doc_to_target: "{{[kind, 2]}}"
metric_list:
  - metric: acc
  - metric: acc_norm
`,
};

/** What the check runs. */
export const CHECKED_FILES: readonly CheckedFile[] = [
  {
    file: "sciq/sciq.yaml",
    task: "sciq",
    split: "test",
    pool: "train",
    row: (question) => {
      const [distractor1, distractor2, distractor3] = wrongOf(question);
      const answers = { distractor1, distractor2, distractor3, correct_answer: rightOf(question) };
      return { question: question.context, ...answers, support: `\n ${question.context} é 🙂` };
    },
  },
  { file: "arc/arc_easy.yaml", task: "arc_easy", split: "test", pool: "train", row: arc },
  { file: "arc/arc_challenge.yaml", task: "arc_challenge", split: "test", pool: "train", row: arc },
  {
    file: "piqa/piqa.yaml",
    task: "piqa",
    split: "validation",
    pool: "train",
    row: (question, index) => {
      const pair = [rightOf(question), wrongOf(question)[0]];
      const [sol1, sol2] = index % 2 === 0 ? pair : pair.reverse();
      return { goal: question.context, sol1, sol2, label: index % 2 };
    },
  },
  {
    file: "openbookqa/openbookqa.yaml",
    task: "openbookqa",
    split: "test",
    pool: "train",
    row: (question, index) => ({
      id: `o${index}`,
      question_stem: question.context,
      choices: labelled(question.choices),
      answerKey: ` ${LETTERS[question.gold]}`,
    }),
  },
  { file: "mmlu/default/mmlu_anatomy.yaml", task: "mmlu_anatomy", split: "test", pool: "dev", row: mmlu },
  { file: "mmlu/default/mmlu_astronomy.yaml", task: "mmlu_astronomy", split: "test", pool: "dev", row: mmlu },
  {
    file: "anli/anli_r1.yaml",
    task: "anli_r1",
    split: "test_r1",
    pool: "train_r1",
    row: (question, index) => ({ premise: whole(question), hypothesis: question.context, label: index % 3 }),
  },
  {
    file: "glue/rte/default.yaml",
    task: "rte",
    split: "validation",
    pool: "train",
    row: (question, index) => ({
      sentence1: whole(question),
      sentence2: question.context,
      label: index % 2,
      idx: index,
    }),
  },
  {
    file: "super_glue/wic/default.yaml",
    task: "wic",
    split: "validation",
    pool: "train",
    row: (question, index) => ({
      word: "a",
      sentence1: `é ${question.context}`,
      sentence2: whole(question),
      start1: 2,
      end1: 6 + index,
      label: index % 2,
    }),
  },
  {
    file: "swag/swag.yaml",
    task: "swag",
    split: "validation",
    pool: "train",
    row: (question) => ({
      startphrase: question.context,
      ...Object.fromEntries(question.choices.map((choice, i) => [`ending${i}`, choice])),
      label: question.gold,
    }),
  },
  {
    file: "siqa/siqa.yaml",
    task: "social_iqa",
    split: "validation",
    pool: "train",
    row: (question, index) => {
      const [answerA, answerB, answerC] = question.choices;
      return {
        context: question.context,
        question: "And then?",
        answerA,
        answerB,
        answerC,
        label: String(1 + index % 3),
      };
    },
  },
  {
    file: "commonsense_qa/default.yaml",
    task: "commonsense_qa",
    split: "validation",
    pool: "train",
    row: (question) => ({
      question: `${question.context} `,
      choices: labelled([...question.choices, "nobody"]),
      answerKey: LETTERS[question.gold],
    }),
  },
  {
    file: "headqa/headqa_en.yaml",
    task: "headqa_en",
    split: "test",
    pool: "train",
    row: (question) => ({
      qtext: question.context,
      answers: question.choices.map((atext, i) => ({ aid: i + 1, atext })),
      ra: question.gold + 1,
    }),
  },
  {
    file: "xstorycloze/default_en.yaml",
    task: "xstorycloze_en",
    split: "eval",
    pool: "train",
    row: (question, index) => ({
      ...Object.fromEntries(sentences(question).map((text, i) => [`input_sentence_${i + 1}`, text])),
      sentence_quiz1: question.choices[0],
      sentence_quiz2: question.choices[1],
      answer_right_ending: 1 + index % 2,
    }),
  },
  {
    file: "truthfulqa/truthfulqa_mc1.yaml",
    task: "truthfulqa_mc1",
    split: "validation",
    row: (question) => ({
      question: question.context,
      mc1_targets: { choices: [rightOf(question), ...wrongOf(question)], labels: [1, 0, 0, 0] },
    }),
  },
  {
    file: "winogender/winogender.yaml",
    task: "winogender_all",
    split: "test",
    row: (question, index) => ({
      sentence: question.context,
      pronoun: index % 2 === 0 ? "hIS" : "ella",
      occupation: question.choices[0],
      participant: question.choices[1],
      label: index % 2,
    }),
  },
  {
    file: "blimp/adjunct_island.yaml",
    task: "blimp_adjunct_island",
    split: "train",
    row: (question) => ({
      sentence_good: whole(question),
      sentence_bad: `${question.context} ${wrongOf(question)[0]}`,
    }),
  },
  {
    file: "belebele/belebele_eng_Latn.yaml",
    task: "belebele_eng_Latn",
    split: "test",
    row: (question) => ({
      flores_passage: whole(question),
      question: `${question.context}\n`,
      ...Object.fromEntries(question.choices.map((choice, i) => [`mc_answer${i + 1}`, choice])),
      correct_answer_num: String(1 + question.gold),
    }),
  },
  {
    file: "asdiv/default.yaml",
    task: "asdiv",
    split: "validation",
    row: (question) => ({
      body: whole(question),
      question: question.context,
      answer: `${rightOf(question)} (all of them)`,
    }),
  },
  {
    file: "lambada/lambada_openai.yaml",
    task: "lambada_openai",
    split: "test",
    row: (question) => ({ text: whole(question) }),
  },
  {
    file: "lambada_cloze/lambada_openai_cloze.yaml",
    task: "lambada_openai_cloze_yaml",
    split: "test",
    row: (question) => ({ text: whole(question) }),
  },
  {
    file: "pile/pile_arxiv.yaml",
    task: "pile_arxiv",
    split: "train",
    row: (question) => ({ text: `${whole(question)}\n\n${question.context} é\u00a0x`.repeat(4), meta: {} }),
  },
  {
    file: "tiny_inputs.yaml",
    own: OWN.inputs,
    task: "tiny_inputs",
    split: "test",
    pool: "train",
    row: (question, index) => ({
      place: "the valley",
      before: `${question.context} `,
      first: question.choices[0],
      second: question.choices[1],
      after: " and that was all.",
      right: index % 2,
    }),
  },
  {
    file: "tiny_targets.yaml",
    own: OWN.targets,
    task: "tiny_targets",
    split: "validation",
    row: (question, index) => ({
      told: sentences(question).map((text) => ` ${text}`),
      sure: index % 2 === 0,
      kind: index % 2,
    }),
  },
];

/** A group over two of the files, with the mean over all of their examples. */
export const GROUP = `group: tiny_group
task: [mmlu_anatomy, mmlu_astronomy]
aggregate_metric_list:
  - {metric: acc, aggregation: mean, weight_by_size: true}
metadata: {version: 1}
`;

/** Writes `count` records of the scored split and as many of the others for each file, as \`TASK-SPLIT.jsonl\`.
 * @returns the files of each task by split */
export function writeTaskData(folder: string, count: number): Map<string, Record<string, string>> {
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
