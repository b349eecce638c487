/** How the numbers of a section were made, in words: recovery, compensation, training, calibration, units, seeds,
 * arithmetic and engine. Every format states the same.
 *
 * @module
 */
import { corpusLabel, settingWords } from "../core/schema/cell_names.ts";
import type {
  Cell,
  DatasetUse,
  DoneRecord,
  RemovedType,
  TrainingOptions,
  TrainingReport,
} from "../core/schema/schema.ts";
import { counted } from "../core/util/words.ts";
import { level, listed } from "./format.ts";
import { baseName } from "./measurements.ts";
import { isDense, type Row, type Section } from "./rows.ts";

/** A setting of a cell, as name and text. */
export interface Fact {
  name: string;
  text: string;
}

/** What may be done to the weights besides cutting them. */
type Recovery = "none" | "lora" | "learned";

/** Learned methods train masks and adapters together and need no recovery of their own. */
function recoveryOf({ recover, training }: Cell): Recovery {
  if (recover !== undefined) return recover;
  return training === undefined ? "none" : "learned";
}

/** What is removed, in words. */
export const UNIT_WORDS: Record<RemovedType, string> = {
  "ffn": "FFN channels",
  "query-heads": "query heads",
  "kv-groups": "key/value groups",
  "layer": "layers",
  "hidden": "hidden dimensions",
};

const unique = (texts: readonly string[]) => [...new Set(texts)];
const number = (value: number) => String(Number(value.toPrecision(6)));

/** Tokens of a training: of what ran, else of what was asked for. */
export function trainedTokens(run: Pick<DoneRecord, "training">): number {
  return (run.training ?? []).reduce((sum, { tokens }) => sum + tokens, 0);
}

const corpusOf = ({ training, calibration }: Cell): string =>
  training?.domains === undefined
    ? corpusLabel(training?.corpus ?? calibration.corpus)
    : Object.entries(training.domains).map(([corpus, part]) => `${corpusLabel(corpus)} (${number(part)})`).join(" + ");

/** `60 steps of 2 × 256 tokens`. */
const stepWords = ({ steps, batch, tokens }: TrainingOptions) =>
  `${counted(steps, "step")} of ${batch} × ${tokens} tokens`;

const rankWords = ({ rank, alpha }: TrainingOptions) =>
  rank === 0 ? "no adapters" : `LoRA rank ${rank}, alpha ${number(alpha)}`;

function lossWords({ crossEntropy, distillation, temperature, hidden }: TrainingOptions): string {
  const parts = [
    ...crossEntropy > 0 ? [`${number(crossEntropy)} cross entropy`] : [],
    ...distillation > 0
      ? [`${number(distillation)} distillation${temperature === 1 ? "" : ` at temperature ${number(temperature)}`}`]
      : [],
    ...hidden > 0 ? [`${number(hidden)} hidden states`] : [],
  ];
  return `loss: ${parts.join(" + ")}`;
}

function trainingWords(cell: Cell): string {
  const { training } = cell;
  if (training === undefined) return "none";
  return [
    `${stepWords(training)} of ${corpusOf(cell)}`,
    `rate ${number(training.learningRate)}, warm-up ${number(100 * training.warmup)} %, cosine to ` +
    `${number(100 * training.finalRate)} %`,
    rankWords(training),
    lossWords(training),
  ].join("; ");
}

const RECOVERY_WORDS: Record<Recovery, string> = {
  none: "none, the weights stay as they were cut",
  lora: "LoRA adapters, trained after pruning and merged",
  learned: "masks and adapters are learned together",
};

const compensationWords = ({ compensate }: Cell): string =>
  compensate === undefined ? "none" : "least squares on output and down maps";

const calibrationWords = ({ calibration: { sequences, tokens, corpus, draw } }: Cell): string =>
  `${sequences} × ${tokens} tokens of ${corpusLabel(corpus)}${
    draw === "distinct-rows" ? ", each of another record" : ""
  }`;

const unitWords = ({ units, ffnMultiple }: Cell): string =>
  units.map((unit) => UNIT_WORDS[unit]).join(" and ") +
  (ffnMultiple === 1 ? "" : `, FFN widths in multiples of ${ffnMultiple}`);

/** A model that was pruned elsewhere, in words. */
export const checkpointWords = ({ path, sha256 }: NonNullable<Cell["checkpoint"]>): string =>
  `${baseName(path)}, sha256 ${sha256.slice(0, 12)}`;

const fewshotWords = ({ numFewshot, tasks }: Cell): string => tasks.length === 0 ? "" : `${numFewshot ?? 0}-shot`;

