/** Warnings about the numbers of a report.
 *
 * @module
 */
import { corpusLabel } from "../core/schema/cell_names.ts";
import { BUSY_CORES, type DatasetUse, type DoneRecord } from "../core/schema/schema.ts";
import { counted } from "../core/util/words.ts";
import { budgetWords, realised } from "./budget.ts";
import { count, level, listed, percent, span, unique } from "./format.ts";
import { levelWords, type Row, type Section } from "./sections.ts";
import { amountWords, commitWords, trainingAsked, trainingDone } from "./settings.ts";
import { meanOf } from "./result_tables.ts";

/** What is said of the rows of a level, once for all levels of which it holds. */
function perLevel({ pruned }: Section, say: (rows: Row[]) => string): string[] {
  const levels = Map.groupBy(Map.groupBy(pruned, ({ asked }) => asked), ([, rows]) => say(rows));
  levels.delete("");
  return [...levels].map(([words, own]) =>
    `At ${listed(own.map(([asked, rows]) => levelWords(asked, rows)), "and")}, ${words}`
  );
}

/** The first few of many names. */
const few = (names: readonly string[], most = 6) =>
  names.slice(0, most).join("; ") + (names.length > most ? ` and ${names.length - most} more` : "");

function failedWords({ rows }: Section): string[] {
  const names = rows.flatMap(({ label, failures }) =>
    failures.map(({ cell }) => `${label} at ${level(cell.sparsity)}, seed ${cell.seed}`)
  );
  return names.length === 0 ? [] : [`${counted(names.length, "cell")} failed: ${few(names)}.`];
}

function limitedWords({ columns }: Section): string[] {
  const limited = columns.filter(({ limited, primary, kind }) => limited && primary && kind !== "mean-accuracy");
  const parts = unique(limited.map(({ name, count }) => `${name} (${count})`));
  return parts.length === 0
    ? []
    : [`Only a part of the data was scored: ${parts.join(", ")}. Results on all of the data may differ.`];
}

/** Levels at which methods did not remove the same fraction, which makes their qualities unequal tests. */
function realisedWords(section: Section): string[] {
  return perLevel(section, (rows) => {
    const parts = rows.map(realised);
    const [low, high] = [Math.min(...parts), Math.max(...parts)];
    return high - low < 0.01
      ? ""
      : `methods removed ${percent(low)} to ${percent(high)} % of the ${budgetWords(section).long}. ` +
        "A method that removed less has an advantage.";
  });
}

/** Cells whose least squares did not converge. */
function residualWords({ pruned }: Section): string[] {
  const found = pruned.flatMap(({ label, asked, runs }) => {
    const worst = Math.max(0, ...runs.map(({ openResidual = 0 }) => openResidual));
    return worst === 0 ? [] : [`${label} at ${level(asked)} (${worst.toPrecision(2)})`];
  });
  return found.length === 0 ? [] : [`Least squares did not converge; relative residuals: ${few(found)}.`];
}

/** Models that lost layers or hidden dimensions, which others of the same size have. */
function depthWords(section: Section): string[] {
  const lost = ({ runs }: Row) => {
    const layers = runs.map(({ size }) => size.layers.length);
    const all = Math.max(...runs.map(({ denseSize }) => denseSize.layers.length));
    const of = runs.find(({ size }) => size.hidden)?.size.hidden?.of;
    return [
      ...Math.min(...layers) < all ? [`${span(layers)} of ${all} layers`] : [],
      ...of ? [`a hidden size of ${span(runs.map(({ size }) => size.hidden?.kept ?? of))} instead of ${of}`] : [],
    ].join(" and ");
  };
  return perLevel(section, (rows) => {
    const kept = Map.groupBy(rows, lost);
    kept.delete("");
    const parts = [...kept].map(([words, own]) => `${words} (${listed(own.map(({ label }) => label))})`);
    return parts.length === 0 ? "" : `models have ${parts.join(", ")}.`;
  });
}

/** What of a model's training is not as the run asks: other steps, other tokens, or another loss. */
function ownTraining({ cell: { training }, training: stages }: DoneRecord): string[] {
  if (training === undefined || stages === undefined) return [];
  const own = trainingDone(stages.filter(({ stage }) => stage !== "search"));
  const [asked, done] = [amountWords(trainingAsked(training)), amountWords(own)];
  const hasHidden = stages.some(({ curve }) => curve.some(({ hidden }) => hidden > 0));
  return [
    ...done === asked ? [] : [`${done} instead of ${asked}`],
    ...training.hidden === 0 && hasHidden ? ["hidden states in the loss"] : [],
  ];
}

