/** Which rows of two runs belong together, and in which settings they differ.
 *
 * @module
 */
import { environmentFacts } from "./details.ts";
import { level, listed, unique } from "./format.ts";
import type { Column } from "./columns.ts";
import { placeWords } from "./protocol.ts";
import { hasRuns, type Row, type Section } from "./sections.ts";
import { type Fact, settingsOf } from "./settings.ts";
import { pairedTest, type RawTest } from "./paired_tests.ts";

/** A row of run A and the row of run B that it is compared with. */
export interface RowPair {
  section: Section;
  a: Row;
  b: Row;
}

/** One result that both runs have. */
export interface Pair extends RowPair {
  column: Column;
  /** How much better B is than A; null where windows or examples were not stored. */
  test: RawTest | null;
}

/** The name of a row in comparisons. */
export const rowName = (section: Section, { label, asked }: Row): string =>
  `${section.model} on ${placeWords(section)}: ${label}${asked > 0 ? ` at ${level(asked)}` : ""}`;

/** Rows with results and the sections that they are in. */
const finished = (sections: readonly Section[]) =>
  sections.flatMap((section) => section.rows.filter(hasRuns).map((row) => ({ section, row })));

const isSameModel = (a: Section, b: Section) => a.weightsSha256 === b.weightsSha256 || a.model === b.model;

/** Settings by name. */
const settings = (row: Row): Map<string, string> => new Map(settingsOf(row).map(({ name, text }) => [name, text]));

/** How many settings agree less how many differ. */
function agreement(a: Row, b: Row): number {
  const [own, theirs] = [settings(a), settings(b)];
  const names = new Set([...own.keys(), ...theirs.keys()]);
  return [...names].reduce((sum, name) => sum + (own.get(name) === theirs.get(name) ? 1 : -1), 0);
}

/** Pairs rows of one model, method and level; where a method has several variants, those with the most equal settings.
 * Engine and arithmetic decide between equals. No row is in two pairs. */
export function pairRows(sectionsA: readonly Section[], sectionsB: readonly Section[]): RowPair[] {
  const others = finished(sectionsB);
  const possible = finished(sectionsA).flatMap(({ section, row: a }) =>
    others.filter(({ section: other, row: b }) =>
      a.methodId === b.methodId && a.asked === b.asked && isSameModel(section, other)
    ).map(({ section: other, row: b }) => {
      const place = Number(placeWords(section) === placeWords(other));
      return { section, a, b, score: place + (a.key === b.key ? 1e6 : agreement(a, b)) };
    })
  );
  const taken = new Set<Row>();
  const chosen = possible.toSorted((x, y) => y.score - x.score).filter(({ a, b }) => {
    if (taken.has(a) || taken.has(b)) return false;
    taken.add(a).add(b);
    return true;
  });
  // In the order of run A.
  return possible.filter((pair) => chosen.includes(pair)).map(({ section, a, b }) => ({ section, a, b }));
}

/** Every result on the same data that both runs have. */
export function findPairs(rows: readonly RowPair[]): Pair[] {
  return rows.flatMap(({ section, a, b }) =>
    section.columns
      .filter(({ key, primary }) => primary && a.values.has(key) && b.values.has(key))
      .map((column) => ({ section, column, a, b, test: pairedTest(column, b, a) }))
  );
}

/** Rows with results that no pair holds. */
export function unpaired(sections: readonly Section[], pairs: readonly RowPair[]): string[] {
  const taken = new Set(pairs.flatMap(({ a, b }) => [a, b]));
  return finished(sections).filter(({ row }) => !taken.has(row)).map(({ section, row }) => rowName(section, row));
}

/** Seeds, machine and versions behind a row, by name. */
const environment = (row: Row): Map<string, string> =>
  new Map([["seeds", row.seeds.join(", ")], ...environmentFacts(row).map(({ name, text }) => [name, text] as const)]);

/** Every setting in which rows of a pair differ, one fact per setting: `none → LoRA (flap, wanda-sp)`. */
export function differences(pairs: readonly RowPair[]): Fact[] {
  const changes = pairs.flatMap(({ a, b }) => {
    const [own, theirs] = [new Map([...settings(a), ...environment(a)]), new Map([...settings(b), ...environment(b)])];
    return unique([...own.keys(), ...theirs.keys()]).flatMap((name) => {
      const [before = "absent", after = "absent"] = [own.get(name), theirs.get(name)];
      return before === after ? [] : [{ name, change: `${before} → ${after}`, label: a.label }];
    });
  });
  return [...Map.groupBy(changes, ({ name }) => name)].map(([name, own]) => {
    const texts = [...Map.groupBy(own, ({ change }) => change)].map(([change, same]) =>
      same.length === pairs.length ? change : `${change} (${listed(unique(same.map(({ label }) => label)))})`
    );
    return { name, text: texts.join("; ") };
  });
}
