/** Paired tests of rows against a baseline, by the code of the reports. They run one at a time beside the page.
 *
 * @module
 */
import { corrected, pairedTest } from "../../paired_tests.ts";

/** Finished tests, by column and the two rows; null where the rows do not share windows or examples. */
const known = new Map();
let turn = 0;

const pause = () => new Promise((resolve) => setTimeout(resolve));

/** Tests every row of `list` against `baseline` by each of `tested`, and tells `done` the corrected results of a column:
 * a map from row to test. A later call ends an earlier one. */
export async function compareAll(list, baseline, tested, done) {
  const own = ++turn;
  for (const column of tested) {
    const others = list.filter((row) => row !== baseline && row.section.weights === baseline.section.weights);
    const tests = [];
    for (const row of others) {
      const key = `${column.id} ${row.id} ${baseline.id}`;
      if (!known.has(key)) {
        await pause();
        if (own !== turn) return;
        known.set(key, pairedTest(column, row, baseline));
      }
      if (known.get(key) !== null) tests.push([row, known.get(key)]);
    }
    await pause();
    if (own !== turn) return;
    const results = corrected(tests.map(([, test]) => test));
    done(column, new Map(tests.map(([row], i) => [row, results[i]])));
  }
}

/** Ends what {@linkcode compareAll} is doing. */
export const stopComparing = () => turn++;
