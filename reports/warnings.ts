/** What a reader must know before trusting the numbers.
 *
 * @module
 */
import { corpusLabel } from "../core/schema/cell_names.ts";
import type { DatasetUse, DoneRecord } from "../core/schema/schema.ts";
import { counted } from "../core/util/words.ts";
import { count, level, listed, percent } from "./format.ts";
import { trainedTokens } from "./protocol.ts";
import { hasRuns, isDense, type Row, type Section } from "./rows.ts";
import { meanOf } from "./table.ts";

const runsOf = (section: Section): DoneRecord[] => section.rows.flatMap(({ runs }) => runs);
const unique = (texts: string[]) => [...new Set(texts)];

/** Pruned rows with results, by asked level. */
function byLevel(section: Section): [asked: number, rows: Row[]][] {
  const pruned = section.rows.filter((row) => !isDense(row) && hasRuns(row));
  return [...Map.groupBy(pruned, ({ asked }) => asked)];
}

/** Names of the failed cells, the first few of many. */
function failedWords(section: Section): string[] {
  const names = section.rows.flatMap(({ label, failures }) =>
    failures.map(({ cell }) => `${label} at ${level(cell.sparsity)}, seed ${cell.seed}`)
  );
  if (names.length === 0) return [];
  const more = names.length > 6 ? ` and ${names.length - 6} more` : "";
  return [`${counted(names.length, "cell")} failed: ${names.slice(0, 6).join("; ")}${more}.`];
}

function limitedWords(section: Section): string[] {
  const limited = section.columns.filter((column) =>
    column.limited && column.primary && column.kind !== "mean-accuracy"
  );
  if (limited.length === 0) return [];
  const parts = limited.map(({ name, count }) => `${name} (${count})`);
  return [`Only a part of the data was scored: ${parts.join(", ")}. Results on all of the data may differ.`];
}

/** Levels at which methods did not remove the same fraction, which makes their qualities unequal tests. */
function realisedWords(section: Section): string[] {
  return byLevel(section).flatMap(([asked, rows]) => {
    const realised = rows.map((row) => meanOf(row, ({ size }) => size.sparsityOfPrunable));
    const [low, high] = [Math.min(...realised), Math.max(...realised)];
    return high - low < 0.01 ? [] : [
      `At ${level(asked)} asked, methods really removed ${percent(low)} to ${percent(high)} % of the prunable ` +
      "parameters: a method that removed less has an advantage.",
    ];
  });
}

/** Models that lost layers or hidden dimensions, which others of the same size have. */
function depthWords(section: Section): string[] {
  return section.rows.flatMap((row) => {
    const [run] = row.runs;
    if (isDense(row) || run === undefined) return [];
    const { size, denseSize } = run;
    const [layers, all] = [size.layers.length, denseSize.layers.length];
    const lost = [
      ...layers < all ? [`${layers} of ${all} layers`] : [],
      ...size.hidden ? [`a hidden size of ${size.hidden.kept} (dense ${size.hidden.of})`] : [],
    ];
    return lost.length === 0
      ? []
      : [`${row.label}${row.cell.checkpoint ? "" : ` at ${level(row.asked)} asked`} has ${lost.join(" and ")}.`];
  });
}

/** Levels at which methods did not train on equally many tokens. */
function tokenWords(section: Section): string[] {
  return byLevel(section).flatMap(([asked, rows]) => {
    // What a model that was pruned elsewhere saw is not known.
    const known = rows.filter(({ cell }) => cell.checkpoint === undefined);
    const byTokens = Map.groupBy(known, (row) => meanOf(row, trainedTokens));
    if (byTokens.size < 2) return [];
    const parts = [...byTokens].sort(([a], [b]) => a - b).map(([tokens, own]) =>
      `${count(Math.round(tokens))} (${listed(own.map(({ label }) => label))})`
    );
    return [
      `At ${level(asked)} asked, methods trained on unequal numbers of tokens, learning and recovery together: ` +
      `${parts.join("; ")}. A method that saw more has an advantage.`,
    ];
  });
}

/** Text that was calibrated or trained on and scored as well. */
function seenWords(section: Section): string[] {
  const runs = runsOf(section);
  const of = ({ sha256, split }: DatasetUse) => `${split} ${sha256}`;
  const read = new Set(
    runs.flatMap(({ calibrationData, trainingData, trainingDomains = [] }) =>
      [calibrationData, trainingData, ...trainingDomains].flatMap((use) => use ? [of(use)] : [])
    ),
  );
  const seen = unique(
    runs.flatMap(({ perplexity }) => perplexity.filter(({ dataset }) => read.has(of(dataset))))
      .map(({ corpus }) => corpusLabel(corpus)),
  );
  if (seen.length === 0) return [];
  return [
    `Methods were calibrated or trained on text that is scored here (${
      seen.join(", ")
    }): their perplexities on it say ` +
    "nothing about other text, and cannot be compared with the dense model's.",
  ];
}

/** Processor cores of other programs from which a machine counts as busy. */
const BUSY_CORES = 0.25;

/** Whether other programs disturbed what was timed. */
function busyWords(runs: readonly DoneRecord[]): string[] {
  const cores = Math.max(0, ...runs.flatMap(({ throughput }) => throughput.map(({ otherCores }) => otherCores ?? 0)));
  if (cores < BUSY_CORES) return [];
  return [
    `Other programs kept up to ${
      cores.toFixed(1)
    } processor cores busy while throughput was measured: tokens per second ` +
    "are those of a busy machine, and speed-ups are less sure than on a quiet one.",
  ];
}

function machineWords(section: Section): string[] {
  const runs = runsOf(section);
  const places = runs.flatMap(({ environment, laterEnvironments = [] }) => [environment, ...laterEnvironments]);
  const engines = unique(places.map(({ engine }) => engine)).filter((own) => own !== section.engine);
  const commits = unique(places.map(({ commit }) => commit ?? "unknown"));
  const machines = new Set(section.columns.filter(({ kind }) => kind === "throughput").map(({ protocol }) => protocol));
  return [
    ...engines.length > 0 ? [`Some cells ran on ${engines.join(", ")} instead of ${section.engine}.`] : [],
    ...commits.length > 1
      ? [`Results come from ${commits.length} versions of the harness: ${commits.join(", ")}.`]
      : [],
    ...busyWords(runs),
    ...machines.size > 1 ? ["Throughput was measured on more than one set-up: each has its own columns."] : [],
  ];
}

/** Warnings of a section, the most general ones first. */
export function warnings(section: Section): string[] {
  return [
    ...section.demonstration
      ? [
        "The model is the bundled tiny demonstration model: these numbers show that the harness works, " +
        "and say nothing about how the methods compare on a real model.",
      ]
      : [],
    ...seenWords(section),
    ...limitedWords(section),
    ...section.rows.some((row) => isDense(row) && hasRuns(row))
      ? []
      : ["There is no finished dense cell, so speed-ups cannot be given."],
    ...failedWords(section),
    ...realisedWords(section),
    ...depthWords(section),
    ...tokenWords(section),
    ...machineWords(section),
  ];
}
