/** What the records say in a few sentences, each true by construction: winners and whether their lead is more than
 * chance, what limits the comparison, and how the numbers were made.
 *
 * @module
 */
import type { DoneRecord, MethodFile } from "../core/schema.ts";
import { count, level, percent, pValue, withSpread } from "./format.ts";
import { baseName, type Column, PRIMARY_METRIC_RULE } from "./measurements.ts";
import type { Row, Section } from "./rows.ts";
import { ALPHA, type Comparison, isClear, type Ranking } from "./significance.ts";
import { meanOf } from "./table.ts";

/** The winner of one level by one column. */
export interface Finding {
  /** Label of the winner; empty where a range stands for all methods. */
  best: string;
  /** Its value. */
  value: string;
  /** How sure the lead is. */
  verdict: string;
}

/** The winners in a grid: one line per level, one column per topic. */
export interface Glance {
  topics: string[];
  lines: { level: string; findings: (Finding | null)[] }[];
}

/** A value of a quality column as the tables show it. */
export function qualityText(column: Column, value: number): string {
  return column.kind === "perplexity" ? withSpread(value, null, 4, 2).text : `${percent(value)} %`;
}

/** Columns that answer "which method is best": perplexities, and the mean accuracy where there is one. */
export function headlineColumns(section: Section): Column[] {
  const means = section.columns.filter(({ kind }) => kind === "mean-accuracy");
  const tasks = section.columns.filter(({ kind, primary }) => kind === "task" && primary);
  return [...section.columns.filter(({ kind }) => kind === "perplexity"), ...(means.length > 0 ? means : tasks)];
}

/** How far the other is behind, with its interval: percent of perplexity, points of accuracy. */
function leadWords(column: Column, lead: Comparison["lead"]): string {
  if (column.kind === "perplexity") {
    const more = (nats: number) => (100 * Math.expm1(nats)).toFixed(1);
    return `${more(lead.value)} % higher [${more(lead.low)}, ${more(lead.high)}]`;
  }
  const points = (fraction: number) => (100 * fraction).toFixed(1);
  return `${points(lead.value)} points lower [${points(lead.low)}, ${points(lead.high)}]`;
}

function finding(ranking: Ranking): Finding {
  const { column, rows, comparisons } = ranking;
  const value = qualityText(column, rows[0].values.get(column.key)!.value);
  const named = (row: Row) => `${row.label} ${qualityText(column, row.values.get(column.key)!.value)}`;
  const best = rows[0].label;
  if (rows.length === 1) return { best, value, verdict: "the only method with a result" };
  const next = rows[1];
  const test = comparisons.get(next);
  if (comparisons.size < rows.length - 1 || test === undefined) {
    return { best, value, verdict: `next ${named(next)}; no paired test` };
  }
  const level = rows.slice(1).filter((row) => !isClear(comparisons.get(row)!));
  if (level.length > 0) {
    const more = level.length > 3 ? ` and ${level.length - 3} more` : "";
    return { best, value, verdict: `not clearly better than ${level.slice(0, 3).map(named).join(", ")}${more}` };
  }
  return {
    best,
    value,
    verdict: `clearly best; next ${named(next)}, ${leadWords(column, test.lead)}, ${pValue(test.p)}`,
  };
}

/** Range of the speed-ups of a level's methods, for each throughput test. */
function speedFinding(rows: Row[], speeds: Column[]): Finding | null {
  const parts = speeds.flatMap(({ key, name }) => {
    const ups = rows.flatMap((row) => row.speedUps.get(key)?.value ?? []).sort((a, b) => a - b);
    if (ups.length === 0) return [];
    const [low, high] = [ups[0], ups[ups.length - 1]].map((up) => up.toFixed(2));
    return [`${name} ${low === high ? low : `${low} to ${high}`} ×`];
  });
  return parts.length === 0 ? null : { best: "", value: parts.join(", "), verdict: "" };
}