function ownTrainingWords({ pruned }: Section): string[] {
  return pruned.flatMap(({ label, asked, runs }) => {
    const words = unique(runs.flatMap(ownTraining)).join("; ");
    return words === "" ? [] : [
      `${label} at ${level(asked)} was not trained as requested: ${words}. ` +
      "Differences from other methods may come from this.",
    ];
  });
}

/** Levels at which methods did not train on equally many tokens. */
function tokenWords(section: Section): string[] {
  return perLevel(section, (rows) => {
    // The training tokens of models pruned elsewhere are unknown.
    const known = rows.filter(({ cell }) => cell.checkpoint === undefined);
    const byTokens = Map.groupBy(known, (row) => meanOf(row, (run) => trainingDone(run.training).tokens));
    const parts = [...byTokens].sort(([a], [b]) => a - b).map(([tokens, own]) =>
      `${count(Math.round(tokens))} (${listed(own.map(({ label }) => label))})`
    );
    return parts.length < 2 ? "" : `methods trained on unequal numbers of tokens: ${parts.join("; ")}. ` +
      "A method with more tokens has an advantage.";
  });
}

/** The first and the last line of a data set in its file. */
const linesOf = ({ source }: DatasetUse) => /, lines (\d+)-(\d+)$/.exec(source)?.slice(1).map(Number) ?? [0, Infinity];

/** Whether two data sets share text: splits have several names, and may be cut from one file. */
function overlap(a: DatasetUse, b: DatasetUse): boolean {
  const [[from = 0, to = 0], [first = 0, last = 0]] = [linesOf(a), linesOf(b)];
  return a.sha256 === b.sha256 && from <= last && first <= to;
}

/** Text that was calibrated or trained on and scored as well. */
function seenWords({ runs }: Section): string[] {
  const read = runs.flatMap(({ calibrationData, trainingData }) => [calibrationData ?? [], trainingData ?? []].flat());
  const scored = runs.flatMap(({ perplexity }) => perplexity);
  const seen = unique(
    scored.filter(({ dataset }) => read.some((use) => overlap(use, dataset))).map(({ corpus }) => corpusLabel(corpus)),
  );
  if (seen.length === 0) return [];
  return [
    `Methods were calibrated or trained on text that is scored here: ${seen.join(", ")}. ` +
    "These perplexities say nothing about other text and cannot be compared with the dense model's.",
  ];
}

/** Farthest from 1 that the dense model over itself may lie. */
const MOST_ERROR = 0.05;

/** Whether what was timed can be relied upon. */
function speedWords({ runs, speeds, dense }: Section): string[] {
  const cores = Math.max(0, ...runs.flatMap(({ throughput }) => throughput.map(({ otherCores }) => otherCores ?? 0)));
  return [
    ...cores < BUSY_CORES ? [] : [
      `Other programs kept up to ${cores.toFixed(1)} processor cores busy while throughput was measured. ` +
      "Speed-ups are less certain than on a quiet machine.",
    ],
    ...speeds.flatMap(({ key, name }) => {
      const own = dense?.speedUps.get(key)?.value ?? 1;
      return Math.abs(own - 1) <= MOST_ERROR
        ? []
        : [`${name}: the dense model's speed-up over itself is ${own.toFixed(2)}, not 1. Speed-ups have this error.`];
    }),
  ];
}

/** Engines and versions of the harness behind a section's results, where these are several. */
export function mixedWords(section: Section): string[] {
  const places = section.runs.flatMap(({ environment, laterEnvironments = [] }) => [environment, ...laterEnvironments]);
  const engines = unique(places.map(({ engine }) => engine)).filter((own) => own !== section.engine);
  const commits = unique(places.map(({ commit }) => commitWords(commit)));
  return [
    ...engines.length > 0 ? [`Some cells ran on ${engines.join(", ")} instead of ${section.engine}.`] : [],
    ...commits.length > 1
      ? [`Results come from ${commits.length} versions of the harness: ${commits.join(", ")}.`]
      : [],
  ];
}

/** Warnings of a section, the most general ones first. */
export function warnings(section: Section): string[] {
  return [
    ...section.demonstration
      ? [
        "The model is the bundled tiny demonstration model. Its numbers show that the harness works; " +
        "they say nothing about methods on real models.",
      ]
      : [],
    ...seenWords(section),
    ...limitedWords(section),
    ...section.dense ? [] : ["There is no finished dense cell, so speed-ups cannot be given."],
    ...failedWords(section),
    ...realisedWords(section),
    ...residualWords(section),
    ...depthWords(section),
    ...ownTrainingWords(section),
    ...tokenWords(section),
    ...mixedWords(section),
    ...unique(section.speeds.map(({ protocol }) => protocol)).length > 1
      ? ["Throughput was measured on more than one set-up: each has its own columns."]
      : [],
    ...speedWords(section),
  ];
}
