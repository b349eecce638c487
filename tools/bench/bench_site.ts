/** How long the page over many runs takes to open and to answer: 500 cells of 10 made-up runs in a headless Chromium.
 *
 * Times end when the browser has painted the table and the chart. Every cell is a row of one model, so the page first
 * shows all of them: the slowest case. Processor time of the page's main thread stands beside them. The least of the repeats counts,
 * because other programs of the machine only add.
 *
 * Exit codes: 0 done, 1 a limit is exceeded, 2 wrong use.
 *
 * @module
 */
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { sectionsOf } from "../../benchmarks/commands/reports.ts";
import { writeSite } from "../../reports/site/write_site.ts";
import { type Page, withPage } from "../../tests/support/chromium.ts";
import { doneRecord } from "../../tests/support/reports_fixture.ts";
import { runTool } from "../run_tool.ts";

const HELP = `deno task bench:site

Opens a page of 500 cells in Chromium and prints how long opening and each action take.`;

const RUNS = 10;
const METHODS = ["random", "magnitude", "wanda-sp", "llm-pruner", "flap", "obs", "mask-prune"];
const LEVELS = 7;
const REPEATS = 7;
/** Most time, ms, for opening the page and for an action. */
const MOST_MS = { open: 2000, action: 100 };

/** What a reader does, as code of the page. */
const ACTIONS: Record<string, string> = {
  "filter by method": `document.querySelector("[name=filter-method][value=flap]").click()`,
  "clear filters": `document.querySelector("[name=reset]").click()`,
  "filter by level": `document.querySelector("[name=filter-level]:last-of-type").click()`,
  "clear filters again": `document.querySelector("[name=reset]").click()`,
  "sort": `document.querySelector("[name=sort-parameters]").click()`,
};

/** Code of the page that runs an action and gives the milliseconds until table and chart are painted. */
const timed = (action: string) =>
  `(async () => {
    const plot = document.querySelector("#chart .plot");
    const start = performance.now();
    ${action};
    const frame = () => new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));
    do await frame(); while (document.querySelector("#chart .plot") === plot);
    return performance.now() - start;
  })()`;

/** Writes the page of made-up runs, of which no two have a row in common. */
function write(folder: string): string {
  const runs = Array.from({ length: RUNS }, (_, run) => {
    const cells = METHODS.flatMap((method, m) =>
      Array.from(
        { length: LEVELS },
        (_, l) =>
          doneRecord({ method, sparsity: 0.1 * (l + 1), seed: run, damage: 0.1 * (l + 1) * (1 + m) + 0.01 * run }),
      )
    );
    const sections = sectionsOf([doneRecord({ seed: run }), ...cells]);
    return { name: `run-${run}`, folder: `run-${run}`, address: "../", sections, samples: new Map() };
  });
  return pathToFileURL(writeSite(folder, runs, [])).href;
}

/** Milliseconds from the start of navigation until the table and the chart are painted. */
async function opened(page: Page, url: string): Promise<number> {
  await page.send("Page.navigate", { url: "about:blank" });
  await page.send("Page.navigate", { url });
  return await page.evaluate(`(async () => {
    const frame = () => new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));
    do await frame(); while (!document.querySelector("#chart .plot"));
    return performance.now();
  })()`);
}

/** Processor time of the page's main thread so far, ms. */
async function busyMs(page: Page): Promise<number> {
  const { metrics } = await page.send("Performance.getMetrics") as { metrics: { name: string; value: number }[] };
  return 1000 * (metrics.find(({ name }) => name === "TaskDuration")?.value ?? NaN);
}

/** Milliseconds of every action, in every repeat. */
async function measure(url: string): Promise<Map<string, { ms: number; busy: number }[]>> {
  const times = new Map<string, { ms: number; busy: number }[]>();
  await withPage(async (page) => {
    await page.send("Performance.enable", { timeDomain: "threadTicks" });
    const note = async (name: string, act: () => Promise<number>) => {
      const before = await busyMs(page);
      const ms = await act();
      const after = await busyMs(page);
      // A page that is opened counts from 0.
      times.set(name, [...times.get(name) ?? [], { ms, busy: after < before ? after : after - before }]);
    };
    for (let i = 0; i < REPEATS; i++) {
      await note("open", () => opened(page, url));
      for (const [name, action] of Object.entries(ACTIONS)) await note(name, () => page.evaluate(timed(action)));
    }
  });
  return times;
}

async function main(): Promise<number> {
  const folder = Deno.makeTempDirSync();
  let isSlow = false;
  try {
    const times = await measure(write(join(folder, "www")));
    console.log(`${RUNS * (METHODS.length * LEVELS + 1)} cells of ${RUNS} runs; least of ${REPEATS} repeats, ms`);
    for (const [name, own] of times) {
      const most = name === "open" ? MOST_MS.open : MOST_MS.action;
      const ms = Math.min(...own.map(({ ms }) => ms));
      const busy = Math.min(...own.map(({ busy }) => busy));
      console.log(`${name.padEnd(20)} painted after ${ms.toFixed(0)} (at most ${most}), busy for ${busy.toFixed(0)}`);
      isSlow ||= ms > most;
    }
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
  return isSlow ? 1 : 0;
}

if (import.meta.main) await runTool({ help: HELP }, main);