/** Settings that {@linkcode trainingWords} tells. */
const TOLD: ReadonlySet<string> = new Set<keyof TrainingOptions>([
  ...["steps", "batch", "tokens", "corpus", "domains", "learningRate", "warmup", "finalRate", "rank", "alpha"] as const,
  ...["crossEntropy", "distillation", "temperature", "hidden"] as const,
]);

const untoldTraining = ({ training }: Cell): Fact[] =>
  Object.entries(training ?? {}).filter(([name, value]) => value !== undefined && !TOLD.has(name))
    .map(([name, value]) => ({ name: `training ${name}`, text: String(value) }));

/** Every setting of a cell that decides its numbers, by name: what two runs are compared by. */
export function settingsOf(cell: Cell): Fact[] {
  const { checkpoint } = cell;
  const elsewhere = checkpoint && { name: "pruned elsewhere", text: checkpointWords(checkpoint) };
  const method = cell.method === null ? [] : elsewhere ? [elsewhere] : [
    { name: "recovery", text: RECOVERY_WORDS[recoveryOf(cell)] },
    { name: "compensation", text: compensationWords(cell) },
    { name: "training", text: trainingWords(cell) },
    ...untoldTraining(cell),
    { name: "calibration", text: calibrationWords(cell) },
    { name: "units", text: unitWords(cell) },
    ...cell.methodFile === undefined ? [] : [{
      name: "method file",
      text: `${baseName(cell.methodFile.path)}, sha256 ${cell.methodFile.sha256.slice(0, 12)}`,
    }],
    ...Object.entries(cell.method.options).map(([name, value]) => ({
      name: `option ${name}`,
      text: typeof value === "string" ? value : JSON.stringify(value),
    })),
  ];
  return [
    ...method,
    { name: "engine", text: cell.engine },
    { name: "weights on the device", text: cell.weights ?? "f32" },
    { name: "arithmetic", text: cell.arithmetic ?? "exact" },
    { name: "requests encoded as by", text: cell.tasks.length === 0 ? "" : cell.requestEncoding ?? "lm-eval" },
    { name: "examples in the prompt", text: fewshotWords(cell) },
    { name: "examples a task", text: cell.limit === undefined ? "all" : `the first ${cell.limit}` },
  ].filter(({ text }) => text !== "");
}

/** Rows of models that the run pruned. */
const prunedRows = (section: Section): Row[] =>
  section.rows.filter((row) => !isDense(row) && row.cell.checkpoint === undefined);

/** One text per setting where all rows agree, else one per group of methods: `none (random); LoRA (flap)`, with the level
 * of a method whose levels differ. */
function byMethod(rows: readonly Row[], words: (row: Row) => string): string {
  const nameOf = ({ label, asked }: Row, text: string) =>
    rows.some((row) => row.label === label && words(row) !== text) ? `${label} at ${level(asked)}` : label;
  const groups = [...Map.groupBy(rows, words)];
  if (groups.length <= 1) return groups.map(([text]) => text).join("");
  return groups.map(([text, own]) => `${text} (${listed(unique(own.map((row) => nameOf(row, text))))})`).join("; ");
}

const dataWords = ({ source, split }: DatasetUse): string =>
  `${/^[/\\]|^[A-Za-z]:/.test(source) ? baseName(source) : source}, ${split} split`;

/** Which text was read for calibration or training, from the records. */
function readData(rows: readonly Row[], pick: (run: DoneRecord) => (DatasetUse | null | undefined)[]): string {
  const texts = unique(rows.flatMap(({ runs }) => runs.flatMap(pick)).flatMap((use) => use ? [dataWords(use)] : []));
  return texts.length === 0 ? "" : `; text: ${texts.join("; ")}`;
}

/** Whether a method that learns had removed everything before its first step: then its budget never fell. */
function wasCutAtOnce(stages: readonly TrainingReport[]): boolean {
  const rows = stages.filter(({ stage }) => stage === "learning").flatMap(({ curve }) => curve);
  return rows.length > 0 && rows.every(({ budget }) => budget === undefined);
}

/** Tokens that a cell's training read, and what of it was not as the run asked: a method may take other steps, have a term
 * of its own in the loss, and remove all that goes before it learns. */
