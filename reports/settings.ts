/** A cell's settings in words: the one table that reports, captions, comparisons, CSV and model cards read.
 *
 * @module
 */
import { corpusLabel, settingWords } from "../core/schema/cell_names.ts";
import {
  type Cell,
  type DoneRecord,
  type RemovedType,
  type TrainingOptions,
  trainingSchema,
} from "../core/schema/schema.ts";
import { counted } from "../core/util/words.ts";
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

/** What trains besides the cut. `data`: in CSV; `title`: what the model is recovered by. */
const RECOVERY = {
  none: { data: "none", title: "", text: "none" },
  scales: { data: "scales", title: "trained scales", text: "one scale per kept unit, weights frozen" },
  lora: { data: "LoRA", title: "LoRA recovery", text: "LoRA adapters and one scale per kept unit, merged" },
  learned: { data: "learned", title: "learned masks", text: "masks and LoRA adapters, trained together" },
} as const;
const COMPENSATION = {
  "none": { title: "", text: "none" },
  "least-squares": { title: "least-squares compensation", text: "least squares on output and down maps" },
} as const;
const ARITHMETIC = {
  exact: "f32",
  fast: "reduced-precision products (TF32 on CUDA, bfloat16 on CPUs), f32 sums",
} as const;

/** Kind of recovery of a cell. */
export const recoveryOf = ({ cell: { recover, training } }: Subject): typeof RECOVERY[keyof typeof RECOVERY] =>
  RECOVERY[recover ?? (training === undefined ? "none" : "learned")];
/** Kind of compensation of a cell. */
export const compensationOf = ({ cell }: Subject): typeof COMPENSATION[keyof typeof COMPENSATION] =>
  COMPENSATION[cell.compensate ?? "none"];

const number = (value: number) => String(Number(value.toPrecision(6)));
const percent = (part: number) => `${number(100 * part)} %`;

/** Steps and tokens of a run's training, as they ran. */
export function trainingDone({ training = [] }: DoneRecord): { steps: number; tokens: number } {
  const sum = (pick: (stage: typeof training[number]) => number) => training.reduce((all, one) => all + pick(one), 0);
  return { steps: sum(({ steps }) => steps), tokens: sum(({ tokens }) => tokens) };
}

/** Steps and tokens that a cell's training asks for. */
export const trainingAsked = ({ steps, batch, tokens }: TrainingOptions): { steps: number; tokens: number } => ({
  steps,
  tokens: steps * batch * tokens,
});

/** Steps and tokens as words: `120 steps, 30,720 tokens`. */
export const amountWords = ({ steps, tokens }: { steps: number; tokens: number }): string =>
  `${counted(steps, "step")}, ${tokens.toLocaleString("en")} tokens`;

/** How much was trained: as it ran, or as asked for where nothing did. Empty without training. */
export function stepWords({ cell: { training }, runs: [run] }: Subject): string {
  if (training === undefined) return "";
  const [asked, done] = [trainingAsked(training), run && trainingDone(run)];
  if (done && done.steps > 0 && (done.steps !== asked.steps || done.tokens !== asked.tokens)) return amountWords(done);
  return `${counted(training.steps, "step")} of ${training.batch} × ${training.tokens} tokens`;
}

/** Text that a cell trains on. */
const trainingCorpus = ({ training, calibration }: Cell): string =>
  training?.domains === undefined
    ? corpusLabel(training?.corpus ?? calibration.corpus)
    : Object.entries(training.domains).map(([corpus, part]) => `${corpusLabel(corpus)} (${number(part)})`).join(" + ");

function lossWords({ crossEntropy, distillation, temperature, hidden }: TrainingOptions): string {
  const terms = [
    { weight: crossEntropy, name: "cross entropy" },
    { weight: distillation, name: `distillation${temperature === 1 ? "" : ` at temperature ${number(temperature)}`}` },
    { weight: hidden, name: "hidden states" },
  ];
  return terms.flatMap(({ weight, name }) => weight > 0 ? [`${number(weight)} ${name}`] : []).join(" + ");
}