/** The answer in one look. */
export function glance(section: Section, ranks: Ranking[]): Glance {
  const dense = section.rows.find((row) => row.methodId === null);
  const columns = headlineColumns(section);
  const several = columns.length > new Set(columns.map(({ name }) => name)).size;
  const speeds = section.columns.filter(({ key, kind }) =>
    kind === "throughput" && section.rows.some((row) => row.methodId !== null && row.speedUps.has(key))
  );
  const topic = (column: Column) => {
    const base = dense?.values.get(column.key);
    const what = column.kind === "perplexity"
      ? `Lowest ${column.metric}, ${column.name}`
      : `Highest ${column.name}${column.kind === "task" ? ` ${column.metric}` : ""}`;
    return what + (several ? `, ${column.count}` : "") + (base ? ` (dense ${qualityText(column, base.value)})` : "");
  };
  const levels = [...new Set(section.rows.filter((row) => row.methodId !== null).map(({ asked }) => asked))];
  return {
    topics: [...columns.map(topic), ...(speeds.length > 0 ? ["Speed-up over dense"] : [])],
    lines: levels.map((asked) => ({
      level: level(asked),
      findings: [
        ...columns.map((column) => {
          const ranking = ranks.find((rank) => rank.column === column && rank.asked === asked);
          return ranking === undefined ? null : finding(ranking);
        }),
        ...(speeds.length > 0
          ? [speedFinding(section.rows.filter((row) => row.methodId && row.asked === asked), speeds)]
          : []),
      ],
    })),
  };
}

/** Names of the failed cells, the first few of many. */
function failedWords(section: Section): string {
  const names = section.rows.flatMap(({ label, failures }) =>
    failures.map(({ cell }) => `${label} at ${level(cell.sparsity)}, seed ${cell.seed}`)
  );
  const more = names.length > 6 ? ` and ${names.length - 6} more` : "";
  return `${names.length === 1 ? "1 cell" : `${names.length} cells`} failed: ${names.slice(0, 6).join("; ")}${more}.`;
}

const runsOf = (section: Section): DoneRecord[] => section.rows.flatMap(({ runs }) => runs);
const unique = (texts: string[]) => [...new Set(texts)];

/** Size of the model, number of cells and seeds in one line. */
export function contextWords(section: Section): string {
  const runs = runsOf(section);
  const failed = section.rows.reduce((sum, { failures }) => sum + failures.length, 0);
  const parts = [
    ...(runs.length > 0 ? [`${count(runs[0].denseSize.parameters)} parameters`] : []),
    ...unique(runs.map(({ environment: { device, threads, cpu } }) => `${device}, ${threadWords(threads)}, ${cpu}`)),
    `${runs.length === 1 ? "1 finished cell" : `${runs.length} finished cells`}${
      failed > 0 ? `, ${failed} failed` : ""
    }`,
    ...(section.weightsSha256 === null ? [] : [`weights sha256 ${section.weightsSha256.slice(0, 12)}`]),
  ];
  return parts.join(" · ");
}

const threadWords = (threads: number) => threads === 1 ? "1 thread" : `${threads} threads`;

/** What a reader must know before trusting the numbers. */
export function warnings(section: Section): string[] {
  const result: string[] = [];
  if (section.demonstration) {
    result.push(
      "The model is the bundled tiny demonstration model: these numbers show that the harness works, " +
        "and say nothing about how the methods compare on a real model.",
    );
  }
  const limited = section.columns.filter((column) =>
    column.limited && column.primary && column.kind !== "mean-accuracy"
  );
  if (limited.length > 0) {
    const parts = limited.map(({ name, count }) => `${name} (${count})`);
    result.push(`Only a part of the data was scored: ${parts.join(", ")}. Results on all of the data may differ.`);
  }
  if (!section.rows.some((row) => row.methodId === null && row.runs.length > 0)) {
    result.push("There is no finished dense cell, so speed-ups cannot be given.");
  }
  if (section.rows.some(({ failures }) => failures.length > 0)) result.push(failedWords(section));
  result.push(...realisedWarnings(section));
  result.push(...depthWarnings(section));
  result.push(...tokenWarnings(section));
  const engines = unique(runsOf(section).map(({ environment }) => environment.engine)).filter((e) =>
    e !== section.engine
  );
  if (engines.length > 0) result.push(`Some cells ran on ${engines.join(", ")} instead of ${section.engine}.`);
  const commits = unique(runsOf(section).map(({ environment }) => environment.commit ?? "unknown"));
  if (commits.length > 1) {
    result.push(`Cells come from ${commits.length} versions of the harness: ${commits.join(", ")}.`);
  }
  const machines = new Set(section.columns.filter(({ kind }) => kind === "throughput").map(({ protocol }) => protocol));
  if (machines.size > 1) result.push("Throughput was measured on more than one set-up: each has its own columns.");
  return result;
}