function readWords(run: DoneRecord): string {
  const { training: stages = [], cell: { training } } = run;
  const steps = stages.reduce((sum, stage) => sum + stage.steps, 0);
  const isOwn = training !== undefined && steps !== training.steps;
  const hidden = training?.hidden === 0 && stages.some(({ curve }) => curve.some((row) => row.hidden > 0));
  const tokens = `${trainedTokens(run).toLocaleString("en")} tokens`;
  return [
    isOwn ? `${tokens} in ${steps} steps` : tokens,
    ...wasCutAtOnce(stages) ? ["after all units had gone"] : [],
    ...hidden ? ["with the error of the hidden states in the loss"] : [],
  ].join(", ");
}

function trainedWords(rows: readonly Row[]): string {
  const counts = byMethod(
    rows.filter(({ cell, runs }) => cell.training !== undefined && runs.length > 0),
    ({ runs }) => unique(runs.map(readWords)).join(" or "),
  );
  return counts === "" ? "" : `; read: ${counts}`;
}

/** Options away from their defaults that no label names, since all rows of the method share them. */
function optionFacts(rows: readonly Row[]): Fact[] {
  const texts = unique(rows.flatMap(({ label, cell: { method } }) => {
    const words = (method?.changed ?? []).map((name) => settingWords(name, method?.options[name]));
    const unsaid = words.filter((one) => !label.includes(one));
    return unsaid.length === 0 ? [] : [`${label}: ${unsaid.join(", ")}`];
  }));
  return texts.length === 0 ? [] : [{ name: "options", text: texts.join("; ") }];
}

/** Engine of a section, and its arithmetic where that is not the exact one. */
export const placeWords = ({ engine, arithmetic }: Pick<Section, "engine" | "arithmetic">): string =>
  engine + (arithmetic === "fast" ? " in fast arithmetic" : "");

/** How numbers are held and multiplied, as cell and record say. Before records said so, CUDA took TF32 where it has it. */
function arithmeticWords({ cell, runs }: Pick<Row, "cell" | "runs">): string[] {
  const held = cell.weights === "stored" ? "f32, matrices held in 16 bits" : "f32";
  if (cell.arithmetic === "fast") return [`${held}, factors of products in TF32 where the GPU has it`];
  const unknown = runs.some(({ environment: { arithmetic, device } }) => !arithmetic && device.startsWith("cuda"));
  return [unknown ? `${held}, TF32 not ruled out` : held];
}

const sectionArithmetic = ({ rows }: Section): string => unique(rows.flatMap(arithmeticWords)).join("; ");

/** The protocol block: what stands first in every format. */
export function protocol(section: Section): Fact[] {
  const rows = prunedRows(section);
  const runs = section.rows.flatMap((row) => row.runs);
  const machines = unique(
    runs.map(({ environment: { device, threads, cpu, engine, library } }) =>
      `${engine} (${library}), ${device}, ${counted(threads, "thread")}, ${cpu}`
    ),
  );
  const training = byMethod(rows, ({ cell }) => trainingWords(cell));
  const facts: Fact[] = rows.length === 0 ? [] : [
    { name: "recovery", text: byMethod(rows, ({ cell }) => RECOVERY_WORDS[recoveryOf(cell)]) },
    { name: "compensation", text: byMethod(rows, ({ cell }) => compensationWords(cell)) },
    {
      name: "training",
      text: training + trainedWords(rows) +
        readData(rows, ({ trainingData, trainingDomains }) => trainingDomains ?? [trainingData]),
    },
    {
      name: "calibration",
      text: byMethod(rows, ({ cell }) => calibrationWords(cell)) +
        readData(rows, ({ calibrationData }) => [calibrationData]),
    },
    { name: "units", text: byMethod(rows, ({ cell }) => unitWords(cell)) },
    ...optionFacts(rows),
    { name: "seeds", text: byMethod(rows, seedWords) },
  ];
  const elsewhere = section.rows.flatMap(({ label, cell: { checkpoint } }) =>
    checkpoint ? [`${label} (${checkpointWords(checkpoint)})`] : []
  );
  return [
    ...facts,
    ...elsewhere.length > 0 ? [{ name: "pruned elsewhere", text: elsewhere.join("; ") }] : [],
    { name: "arithmetic", text: sectionArithmetic(section) },
    { name: "engine", text: machines.length === 0 ? section.engine : machines.join("; ") },
  ];
}

const seedWords = ({ runs, failures }: Row): string =>
  unique([...runs, ...failures].map(({ cell }) => String(cell.seed))).sort((a, b) => Number(a) - Number(b)).join(", ");

/** Distinct words of a section's pruned rows, in their order. */
const distinct = <T>(section: Section, pick: (cell: Cell) => T): T[] => [
  ...new Set(prunedRows(section).map(({ cell }) => pick(cell))),
];

