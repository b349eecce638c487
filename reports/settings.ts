/** A cell's settings in words: the one table that reports, captions, comparisons, CSV and model cards read.
 *
 * @module
 */
import { corpusLabel, settingWords } from "../core/schema/cell_names.ts";
import {
  type Cell,
  type DoneRecord,
  ofTask,
  type RemovedType,
  scaleRateOf,
  type TrainingOptions,
  type TrainingReport,
} from "../core/schema/schema.ts";
import { counted } from "../core/util/words.ts";
import { BUDGET_WORDS } from "./budget.ts";
import { baseName } from "./format.ts";

/** A name and a text. */
export interface Fact {
  name: string;
  text: string;
}

/** A cell and its finished runs: what was asked for, and what was done. */
export interface Subject {
  cell: Cell;
  runs: readonly DoneRecord[];
}

/** Names of what may be removed. */
export const UNIT_WORDS: Record<RemovedType, string> = {
  "ffn": "FFN channels",
  "query-heads": "query heads",
  "kv-groups": "key/value groups",
  "layer": "layers",
  "hidden": "hidden dimensions",
};

/** What changes kept weights: in words, and in titles. */
const RECOVERY = {
  none: { text: "none", title: "" },
  scales: { text: "one scale per kept unit, weights frozen", title: "trained scales" },
  lora: { text: "LoRA adapters and one scale per kept unit, merged", title: "LoRA recovery" },
  choice: { text: "none, but a choice of units that is learned", title: "learned choice" },
};
const COMPENSATION = {
  "none": { text: "none", title: "" },
  "least-squares": { text: "least squares on output and down maps", title: "least-squares compensation" },
  "least-squares-in-turn": {
    text: "least squares on output and down maps, each on the inputs from the layers already cut and corrected",
    title: "least-squares compensation in turn",
  },
};
const ARITHMETIC = { exact: "f32", fast: "reduced-precision products (TF32 on CUDA, bfloat16 on CPUs), f32 sums" };

type Change = typeof RECOVERY.none;

/** How kept weights were trained. */
export const recoveryOf = ({ cell: { recover, training } }: Subject): Change =>
  RECOVERY[recover ?? (training ? "choice" : "none")];
/** How kept weights were corrected without training. */
export const compensationOf = ({ cell }: Subject): Change => COMPENSATION[cell.compensate ?? "none"];

const number = (value: number) => String(Number(value.toPrecision(6)));
const percent = (part: number) => `${number(100 * part)} %`;

/** An amount of training. */
export interface Amount {
  steps: number;
  tokens: number;
}

/** Steps and tokens of a training, as they ran. */
export const trainingDone = (stages: readonly TrainingReport[] = []): Amount => ({
  steps: stages.reduce((sum, { steps }) => sum + steps, 0),
  tokens: stages.reduce((sum, { tokens }) => sum + tokens, 0),
});

/** Steps and tokens that a training asks for. */
export const trainingAsked = ({ steps, batch, tokens }: TrainingOptions): Amount => ({
  steps,
  tokens: steps * batch * tokens,
});

/** `120 steps, 30,720 tokens`. */
export const amountWords = ({ steps, tokens }: Amount): string =>
  `${counted(steps, "step")}, ${tokens.toLocaleString("en")} tokens`;

/** How much was trained: as it ran, or as asked for where nothing did. Empty without training. */
export function stepWords({ cell: { training }, runs: [run] }: Subject): string {
  if (training === undefined) return "";
  const [asked, done] = [trainingAsked(training), run && trainingDone(run.training)];
  if (done && done.steps > 0 && (done.steps !== asked.steps || done.tokens !== asked.tokens)) return amountWords(done);
  return `${counted(training.steps, "step")} of ${training.batch} × ${training.tokens} tokens`;
}

function trainingWords(subject: Subject): string {
  const { training, calibration } = subject.cell;
  if (training === undefined) return "none";
  return `${stepWords(subject)} of ${corpusLabel(training.corpus ?? calibration.corpus)}`;
}