/** Settings of a training that are always told; of others, what is no default. */
const ALWAYS_TOLD: ReadonlySet<string> = new Set<keyof TrainingOptions>([
  ...["steps", "batch", "tokens", "corpus", "domains", "learningRate", "warmup", "finalRate", "rank", "alpha"] as const,
  ...["crossEntropy", "distillation", "temperature", "hidden"] as const,
]);
const TRAINING_DEFAULTS: Record<string, unknown> = trainingSchema.parse({});

const amountAndText = (subject: Subject): string => `${stepWords(subject)} of ${trainingCorpus(subject.cell)}`;

function optimiserWords(training: TrainingOptions): string {
  const { learningRate, warmup, finalRate } = training;
  return [
    `AdamW, rate ${number(learningRate)}, warm-up ${percent(warmup)}, cosine to ${percent(finalRate)}`,
    ...Object.entries(training).filter(([name, value]) => !ALWAYS_TOLD.has(name) && value !== TRAINING_DEFAULTS[name])
      .map(([name, value]) => settingWords(name, value)),
  ].join(", ");
}

const adapterWords = ({ rank, alpha }: TrainingOptions) =>
  rank === 0 ? "none" : `LoRA rank ${rank}, alpha ${number(alpha)}`;

/** Words of a training; empty without one. */
const ofTraining = (words: (training: TrainingOptions) => string) => ({ cell: { training } }: Subject): string =>
  training === undefined ? "" : words(training);

function calibrationWords({ cell: { calibration: { sequences, tokens, corpus, draw } } }: Subject): string {
  const places = draw === "distinct-rows" ? ", one window per record" : "";
  return `${sequences} × ${tokens} tokens of ${corpusLabel(corpus)}${places}`;
}

const unitWords = ({ cell: { units, ffnMultiple } }: Subject): string =>
  units.map((unit) => UNIT_WORDS[unit]).join(" and ") +
  (ffnMultiple === 1 ? "" : `, FFN widths in multiples of ${ffnMultiple}`);

/** A file or folder by name and hash. */
export const fileWords = ({ path, sha256 }: { path: string; sha256: string }): string =>
  `${baseName(path)}, sha256 ${sha256.slice(0, 12)}`;

const arithmeticWords = ({ cell: { arithmetic, weights } }: Subject): string =>
  ARITHMETIC[arithmetic ?? "exact"] + (weights === "stored" ? ", weights stored in 16 bits" : "");

/** A value of a table of data. */
export type DataValue = string | number | undefined;

/** A setting of a cell. */
export interface Setting {
  name: string;
  /** Whose setting it is: of models that the run pruned, of those that were pruned elsewhere, or of all. */
  of: "pruned" | "elsewhere" | "all";
  /** In words; empty where the cell does not have it. */
  text(subject: Subject): string;
  /** Shorter, for captions. A setting without it is told by comparisons and cards alone. */
  caption?(subject: Subject): string;
  /** Columns of CSV. */
  data?: Record<string, (subject: Subject) => DataValue>;
}

