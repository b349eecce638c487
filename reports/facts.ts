/** Facts under the tables of a report: how to read them, which data, machine and configuration stand behind them.
 *
 * @module
 */
import { filesWords } from "../core/schema/cell_names.ts";
import { phaseWords } from "../core/schema/phases.ts";
import type { DoneRecord, MethodFile } from "../core/schema/schema.ts";
import { counted } from "../core/util/words.ts";
import { count, level } from "./format.ts";
import { baseName, PRIMARY_METRIC_RULE } from "./measurements.ts";
import { checkpointWords, type Fact } from "./protocol.ts";
import { isDense, type Section } from "./rows.ts";
import { ALPHA } from "./significance.ts";
import { doubtNotes } from "./speed.ts";
import { deviceHours } from "./table.ts";

const runsOf = (section: Section): DoneRecord[] => section.rows.flatMap(({ runs }) => runs);
const unique = (texts: string[]) => [...new Set(texts)];
/** Size of the model, number of cells and seeds in one line. */
export function contextWords(section: Section): string {
  const runs = runsOf(section);
  const failed = section.rows.reduce((sum, { failures }) => sum + failures.length, 0);
  const parts = [
    ...unique(runs.map(({ denseSize }) => `${count(denseSize.parameters)} parameters`)).slice(0, 1),
    ...unique(
      runs.map(({ environment: { device, threads, cpu } }) => `${device}, ${counted(threads, "thread")}, ${cpu}`),
    ),
    `${counted(runs.length, "finished cell")}${failed > 0 ? `, ${failed} failed` : ""}`,
    ...(section.weightsSha256 === null ? [] : [`weights sha256 ${section.weightsSha256.slice(0, 12)}`]),
  ];
  return parts.join(" · ");
}

/** What the models wrote after a prompt: one entry per prompt and row, first seeds only. */
export function generations(section: Section): { prompt: string; texts: { label: string; text: string }[] }[] {
  const entries = section.rows.flatMap((row) =>
    (row.runs[0]?.generations ?? []).map(({ prompt, text }) => ({
      prompt,
      label: row.asked > 0 ? `${row.label}, ${level(row.asked)}` : row.label,
      text,
    }))
  );
  return [...Map.groupBy(entries, ({ prompt }) => prompt)].map(([prompt, own]) => ({
    prompt,
    texts: own.map(({ label, text }) => ({ label, text })),
  }));
}

/** What ± and (…) mean here. */
function spreadWords(section: Section): string[] {
  const estimates = section.rows.flatMap(({ values }) => [...values.values()]);
  const has = (kind: string) => estimates.some(({ spreadOf, spread }) => spreadOf === kind && spread !== null);
  const seeds = unique(runsOf(section).map(({ cell }) => String(cell.seed)));
  const parts = [
    ...(has("seeds") ? ["± is the sample standard deviation over seeds"] : []),
    ...(has("stderr") ? ["(…) is the standard error of one run over windows or examples"] : []),
  ];
  return [
    ...(parts.length > 0 ? [`${parts.join("; ")}.`] : []),
    ...(has("seeds") || seeds.length === 0
      ? []
      : [`One seed (${seeds.join(", ")}) per cell: the spread between seeds is unknown.`]),
  ];
}

/** How to read the table of quality. */
export function qualityNotes(section: Section): string[] {
  return [
    "Removed: fraction asked for, then fractions really removed of the prunable parameters and of the whole model.",
    ...spreadWords(section),
    "Best of its level in bold, second best underlined. * clearly better than every other method of its level, " +
    "by the tests and with every seed; ≈ not clearly worse than the best. Paired tests on the same windows or examples (exact McNemar for one seed of " +
    "a task, sign-flip permutation otherwise; seeds averaged first), Holm-corrected over all tests of a column at " +
    `${ALPHA}; intervals are those of the same corrected tests. Which method is best is read from the same numbers, which ` +
    "no correction covers: of ten that are all alike, one is found clearly worse at about one level in six.",
    ...(section.columns.some(({ kind }) => kind === "mean-accuracy")
      ? [`Mean accuracy is the plain mean over tasks of ${PRIMARY_METRIC_RULE}.`]
      : []),
  ];
}