function rateWords({ cell: { recover, training } }: Subject): string {
  if (training === undefined || recover === undefined) return "";
  const adapters = recover === "lora" ? `${number(training.learningRate)} (adapters), ` : "";
  return `rate ${adapters}${number(scaleRateOf(training, recover))} (scales)`;
}

function optimiserWords(subject: Subject): string {
  const { training } = subject.cell;
  if (training === undefined) return "";
  const others = (["clipNorm", "microBatch"] as const).filter((name) => training[name] !== undefined)
    .map((name) => settingWords(name, training[name]));
  const shape = `warm-up ${percent(training.warmup)}, cosine to ${percent(training.finalRate)}`;
  return ["AdamW", rateWords(subject), shape, ...others].filter((text) => text !== "").join(", ");
}

const adapterWords = ({ cell: { recover, training } }: Subject): string =>
  training === undefined || recover !== "lora" ? "" : `LoRA rank ${training.rank}, alpha ${number(training.alpha)}`;

function lossWords({ cell: { training } }: Subject): string {
  if (training === undefined) return "";
  const { crossEntropy, distillation, temperature, hidden, teacherTokens } = training;
  const softened = temperature === 1 ? "" : ` at temperature ${number(temperature)}`;
  const terms: [weight: number, name: string][] = [
    [crossEntropy, "cross entropy"],
    [distillation, `distillation${softened} (teacher's top ${teacherTokens} tokens)`],
    [hidden, "hidden states"],
  ];
  return terms.filter(([weight]) => weight > 0).map(([weight, name]) => `${number(weight)} ${name}`).join(" + ");
}

/** Empty where a model finished and read no calibration text. */
function calibrationWords(
  { cell: { calibration: { sequences, tokens, corpus, draw } }, runs: [run] }: Subject,
): string {
  if (run?.calibrationData === null) return "";
  const places = draw === "distinct-rows" ? ", one window per record" : "";
  return `${sequences} × ${tokens} tokens of ${corpusLabel(corpus)}${places}`;
}

const unitWords = ({ cell: { units, ffnMultiple, dropLayers } }: Subject): string =>
  (!dropLayers ? "" : `${counted(dropLayers, "layer")}, then `) +
  units.filter((unit) => unit !== "layers" || dropLayers === undefined)
    .map((unit) => UNIT_WORDS[unit === "layers" ? "layer" : unit]).join(" and ") +
  (ffnMultiple === 1 ? "" : `, FFN widths in multiples of ${ffnMultiple}`);

const budgetWords = ({ cell: { budget, latency } }: Subject): string =>
  budget === undefined
    ? ""
    : BUDGET_WORDS[budget].long + (latency === undefined ? "" : `, table of times ${latency.slice(0, 12)}`);

const arithmeticWords = ({ cell: { arithmetic, weights } }: Subject): string =>
  ARITHMETIC[arithmetic ?? "exact"] + (weights === "stored" ? ", weights stored in 16 bits" : "");

/** A file or folder by name and hash; empty where there is none. */
const fileWords = (file?: { path: string; sha256: string }): string =>
  file ? `${baseName(file.path)}, sha256 ${file.sha256.slice(0, 12)}` : "";

/** Words of a cell's tasks: `all`, or `all (piqa); the first 50 (boolq)` where they differ; empty without one. */
const ofTasks = (words: (cell: Cell, task: string) => string) => ({ cell }: Subject): string => {
  const groups = [...Map.groupBy(cell.tasks, (task) => words(cell, task))];
  return groups.map(([text, tasks]) => groups.length > 1 ? `${text} (${tasks.join(", ")})` : text).join("; ");
};

const examplesWords = ofTasks(({ limit }, task) => {
  const own = ofTask(limit, task);
  return own === undefined ? "all" : `the first ${own}`;
});