/** Levels at which methods did not remove the same fraction, which makes their qualities unequal tests. */
function realisedWarnings(section: Section): string[] {
  const pruned = section.rows.filter((row) => row.methodId !== null && row.runs.length > 0);
  return [...Map.groupBy(pruned, ({ asked }) => asked)].flatMap(([asked, rows]) => {
    const realised = rows.map((row) => meanOf(row, ({ size }) => size.sparsityOfPrunable)).sort((a, b) => a - b);
    const [low, high] = [realised[0], realised[realised.length - 1]];
    return high - low < 0.01 ? [] : [
      `At ${level(asked)} asked, methods really removed ${percent(low)} to ${percent(high)} % of the prunable ` +
      "parameters: a method that removed less has an advantage.",
    ];
  });
}

/** Models that lost layers or hidden dimensions, which others of the same size have. */
function depthWarnings(section: Section): string[] {
  return section.rows.filter((row) => row.methodId !== null && row.runs.length > 0).flatMap((row) => {
    const { size, denseSize } = row.runs[0];
    const [layers, all] = [size.layers.length, denseSize.layers.length];
    const lost = [
      ...layers < all ? [`${layers} of ${all} layers`] : [],
      ...size.hidden ? [`a hidden size of ${size.hidden.kept} (dense ${size.hidden.of})`] : [],
    ];
    return lost.length === 0 ? [] : [`${row.label} at ${level(row.asked)} asked has ${lost.join(" and ")}.`];
  });
}

/** Tokens that a run read in learning and recovery. */
const trainedTokens = ({ training }: DoneRecord) => (training ?? []).reduce((sum, { tokens }) => sum + tokens, 0);