/** Every setting that decides a cell's numbers, in the order in which reports tell them. */
export const SETTINGS: readonly Setting[] = [
  {
    name: "recovery",
    of: "pruned",
    text: (subject) => recoveryOf(subject).text,
    caption: (subject) => recoveryOf(subject).title || "none",
    data: { recovery: (subject) => recoveryOf(subject).data },
  },
  {
    name: "compensation",
    of: "pruned",
    text: (subject) => compensationOf(subject).text,
    caption: ({ cell }) => cell.compensate ?? "none",
    data: { compensation: ({ cell }) => cell.compensate ?? "none" },
  },
  {
    name: "training",
    of: "pruned",
    text: (subject) => subject.cell.training ? amountAndText(subject) : "none",
    caption: (subject) => subject.cell.training ? amountAndText(subject) : "",
    data: {
      training: (subject) => subject.cell.training ? amountAndText(subject) : "none",
      training_steps: ({ cell, runs: [run] }) => cell.training && run && trainingDone(run).steps,
      training_tokens: ({ cell, runs: [run] }) => cell.training && run && trainingDone(run).tokens,
      training_corpus: ({ cell }) => cell.training && trainingCorpus(cell),
    },
  },
  {
    name: "optimiser",
    of: "pruned",
    text: ofTraining(optimiserWords),
    caption: ofTraining(({ learningRate }) => `rate ${number(learningRate)}`),
    data: { optimiser: ofTraining(optimiserWords), learning_rate: ({ cell }) => cell.training?.learningRate },
  },
  {
    name: "adapters",
    of: "pruned",
    text: ofTraining(adapterWords),
    caption: ofTraining(adapterWords),
    data: { adapters: ofTraining(adapterWords), lora_rank: ({ cell }) => cell.training?.rank },
  },
  {
    name: "loss",
    of: "pruned",
    text: ofTraining(lossWords),
    caption: ofTraining(lossWords),
    data: { loss: ofTraining(lossWords) },
  },
  {
    name: "calibration",
    of: "pruned",
    text: calibrationWords,
    caption: calibrationWords,
    data: {
      calibration_sequences: ({ cell }) => cell.calibration.sequences,
      calibration_tokens: ({ cell }) => cell.calibration.tokens,
      calibration_corpus: ({ cell }) => corpusLabel(cell.calibration.corpus),
    },
  },
  {
    name: "units",
    of: "pruned",
    text: unitWords,
    caption: unitWords,
    data: { units: ({ cell }) => cell.units.join(" "), ffn_multiple: ({ cell }) => cell.ffnMultiple },
  },
  { name: "method file", of: "pruned", text: ({ cell: { methodFile } }) => methodFile ? fileWords(methodFile) : "" },
  {
    name: "pruned elsewhere",
    of: "elsewhere",
    text: ({ cell: { checkpoint } }) => checkpoint ? fileWords(checkpoint) : "",
  },
  { name: "engine", of: "all", text: ({ cell }) => cell.engine },
  {
    name: "arithmetic",
    of: "all",
    text: arithmeticWords,
    caption: arithmeticWords,
    data: { arithmetic: arithmeticWords },
  },
  {
    name: "examples per task",
    of: "all",
    text: ({ cell: { tasks, limit } }) => tasks.length === 0 ? "" : limit === undefined ? "all" : `the first ${limit}`,
  },
  {
    name: "examples in the prompt",
    of: "all",
    text: ({ cell: { tasks, numFewshot = 0 } }) => tasks.length === 0 ? "" : String(numFewshot),
    data: { num_fewshot: ({ cell: { tasks, numFewshot = 0 } }) => tasks.length === 0 ? undefined : numFewshot },
  },
  {
    name: "request encoding",
    of: "all",
    text: ({ cell: { tasks, requestEncoding = "lm-eval" } }) => tasks.length === 0 ? "" : requestEncoding,
  },
];

/** Whether a cell has a setting. */
export function applies({ of }: Setting, { method, checkpoint }: Cell): boolean {
  return of === "all" || method !== null && (checkpoint !== undefined) === (of === "elsewhere");
}

/** A cell's settings by name, options of its method included: what comparisons and cards list. */
export function settingsOf(subject: Subject): Fact[] {
  const { cell } = subject;
  const options = cell.checkpoint ? {} : cell.method?.options ?? {};
  return [
    ...SETTINGS.filter((setting) => applies(setting, cell)).map(({ name, text }) => ({ name, text: text(subject) })),
    ...Object.entries(options).map(([name, value]) => ({ name: `option ${name}`, text: optionText(value) })),
  ].filter(({ text }) => text !== "");
}

/** The value of an option as text. */
export const optionText = (value: unknown): string => typeof value === "string" ? value : JSON.stringify(value);