/** A setting of a cell. */
export interface Setting {
  name: string;
  /** Whose setting it is: of models that the run pruned, of those that were pruned elsewhere, or of all. */
  of: "pruned" | "elsewhere" | "all";
  /** Whether protocols and captions tell it. All others are for comparisons, CSV and cards alone. */
  isTold: boolean;
  /** In words; empty where the cell does not have it. */
  text(subject: Subject): string;
}

/** Every setting that decides a cell's numbers, in the order in which reports tell them. */
export const SETTINGS: readonly Setting[] = [
  { name: "recovery", of: "pruned", isTold: true, text: (subject) => recoveryOf(subject).text },
  { name: "compensation", of: "pruned", isTold: true, text: (subject) => compensationOf(subject).text },
  { name: "training", of: "pruned", isTold: true, text: trainingWords },
  { name: "optimiser", of: "pruned", isTold: true, text: optimiserWords },
  { name: "adapters", of: "pruned", isTold: true, text: adapterWords },
  { name: "loss", of: "pruned", isTold: true, text: lossWords },
  { name: "calibration", of: "pruned", isTold: true, text: calibrationWords },
  { name: "budget", of: "pruned", isTold: true, text: budgetWords },
  { name: "units", of: "pruned", isTold: true, text: unitWords },
  { name: "method file", of: "pruned", isTold: true, text: ({ cell }) => fileWords(cell.methodFile) },
  { name: "pruned elsewhere", of: "elsewhere", isTold: true, text: ({ cell }) => fileWords(cell.checkpoint) },
  { name: "arithmetic", of: "all", isTold: true, text: arithmeticWords },
  { name: "examples per task", of: "all", isTold: true, text: examplesWords },
  {
    name: "examples in the prompt",
    of: "all",
    isTold: false,
    text: ofTasks(({ numFewshot }, task) => String(ofTask(numFewshot, task) ?? 0)),
  },
  {
    name: "request encoding",
    of: "all",
    isTold: false,
    text: ofTasks(({ requestEncoding = "lm-eval" }) => requestEncoding),
  },
];

/** A setting of a cell in words; empty where the cell does not have it. */
export function settingText({ of, text }: Setting, subject: Subject): string {
  const { method, checkpoint } = subject.cell;
  const applies = of === "all" || method !== null && (checkpoint !== undefined) === (of === "elsewhere");
  return applies ? text(subject) : "";
}

const optionsOf = ({ cell: { checkpoint, method } }: Subject): Fact[] =>
  Object.entries(checkpoint ? {} : method?.options ?? {}).map(([name, value]) => ({
    name,
    text: typeof value === "string" ? value : JSON.stringify(value),
  }));

/** Every setting that a cell has, in words, options of its method included: what comparisons and cards list. */
export const settingsOf = (subject: Subject): Fact[] =>
  [
    ...SETTINGS.map((setting) => ({ name: setting.name, text: settingText(setting, subject) })),
    ...optionsOf(subject).map(({ name, text }) => ({ name: `option ${name}`, text })),
  ].filter(({ text }) => text !== "");

/** A commit in 12 digits, with `-dirty` where files differed. */
export const commitWords = (commit: string | null): string => commit?.replace(/^(\w{12})\w*/, "$1") ?? "unknown";

/** Machine, versions and inputs of a run. */
export function environmentOf({ environment, weights }: DoneRecord): Fact[] {
  const { engine, library, device, threads, cpu, os, deno, commit } = environment;
  return [
    { name: "engine", text: engine },
    { name: "library", text: library },
    { name: "device", text: `${device}, ${counted(threads, "thread")}, ${cpu}` },
    { name: "system", text: `${os}, Deno ${deno}` },
    { name: "harness commit", text: commitWords(commit) },
    { name: "weights", text: `${weights.format}, ${weights.dtypes.join(" + ")}, sha256 ${weights.sha256}` },
  ];
}
