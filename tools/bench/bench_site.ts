/** How long the page over many runs takes to open and to answer: 500 cells of 10 made-up runs in a headless Chromium.
 *
 * Times end when the browser has painted the table and the chart. Every cell is a row of one model: the page shows all
 * of them, the slowest case. The least of the repeats counts, because other programs of the machine only add.
 *
 * Exit codes: 0 done, 1 a limit is exceeded, 2 wrong use.
 *
 * @module
 */
import { pathToFileURL } from "node:url";
import { withTempFolder } from "../../benchmarks/commands/command.ts";
import { sectionsOf } from "../../benchmarks/commands/reports.ts";
import { writeSite } from "../../reports/site/write_site.ts";
import { withPage } from "../../tests/support/chromium.ts";
import { doneRecord } from "../../tests/support/reports_fixture.ts";
import { runTool } from "../run_tool.ts";

const RUNS = 10;
const METHODS = ["random", "magnitude", "wanda-sp", "llm-pruner", "flap", "obs", "mask-prune"];
const LEVELS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7];
const REPEATS = 10;

/** What a reader does, as code of the page, with the most milliseconds that it may take. */
const ACTIONS: [name: string, code: string, mostMs: number][] = [
  ["open", "", 2000],
  ["filter by method", `document.querySelector("[name=filter-method][value=flap]").click()`, 100],
  ["clear filters", `document.querySelector("[name=reset]").click()`, 100],
  ["sort", `document.querySelector("[name=sort-parameters]").click()`, 100],
];

/** Code of the page that acts, and gives the milliseconds until another chart than before is painted. A page without an
 * action is timed from the start of its navigation. */
const timed = (action: string) =>
  `(async () => {
    const plot = ${action ? `document.querySelector("#chart .plot")` : "null"};
    const start = ${action ? "performance.now()" : 0};
    ${action};
    const frame = () => new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));
    do await frame(); while (document.querySelector("#chart .plot") === plot);
    return performance.now() - start;
  })()`;

/** Writes the page of made-up runs. */
function write(folder: string): string {
  const runs = Array.from({ length: RUNS }, (_, seed) => {
    const cells = METHODS.flatMap((method, m) =>
      LEVELS.map((sparsity) => doneRecord({ method, sparsity, seed, damage: sparsity * (1 + m) + 0.01 * seed }))
    );
    const sections = sectionsOf([doneRecord({ seed }), ...cells]);
    return { name: `run-${seed}`, folder: `run-${seed}`, address: "../", sections, samples: new Map() };
  });
  return pathToFileURL(writeSite(folder, runs, [])).href;
}

async function main(): Promise<number> {
  const times: number[][] = ACTIONS.map(() => []);
  await withTempFolder(async (folder) => {
    const url = write(folder);
    await withPage(async (page) => {
      for (let repeat = 0; repeat < REPEATS; repeat++) {
        for (const address of ["about:blank", url]) await page.send("Page.navigate", { url: address });
        for (const [i, [, code]] of ACTIONS.entries()) times[i]?.push(await page.evaluate(timed(code)));
      }
    });
  });
  const least = times.map((own) => Math.round(Math.min(...own)));
  console.log(`${RUNS * (METHODS.length * LEVELS.length + 1)} cells of ${RUNS} runs, least of ${REPEATS} repeats`);
  for (const [i, [name, , most]] of ACTIONS.entries()) console.log(`${name}: ${least[i]} ms (at most ${most})`);
  return ACTIONS.some(([, , most], i) => !(least[i]! <= most)) ? 1 : 0;
}

if (import.meta.main) await runTool({ help: "deno task bench:site" }, main);
