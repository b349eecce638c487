/** Paired tests of rows, by the code of the reports. They run one at a time beside the page.
 *
 * @module
 */
import { corrected, pairedTest } from "../../paired_tests.ts";
import { columns } from "./data.js";

/** Finished tests, by column and the two rows; null where the rows do not share windows or examples. */
const known = new Map();
let turn = 0;

const pause = () => new Promise((resolve) => setTimeout(resolve));

/** The test of two rows by a column, null where they do not share windows or examples. Promises give way to the page
 * before they test. */
async function testOf(column, row, baseline) {
  const key = `${column.id} ${row.id} ${baseline.id}`;
  if (!known.has(key)) {
    await pause();
    known.set(key, pairedTest(column, row, baseline));
  }
  return known.get(key);
}

/** Columns of tables in which two rows have numbers that a test can pair. */
export const testedColumns = (a, b) =>
  a.section.weights !== b.section.weights
    ? []
    : columns.filter(({ key, kind, primary }) =>
      primary && kind !== "throughput" && a.paired.has(key) && b.paired.has(key)
    );

/** Tests `row` against `other` by each of `tested`, corrected together. */
export async function comparePair(row, other, tested) {
  const found = [];
  for (const column of tested) {
    const test = await testOf(column, row, other);
    if (test !== null) found.push([column, test]);
  }
  return corrected(found.map(([, test]) => test)).map((result, i) => [found[i][0], result]);
}

/** Tests every row of `list` against `baseline` by each of `tested`, and tells `done` the corrected results of a column:
 * a map from row to test. A later call ends an earlier one. */
export async function compareAll(list, baseline, tested, done) {
  const own = ++turn;
  for (const column of tested) {
    const others = list.filter((row) => row !== baseline && row.section.weights === baseline.section.weights);
    const tests = [];
    for (const row of others) {
      const test = await testOf(column, row, baseline);
      if (own !== turn) return;
      if (test !== null) tests.push([row, test]);
    }
    await pause();
    if (own !== turn) return;
    const results = corrected(tests.map(([, test]) => test));
    done(column, new Map(tests.map(([row], i) => [row, results[i]])));
  }
}

/** Ends what {@linkcode compareAll} is doing. */
export const stopComparing = () => turn++;