/** How throughput and speed-ups were measured. */
function throughputNotes({ columns, rows }: Section): string[] {
  if (!columns.some(({ kind }) => kind === "throughput")) return [];
  const pruned = rows.filter((row) => !isDense(row));
  const kinds = new Set(pruned.flatMap(({ speedUps }) => [...speedUps.values()].map(({ spreadOf }) => spreadOf)));
  const alternated =
    "repeats alternate with the dense model's, and the geometric mean of the ratios of neighbours is given, " +
    "[its 95 % interval] beside it; models of one shape share a measurement, and dense over itself shows its error";
  const apart = "tokens/s over the dense model's on the same machine, ± the standard deviation of both together; its " +
    "error is twice that";
  const words = [...kinds.has("interval") ? [alternated] : [], ...kinds.has("repeats") ? [apart] : []];
  return [
    "Throughput: mean ± sample standard deviation over timed repeats.",
    ...words.length > 0 ? [`Speed-up: ${words.join("; where they do not: ")}.`] : [],
  ];
}

/** How to read the table of size and speed. */
export function sizeNotes(section: Section): string[] {
  const doubt = doubtNotes(section);
  return [
    "MACs: one sequence of 64 tokens by LLM-Pruner's convention. Weights: as held on the device.",
    ...throughputNotes(section),
    ...(doubt.length > 0 ? [`? a speed-up in doubt: ${doubt.join("; ")}.`] : []),
    "Uniform: every layer has the same widths, so a plain Llama configuration describes the result.",
  ];
}

/** How to read the table of cost. */
export function costNotes(section: Section): string[] {
  const measures = unique(runsOf(section).map(({ memory }) => memory.measure));
  const hours = section.rows.reduce((sum, row) => sum + deviceHours(row), 0);
  return [
    "Means over seeds of one cell's seconds: pruning without training (scores, cut, compensation), training in " +
    "learning and recovery, evaluation (in records of earlier versions with throughput). Device-hours: whole cells, " +
    `loading and throughput too, failed ones as well, all seeds together; the whole run took ${hours.toFixed(3)}.`,
    ...(measures.length > 0 ? [`Peak memory: ${measures.join("; ")}.`] : []),
  ];
}

/** Protocols of the measurements by name. */
export function measureFacts(section: Section): Fact[] {
  const seen = new Map(section.columns.map(({ name, protocol }) => [`${name} ${protocol}`, { name, text: protocol }]));
  return [...seen.values()];
}

/** Machine, libraries and inputs behind a section. */
export function environmentFacts(section: Section): Fact[] {
  const runs = runsOf(section);
  const facts: [string, (run: DoneRecord) => string][] = [
    ["engine", ({ environment }) => environment.engine],
    ["library", ({ environment }) => environment.library],
    ["device", ({ environment: { device, threads } }) => `${device}, ${counted(threads, "thread")}`],
    ["processor", ({ environment: { cpu, os } }) => `${cpu}, ${os}`],
    ["Deno", ({ environment }) => environment.deno],
    ["harness commit", ({ environment }) => environment.commit ?? "unknown"],
    ["weights", ({ weights }) => `${weights.format}, ${weights.dtypes.join(" + ")}, sha256 ${weights.sha256}`],
  ];
  return facts.flatMap(([name, pick]) => unique(runs.map(pick)).map((text) => ({ name, text })));
}

const fileWords = ({ path, sha256 }: MethodFile) => `from ${baseName(path)}, sha256 ${sha256.slice(0, 12)}`;

function optionWords(options: Record<string, unknown>): string {
  const words = Object.entries(options).map(([name, value]) =>
    `${name}: ${typeof value === "string" ? value : JSON.stringify(value)}`
  );
  return words.length === 0 ? "no options" : words.join(", ");
}

/** Options of every method, one fact per variant. */
export function configurationFacts(section: Section): Fact[] {
  const variants = new Map(section.rows.filter((row) => !isDense(row)).map((row) => [row.variant, row]));
  return [...variants.values()].flatMap(({ label, cell: { method, methodFile, checkpoint } }) =>
    method === null
      ? []
      : checkpoint
      ? [{ name: label, text: `pruned elsewhere: ${checkpointWords(checkpoint)}` }]
      : [{ name: label, text: [optionWords(method.options), ...methodFile ? [fileWords(methodFile)] : []].join("; ") }]
  );
}

/** Why each failed cell failed, when, and where its log is in the folder of the run. */
export function failureFacts(section: Section): Fact[] {
  return section.rows.flatMap(({ label, failures }) =>
    failures.map((record) => {
      const { cell, failure: { kind, exitCode, message, phase } } = record;
      const code = exitCode === null ? "" : ` (exit code ${exitCode})`;
      const when = phase === undefined ? "" : `${phaseWords(phase)}; `;
      return {
        name: `${label}, ${level(cell.sparsity)}, seed ${cell.seed}`,
        text: `${kind}${code}: ${message}; ${when}see logs/${filesWords(record)}.log`,
      };
    })
  );
}
