/** Two runs side by side: in which settings they differ, what changed between them, and whether it is more than chance.
 *
 * @module
 */
import { type Block, textTable } from "./document.ts";
import { valueText } from "./findings.ts";
import { pValue } from "./format.ts";
import { toMarkdown } from "./markdown.ts";
import { differences, findPairs, type Pair, pairRows, rowName, unpaired } from "./pairs.ts";
import type { Section } from "./sections.ts";
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

/** Pairs with their tests, corrected over all of them. */
function tested(pairs: readonly Pair[]): { pair: Pair; test: Comparison | undefined }[] {
  const results = corrected(pairs.flatMap(({ test }) => test ?? []));
  return pairs.map((pair) => ({ pair, test: pair.test === null ? undefined : results.shift() }));
}

const NOTES = [
  "We call a difference clear if the corrected paired test is significant and every seed agrees.",
  PAIRED_TESTS,
  `Holm's method corrects the tests and intervals of this table together, at ${ALPHA}.`,
  "Throughput is a ratio and is not tested.",
];

/** What run B changes against run A: first the settings that differ, then every result on the same data that both have,
 * with the interval and the p value of one paired test, corrected by Holm over the whole table.
 * @param names What the two runs are called.
 * @returns Markdown. */
export function compareRuns(
  sectionsA: readonly Section[],
  sectionsB: readonly Section[],
  [nameA, nameB]: readonly [string, string],
): string {
  const rows = pairRows(sectionsA, sectionsB);
  const found = differences(rows);
  const body = tested(findPairs(rows)).map(({ pair, test }) => [
    [rowName(pair.section, pair.a)],
    [`${pair.column.name} ${pair.column.metric}, ${pair.column.count}`],
    [plainValue(pair, pair.a)],
    [plainValue(pair, pair.b)],
    [changeText(pair, test)],
    [test === undefined || test.test === "identical" ? "" : pValue(test)],
    [test ? verdictWords(test) : ""],
  ]);
  const only = (name: string, rows: string[]): Block[] =>
    rows.length === 0 ? [] : [{ kind: "line", text: `Only in ${name}: ${rows.join("; ")}.` }];
  const header = ["cell", "result", nameA, nameB, `${nameB} against ${nameA}`, "p (Holm)", `${nameB} is`];
  const blocks: Block[] = [
    found.length === 0
      ? { kind: "line", text: "No setting differs between the cells that both runs have." }
      : { kind: "facts", isOpen: true, title: `Settings that differ, ${nameA} → ${nameB}`, facts: found },
    body.length === 0 ? { kind: "line", text: "The two runs have no result on the same data in common." } : {
      kind: "table",
      id: "comparison",
      title: "Results on the same data",
      caption: "",
      ...textTable(header.map((text) => [text]), (column) => column > 1 && column < 6, body),
      legend: [],
      notes: NOTES,
    },
    ...only(nameA, unpaired(sectionsA, rows)),
    ...only(nameB, unpaired(sectionsB, rows)),
  ];
  return toMarkdown({ title: `${nameB} against ${nameA}`, sections: [{ title: "", blocks }] });
}
