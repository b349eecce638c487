/** Compares two runs: different settings, changed results, and whether the changes are significant.
 *
 * @module
 */
import { type Block, textTable } from "./document.ts";
import { valueText } from "./findings.ts";
import { level, pValue, unique } from "./format.ts";
import { toMarkdown } from "./markdown.ts";
import { differences, findPairs, type Pair, pairRows, rowName, type RowPair, unpaired } from "./pairs.ts";
import { placeWords } from "./protocol.ts";
import { type Row, type Section } from "./sections.ts";
import { mixedWords } from "./warnings.ts";
import { removedLess } from "./significance.ts";
import { changedUnits } from "../core/schema/kept_units.ts";
import { UsageError } from "../core/util/errors.ts";
import { ALPHA, changeWords, type Comparison, corrected, PAIRED_TESTS, verdictWords } from "./paired_tests.ts";

const plainValue = ({ column }: Pair, row: Pair["a"]): string =>
  column.kind === "throughput" ? row.values.get(column.key)?.value.toPrecision(4) ?? "–" : valueText(column, row);

/** B against A: percent of perplexity or throughput, points of accuracy; with the interval of a paired test. */
function changeText({ column, a, b }: Pair, test: Comparison | undefined): string {
  if (column.kind === "throughput") {
    const [before = NaN, after = NaN] = [a, b].map((row) => row.values.get(column.key)?.value);
    return `${(after / before).toFixed(3)} ×`;
  }
  if (test === undefined) return "–";
  return changeWords(column, test);
}

interface Tested {
  pair: Pair;
  test: Comparison | undefined;
}

const resultName = ({ column: { name, metric, count } }: Pair): string => `${name} ${metric}, ${count}`;

/** Pairs with their tests, corrected over all of them. */
function tested(pairs: readonly Pair[]): Tested[] {
  const results = corrected(pairs.flatMap(({ test }) => test ?? []));
  return pairs.map((pair) => ({ pair, test: pair.test === null ? undefined : results.shift() }));
}

const NOTES = [
  "We call a difference clear if the corrected paired test is significant and every seed agrees.",
  PAIRED_TESTS,
  `Holm's method corrects the tests and intervals of all tables here together, at ${ALPHA}.`,
  "Throughput is a ratio and is not tested.",
];

/** A run with the name that it goes by. */
export interface NamedRun {
  name: string;
  sections: readonly Section[];
}

/** What runs change against the first: the settings that differ, then every result on the same data that both have,
 * with the interval and the p value of one paired test. Holm's method corrects over all tables together.
 * @returns Markdown. */
export function compareRuns(first: NamedRun, others: readonly NamedRun[]): string {
  const paired = others.map(({ sections }) => pairRows(first.sections, sections));
  const results = tested(paired.flatMap(findPairs));
  const sections = others.map((other, i) => {
    const rows = paired[i] ?? [];
    const own = results.filter(({ pair }) => rows.some(({ a, b }) => a === pair.a && b === pair.b));
    return { title: others.length === 1 ? "" : other.name, blocks: changeBlocks(first, other, rows, own) };
  });
  return toMarkdown({ title: `${others.map(({ name }) => name).join(", ")} against ${first.name}`, sections });
}

/** Which of a run's results come from several engines or versions. */
const mixedNotes = ({ name, sections }: NamedRun): string[] =>
  sections.flatMap((section) => mixedWords(section).map((words) => `${name}: ${words}`));

/** How many kept units differ, over the seeds that both rows have. */
function unitsRow({ section, a, b }: RowPair): string[][] {
  const counts = a.runs.flatMap(({ plan, cell }) =>
    b.runs.filter((other) => other.cell.seed === cell.seed).map((other) => changedUnits(plan, other.plan))
  );
  const total = (of: "kept" | "changed") => counts.reduce((sum, count) => sum + count[of], 0);
  if (a.asked === 0 || total("kept") === 0) return [];
  const percent = 100 * total("changed") / total("kept");
  return [[rowName(section, a), "kept units", "", "", `${percent.toFixed(1)} % differ`, "", ""]];
}

/** One run against the first: settings, results, and what only one of the two has. */
function changeBlocks(first: NamedRun, other: NamedRun, rows: readonly RowPair[], results: Tested[]): Block[] {
  const found = differences(rows);
  const [nameA, nameB] = [first.name, other.name];
  const body = results.map(({ pair, test }) => [
    rowName(pair.section, pair.a),
    resultName(pair),
    plainValue(pair, pair.a),
    plainValue(pair, pair.b),
    changeText(pair, test),
    test === undefined || test.test === "identical" ? "" : pValue(test),
    test ? verdictWords(test) : "",
  ]).concat(rows.flatMap(unitsRow));
  const only = ({ name, sections }: NamedRun): Block[] => {
    const names = unpaired(sections, rows);
    return names.length === 0 ? [] : [{ kind: "line", text: `Only in ${name}: ${names.join("; ")}.` }];
  };
  const header = ["cell", "result", nameA, nameB, `${nameB} against ${nameA}`, "p (Holm)", `${nameB} is`];
  return [
    found.length === 0
      ? { kind: "line", text: "No setting differs between the cells that both runs have." }
      : { kind: "facts", isOpen: true, title: `Settings that differ, ${nameA} → ${nameB}`, facts: found },
    body.length === 0 ? { kind: "line", text: "The two runs have no result on the same data in common." } : {
      kind: "table",
      id: "comparison",
      title: "Results on the same data",
      caption: "",
      ...textTable(
        header.map((text) => [text]),
        (column) => column > 1 && column < 6,
        body.map((row) => row.map((text) => [text])),
      ),
      legend: [],
      notes: [...NOTES, ...[first, other].flatMap(mixedNotes)],
    },
    ...only(first),
    ...only(other),
  ];
}

