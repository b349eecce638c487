/** How the numbers of a section were made: its protocol, title and caption, from the settings of its rows.
 *
 * @module
 */
import type { DatasetUse, DoneRecord } from "../core/schema/schema.ts";
import { capitalised, level, listed, sourceName, unique } from "./format.ts";
import { isDense, type Row, type Section } from "./sections.ts";
import {
  compensationOf,
  environmentOf,
  type Fact,
  recoveryOf,
  SETTINGS,
  settingText,
  stepWords,
  type Subject,
} from "./settings.ts";

/** Engine of a section, and its arithmetic where that is not the exact one. */
export const placeWords = ({ engine, arithmetic }: Pick<Section, "engine" | "arithmetic">): string =>
  engine + (arithmetic === "fast" ? " in fast arithmetic" : "");

/** One text if all rows agree, else one per group of methods: `none (random); LoRA (flap)`. A method whose levels
 * differ is named with its level. */
function byMethod(rows: readonly Row[], words: (row: Row) => string): string {
  const nameOf = ({ label, asked }: Row, text: string) =>
    rows.some((row) => row.label === label && words(row) !== text) ? `${label} at ${level(asked)}` : label;
  const groups = [...Map.groupBy(rows, words)];
  if (groups.length <= 1) return groups.map(([text]) => text).join("");
  return groups.map(([text, own]) => `${text} (${listed(unique(own.map((row) => nameOf(row, text))))})`).join("; ");
}

const dataWords = ({ source, split }: DatasetUse): string => `${sourceName(source)}, ${split} split`;

/** Data that runs read, by the setting that asks for them. */
const READ: Record<string, (run: DoneRecord) => DatasetUse | null | undefined> = {
  training: ({ trainingData }) => trainingData,
  calibration: ({ calibrationData }) => calibrationData,
};

function readFacts(name: string, runs: readonly DoneRecord[]): Fact[] {
  const texts = unique(runs.flatMap((run) => READ[name]?.(run) ?? []).map(dataWords));
  return texts.length === 0 ? [] : [{ name: `${name} text`, text: texts.join("; ") }];
}

const seedsOf = (rows: readonly Row[]): string =>
  unique(rows.flatMap(({ runs, failures }) => [...runs, ...failures]).map(({ cell }) => cell.seed))
    .sort((a, b) => a - b).join(", ");

/** The settings that decide what numbers mean. */
const TOLD = SETTINGS.filter(({ isTold }) => isTold);

/** The protocol block: what stands first in every format. */
export function protocol(section: Section): Fact[] {
  const runs = section.rows.flatMap((row) => row.runs);
  const pruned = prunedRows(section);
  const told = TOLD.flatMap((setting) => {
    const rows = section.rows.filter((row) => settingText(setting, row) !== "");
    if (rows.length === 0) return [];
    return [{ name: setting.name, text: byMethod(rows, setting.text) }, ...readFacts(setting.name, runs)];
  });
  const machines = unique(runs.map((run) => {
    const [engine, library, device] = environmentOf(run).map(({ text }) => text);
    return `${engine} (${library}), ${device}`;
  }));
  return [
    ...told,
    ...pruned.length === 0 ? [] : [{ name: "seeds", text: byMethod(pruned, (row) => seedsOf([row])) }],
    { name: "engine", text: machines.length === 0 ? section.engine : machines.join("; ") },
  ];
}

/** Rows of models that the run pruned. */
const prunedRows = ({ rows }: Section): Row[] =>
  rows.filter((row) => !isDense(row) && row.cell.checkpoint === undefined);

/** Distinct words of a section's pruned rows, in their order. */
const distinct = (section: Section, words: (subject: Subject) => string): string[] =>
  unique(prunedRows(section).map(words));

/** `with` what all rows have, `with and without` what some have; empty where none has it. */
function withWords(kinds: readonly string[], amount = ""): string {
  const had = kinds.filter((kind) => kind !== "");
  if (had.length === 0) return "";
  return `${had.length < kinds.length ? "with and without" : "with"} ${listed(had, "and")}${amount}`;
}

/** What tells a run from others of its model, for titles: `with LoRA recovery (60 steps of 2 × 256 tokens), with
 * least-squares compensation`. Empty where nothing was pruned. */
export function protocolTitle(section: Section): string {
  if (prunedRows(section).length === 0) return "";
  const recovered = distinct(section, (subject) => recoveryOf(subject).title);
  // Where the choice alone is learned, nothing else is trained.
  const kinds = recovered.includes("learned choice") ? recovered.filter((kind) => kind !== "") : recovered;
  const steps = distinct(section, stepWords).filter((text) => text !== "");
  const recovery = withWords(kinds, steps.length === 1 ? ` (${steps[0]})` : "");
  const compensation = withWords(distinct(section, (subject) => compensationOf(subject).title));
  return [recovery || "without recovery", compensation].filter((text) => text !== "").join(", ");
}

/** The protocol in short sentences, for captions. */
export function protocolCaption(section: Section): string {
  const rows = prunedRows(section);
  const facts = TOLD.flatMap((setting) => {
    const texts = unique(section.rows.map((row) => settingText(setting, row)).filter((text) => text !== ""));
    return texts.length === 0 ? [] : [`${capitalised(setting.name)}: ${texts.join(" or ")}`];
  });
  const seeds = seedsOf(rows);
  return [
    ...rows.length > 0 ? [] : [section.rows.every(isDense) ? "The dense model alone" : "Models pruned elsewhere"],
    ...facts,
    ...seeds === "" ? [] : [`Seeds: ${seeds}`],
    `Engine: ${section.engine}`,
  ].map((text) => `${text}.`).join(" ");
}