/** `with LoRA recovery`, with how much of it; empty where nothing was pruned. */
function recoveryPhrase(section: Section): string {
  const kinds = distinct(section, recoveryOf);
  const steps = distinct(section, ({ training }) => training === undefined ? "" : stepWords(training))
    .filter((text) => text !== "");
  const amount = steps.length === 0 ? "" : ` (${steps.join(" or ")})`;
  if (kinds.includes("lora")) return `${kinds.includes("none") ? "with and without" : "with"} LoRA recovery${amount}`;
  if (kinds.includes("learned")) {
    return `${kinds.includes("none") ? "without recovery, learned masks trained" : "learned masks trained"}${amount}`;
  }
  return kinds.length === 0 ? "" : "without recovery";
}

function compensationPhrase(section: Section): string {
  const kinds = distinct(section, ({ compensate }) => compensate !== undefined);
  if (!kinds.includes(true)) return "";
  return kinds.includes(false) ? "with and without least-squares compensation" : "with least-squares compensation";
}

/** What tells a run from others of its model, for titles: `with LoRA recovery (60 steps of 2 × 256 tokens), with
 * least-squares compensation`. */
export function protocolTitle(section: Section): string {
  return [recoveryPhrase(section), compensationPhrase(section)].filter((text) => text !== "").join(", ");
}

/** Units that may go, in words. */
export const unitsOf = (section: Section): string => distinct(section, unitWords).join(" or ");

/** One sentence for captions. */
export function protocolSentence(section: Section): string {
  const rows = prunedRows(section);
  const first = protocolTitle(section);
  const ranks = distinct(section, ({ training }) => training && rankWords(training)).flatMap((text) => text ?? []);
  const rates = distinct(section, ({ training }) => training && `rate ${number(training.learningRate)}`)
    .flatMap((text) => text ?? []);
  const corpora = distinct(section, (cell) => cell.training && `on ${corpusOf(cell)}`).flatMap((text) => text ?? []);
  const seeds = unique(rows.flatMap(({ seeds }) => seeds.map(String))).sort((a, b) => Number(a) - Number(b));
  const parts = [
    ...rows.length === 0 ? [section.rows.every(isDense) ? "The dense model alone" : "Models pruned elsewhere"] : [
      first.charAt(0).toUpperCase() + first.slice(1),
      ...compensationPhrase(section) === "" ? ["no compensation"] : [],
      ...[...ranks, ...rates].length === 0 ? [] : [`trained ${[...corpora, ...ranks, ...rates].join(", ")}`],
      `calibrated on ${distinct(section, calibrationWords).join(" or ")}`,
      `units: ${unitsOf(section)}`,
    ],
    ...seeds.length === 0 ? [] : [`${seeds.length === 1 ? "seed" : "seeds"} ${seeds.join(", ")}`],
    `${sectionArithmetic(section)} on ${section.engine}`,
  ];
  return `${parts.join("; ")}.`;
}

/** The protocol of one row, as columns of a table of data. */
export function protocolColumns({ cell, runs }: Row): [name: string, value: string | number | undefined][] {
  const { training } = cell;
  const pruned = !isDense({ methodId: cell.method?.id ?? null }) && cell.checkpoint === undefined;
  const own = <T>(value: T) => pruned ? value : undefined;
  const environment = runs[0]?.environment;
  return [
    ["recovery", own(cell.recover === "lora" ? "LoRA" : recoveryOf(cell))],
    ["compensation", own(cell.compensate ?? "none")],
    ["training", own(training === undefined ? "none" : trainingWords(cell))],
    ["training_steps", training?.steps],
    ["training_tokens", training === undefined ? undefined : runs[0] && trainedTokens(runs[0])],
    ["learning_rate", training?.learningRate],
    ["lora_rank", training?.rank],
    ["training_corpus", training === undefined ? undefined : corpusOf(cell)],
    ["calibration_sequences", own(cell.calibration.sequences)],
    ["calibration_tokens", own(cell.calibration.tokens)],
    ["calibration_corpus", own(corpusLabel(cell.calibration.corpus))],
    ["units", own(cell.units.join(" "))],
    ["ffn_multiple", own(cell.ffnMultiple)],
    ["num_fewshot", cell.tasks.length === 0 ? undefined : cell.numFewshot ?? 0],
    ["arithmetic", arithmeticWords({ cell, runs }).join("")],
    ["library", environment?.library],
    ["device", environment?.device],
    ["threads", environment?.threads],
  ];
}