/** The rows that `name` names: by their label, else by their method as `--methods` takes it, else by its id. */
function rowsNamed(name: string, rows: readonly Row[]): Row[] {
  const written = ({ cell: { method } }: Row) =>
    method?.changed && `${method.id}:${method.changed.map((option) => `${option}=${method.options[option]}`)}`;
  const names = [({ label }: Row) => label, written, ({ methodId }: Row) => methodId];
  return names.map((of) => rows.filter((row) => of(row) === name)).find((own) => own.length > 0) ?? [];
}

/** The rows of both methods of `pair`, split at the comma that leaves a name on each side: names may hold commas. */
function rowsOfPair(pair: string, rows: readonly Row[]): Row[][] {
  const parts = pair.split(",");
  const splits = parts.slice(1).map((_, i) =>
    [parts.slice(0, i + 1), parts.slice(i + 1)].map((own) => own.join().trim())
  );
  const found = splits.filter(([first, second]) => first !== second)
    .map((names) => names.map((name) => rowsNamed(name, rows))).find((both) => both.every(({ length }) => length > 0));
  if (found) return found;
  const known = unique(rows.map(({ label }) => `"${label}"`)).join(", ");
  throw new UsageError(`--pair must be two methods of one run: current "${pair}". Known: ${known || "none"}`);
}

/** Methods of a run against each other at each level: for every result a matrix of the difference, its interval and its
 * p value, or one line for the two methods of `pair`, `A,B`. Holm's method corrects over all that is shown.
 * @returns Markdown.
 * @throws {UsageError} when `pair` does not name rows. */
export function compareMethods({ name, sections }: NamedRun, pair?: string): string {
  const asked = pair === undefined ? undefined : rowsOfPair(pair, sections.flatMap(({ pruned }) => pruned));
  const found = sections.flatMap((section) =>
    section.pruned.flatMap((b, i) =>
      section.pruned.flatMap((a, j) =>
        a.asked === b.asked && a !== b && (asked ? asked[0]?.includes(b) && asked[1]?.includes(a) : j < i)
          ? [{ section, a, b }]
          : []
      )
    )
  );
  const results = tested(findPairs(found).filter(({ column }) => column.kind !== "throughput"));
  const groups = [
    ...Map.groupBy(
      results,
      ({ pair }) => `${pair.section.model} on ${placeWords(pair.section)}, ${level(pair.a.asked)}: ${resultName(pair)}`,
    ),
  ];
  const blocks = groups.map(([title, own]): Block => {
    const [rows, columns] = [[...new Set(own.map(({ pair }) => pair.b))], [...new Set(own.map(({ pair }) => pair.a))]];
    const body = rows.map((b) => [
      [`${b.label}, ${valueText(own[0]!.pair.column, b)}`],
      ...columns.map((a) => [cellText(own.find(({ pair }) => pair.a === a && pair.b === b))]),
    ]);
    const header = ["row against column", ...columns.map((a) => `${a.label}, ${valueText(own[0]!.pair.column, a)}`)];
    const table = textTable(header.map((text) => [text]), (column) => column > 0, body);
    return { kind: "table", id: "comparison", title, caption: "", ...table, legend: [], notes: [] };
  });
  const tests = results.filter(({ test }) => test && test.test !== "identical").length;
  const corrected = `Holm's method corrects all ${tests} tests of these tables together, at ${ALPHA}.`;
  const notes = NOTES.slice(0, 2).concat(tests > 1 ? corrected : []);
  const end: Block[] = results.length === 0
    ? [{ kind: "line", text: "No two methods have a result of the same level on the same data." }]
    : [...notes, ...mixedNotes({ name, sections })].map((text) => ({ kind: "line", text }));
  return toMarkdown({ title: `Methods of ${name}`, sections: [{ title: "", blocks: [...blocks, ...end] }] });
}

/** Difference, interval, p value and verdict of one place of a matrix. */
function cellText(result: Tested | undefined): string {
  if (result?.test === undefined) return "";
  const { pair: { column, a, b }, test } = result;
  const words = verdictWords(test);
  if (test.test === "identical") return words;
  const [ahead, behind] = test.lead.value > 0 ? [b, a] : [a, b];
  const less = removedLess(ahead, behind) ? `, but ${ahead === b ? "" : `${a.label} `}removed less` : "";
  return `${changeWords(column, test)}, ${pValue(test)}, ${words}${less}`;
}