/** Levels at which methods did not train on equally many tokens. */
function tokenWarnings(section: Section): string[] {
  const pruned = section.rows.filter((row) => row.methodId !== null && row.runs.length > 0);
  return [...Map.groupBy(pruned, ({ asked }) => asked)].flatMap(([asked, rows]) => {
    const byTokens = Map.groupBy(rows, (row) => meanOf(row, trainedTokens));
    if (byTokens.size < 2) return [];
    const parts = [...byTokens].sort(([a], [b]) => a - b).map(([tokens, own]) =>
      `${count(Math.round(tokens))} (${own.map(({ label }) => label).join(", ")})`
    );
    return [
      `At ${level(asked)} asked, methods trained on unequal numbers of tokens, learning and recovery together: ` +
      `${parts.join("; ")}. A method that saw more has an advantage.`,
    ];
  });
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

/** How to read the tables of quality and of cost. */
export function legend(section: Section): { quality: string[]; cost: string[] } {
  const estimates = section.rows.flatMap(({ values }) => [...values.values()]);
  const has = (kind: string) => estimates.some(({ spreadOf, spread }) => spreadOf === kind && spread !== null);
  const several = has("seeds");
  const seeds = unique(runsOf(section).map(({ cell }) => String(cell.seed)));
  const spreads = [
    ...(several ? ["± is the sample standard deviation over seeds"] : []),
    ...(has("stderr") ? ["(…) is the standard error of one run over windows or examples"] : []),
  ];
  const measures = unique(runsOf(section).map(({ memory }) => memory.measure));
  return {
    quality: [
      "Removed: fraction asked for, then fractions really removed of the prunable parameters and of the whole model.",
      ...(spreads.length > 0 ? [`${spreads.join("; ")}.`] : []),
      ...(several || seeds.length === 0
        ? []
        : [`One seed (${seeds.join(", ")}) per cell: the spread between seeds is unknown.`]),
      "Best of its level in bold, second best underlined. * clearly better than every other method of its level; " +
      "≈ not clearly worse than the best. Paired tests on the same windows or examples (exact McNemar for one seed of " +
      `a task, sign-flip permutation otherwise; seeds averaged first), Holm-corrected over all tests of a column at ${ALPHA}.`,
      ...(section.columns.some(({ kind }) => kind === "mean-accuracy")
        ? [`Mean accuracy is the plain mean over tasks of ${PRIMARY_METRIC_RULE}.`]
        : []),
    ],
    cost: [
      "MACs: one sequence of 64 tokens by LLM-Pruner's convention. Weights: as held on the device, f32." +
      (measures.length > 0 ? ` Peak memory: ${measures.join("; ")}.` : ""),
      ...(has("repeats")
        ? [
          "Throughput: mean ± sample standard deviation over timed repeats. Speed-up: tokens/s over the dense model's " +
          "on the same machine; its spread is that of both.",
        ]
        : []),
      "Uniform: every layer has the same widths, so a plain Llama configuration describes the result.",
    ],
  };
}

const fileWords = ({ path, sha256 }: MethodFile) => `from ${baseName(path)}, sha256 ${sha256.slice(0, 12)}`;

/** Protocols by name, for the notes under the tables. */
export function protocols(section: Section): { name: string; text: string }[] {
  const seen = new Map<string, { name: string; text: string }>();
  for (const { name, protocol } of section.columns) {
    seen.set(`${name} ${protocol}`, { name, text: protocol });
  }
  return [...seen.values()];
}

/** Machine, libraries and inputs behind a section, as label and value. */
export function environmentFacts(section: Section): { name: string; text: string }[] {
  const runs = runsOf(section);
  const facts: [string, (run: DoneRecord) => string][] = [
    ["engine", ({ environment }) => environment.engine],
    ["library", ({ environment }) => environment.library],
    [
      "device",
      ({ environment: { device, threads } }) => `${device}, ${threadWords(threads)}`,
    ],
    ["processor", ({ environment: { cpu, os } }) => `${cpu}, ${os}`],
    ["Deno", ({ environment }) => environment.deno],
    ["harness commit", ({ environment }) => environment.commit ?? "unknown"],
    ["weights", ({ weights }) => `${weights.format}, ${weights.dtypes.join(" + ")}, sha256 ${weights.sha256}`],
  ];
  return facts.flatMap(([name, pick]) => unique(runs.map(pick)).map((text) => ({ name, text })));
}

function optionWords(options: Record<string, unknown>): string {
  const words = Object.entries(options).map(([name, value]) =>
    `${name}: ${typeof value === "string" ? value : JSON.stringify(value)}`
  );
  return words.length === 0 ? "no options" : words.join(", ");
}

/** What was asked for, as label and value. */
export function configurationFacts(section: Section): { name: string; text: string }[] {
  const cells = section.rows.flatMap(({ runs, failures }) => [...runs, ...failures].map(({ cell }) => cell));
  const pruned = cells.filter(({ method }) => method !== null);
  const join = (texts: string[]) => unique(texts).join("; ");
  return [
    { name: "units", text: join(pruned.map(({ units }) => units.join(" + "))) },
    { name: "FFN widths", text: join(pruned.map(({ ffnMultiple }) => `multiples of ${ffnMultiple}`)) },
    {
      name: "calibration",
      text: join(pruned.map(({ calibration: c }) => `${c.sequences} windows of ${c.tokens} tokens of ${c.corpus}`)),
    },
    { name: "seeds", text: unique(cells.map(({ seed }) => String(seed))).sort().join(", ") },
    ...unique(pruned.map(({ method }) => method!.id)).map((id) => ({
      name: id,
      text: join(
        pruned.filter(({ method }) => method!.id === id).map(({ method, methodFile }) =>
          [optionWords(method!.options), ...methodFile ? [fileWords(methodFile)] : []]
            .join("; ")
        ),
      ),
    })),
  ].filter(({ text }) => text !== "");
}
