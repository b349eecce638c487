/** The best method of each level, and whether its lead is clear.
 *
 * The best row is tested against every other on the same windows or examples; Holm's method corrects all tests of a
 * column. Tests use the mean over seeds and do not cover other seeds, so a clear lead needs every seed. The choice of
 * the best row from the same numbers is not corrected.
 *
 * @module
 */
import { realised } from "./budget.ts";
import type { Column } from "./columns.ts";
import type { TableCell } from "./document.ts";
import { clearSign, type Comparison, corrected, pairedTest } from "./paired_tests.ts";
import { isDense, type Row, type Section } from "./sections.ts";

/** Rows of one level by one column, best first. */
export interface Ranking {
  column: Column;
  /** Level: asked fraction of the prunable parameters. */
  asked: number;
  best: Row;
  /** Rows with a value, best first. */
  rows: Row[];
  /** Tests of the first row against the others, where both have the same windows or examples. */
  comparisons: Map<Row, Comparison>;
}

/** Rankings of every level and quality column of a section; throughput is not ranked: methods of one level remove the
 * same, so differences come from the machine. */
export function rankings(section: Section): Ranking[] {
  const columns = section.columns.filter(({ kind, primary }) => kind !== "throughput" && primary);
  const levels = [...new Set(section.rows.filter((row) => !isDense(row)).map(({ asked }) => asked))];
  return columns.flatMap((column) => {
    const ranked = levels.flatMap((asked) => rankedRows(section, column, asked));
    const tests = ranked.flatMap(({ best, others }) => others.flatMap((row) => pairedTest(column, best, row) ?? []));
    const byRow = new Map(corrected(tests).map((test) => [test.other, test]));
    return ranked.map(({ asked, best, others }): Ranking => {
      const found = others.flatMap((row) => byRow.get(row) ?? []);
      return { column, asked, best, rows: [best, ...others], comparisons: new Map(found.map((t) => [t.other, t])) };
    });
  });
}

/** Rows of a level with a value of a column, best first; none where no row has one. */
function rankedRows(section: Section, column: Column, asked: number): { asked: number; best: Row; others: Row[] }[] {
  const sign = column.higherIsBetter ? -1 : 1;
  const valued = section.rows.flatMap((row) => {
    const estimate = isDense(row) || row.asked !== asked ? undefined : row.values.get(column.key);
    return estimate === undefined ? [] : [{ row, merit: sign * estimate.value }];
  });
  const [best, ...others] = valued.sort((a, b) => a.merit - b.merit).map(({ row }) => row);
  return best === undefined ? [] : [{ asked, best, others }];
}

/** Whether a row removed less than another, by a point or more, and so had the easier task. */
export const removedLess = (own: Row, other: Row): boolean => realised(other) - realised(own) >= 0.01;

/** Whether the best row is clearly better than the other. */
export const isClear = (comparison: Comparison): boolean => clearSign(comparison) > 0;

/** The standing of each row by one ranking. A level with one method has no standings. */
export function standings({ column, best, rows, comparisons }: Ranking): Map<Row, Pick<TableCell, "place" | "sign">> {
  const result = new Map<Row, Pick<TableCell, "place" | "sign">>();
  if (rows.length < 2) return result;
  const valueOf = (row: Row) => row.values.get(column.key)?.value;
  const values = [...new Set(rows.map(valueOf))];
  const others = rows.slice(1).map((row) => comparisons.get(row));
  const clear = others.every((test) => test !== undefined && isClear(test));
  for (const row of rows) {
    const index = values.indexOf(valueOf(row));
    const test = comparisons.get(row);
    const sign = row === best ? (clear ? "*" : "") : test !== undefined && !isClear(test) ? "≈" : "";
    result.set(row, { place: index === 0 ? 1 : index === 1 ? 2 : 0, sign });
  }
  return result;
}
