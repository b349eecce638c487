/** The page over many runs in a real browser. `MASKPRUNE_SCREENSHOTS` names a folder that keeps the pictures. */
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { sectionsOf } from "../../benchmarks/commands/reports.ts";
import { at } from "../../core/util/indexing.ts";
import type { CellRecord } from "../../core/schema/schema.ts";
import { changeWords, corrected, pairedTest } from "../../reports/paired_tests.ts";
import { pValue } from "../../reports/format.ts";
import { writeSite } from "../../reports/site/write_site.ts";
import { clickAt, openPage, type Page, screenshot, withPage } from "../support/chromium.ts";
import { doneRecord, sweepRecords } from "../support/reports_fixture.ts";
import { tempFolder } from "../support/weights_fixture.ts";

const HOSTILE = "x<img src=y onerror='window.hacked=1'>";
const TASK = "</script><script>window.hacked=1</script>";

const sweep = sweepRecords();
const pruned = sweep.find(({ cell }) => cell.method?.id === "flap")!;
const timed = doneRecord({ model: "Other.gguf", engine: "wasm", method: "flap", sparsity: 0.2 });
const other: CellRecord[] = [
  { ...timed, cell: { ...timed.cell, budget: "decode-ms" } },
  doneRecord({ model: "Other.gguf", engine: "wasm" }),
  doneRecord({ model: "Other.gguf", engine: "wasm", method: HOSTILE, sparsity: 0.2, damage: 0.5, tasks: [TASK] }),
];
/** More rows than are drawn at once. */
const many = Array.from(
  { length: 50 },
  (_, i) =>
    doneRecord({ model: "Many.gguf", method: "flap", sparsity: 0.2, options: { i }, damage: (i * 37 % 50) / 30 }),
);
const SECTIONS = { sweep: sectionsOf(sweep), [HOSTILE]: sectionsOf(other), many: sectionsOf(many) };

/** Writes the page; two rows of the sweep have logged examples, of which pruning broke one and repaired one. */
function write(out: string): string {
  const logged = [at(sweep, 0), pruned].map(({ id }, i) => ({ id, task: "arc_easy", file: `${i}.js` }));
  const runs = Object.entries(SECTIONS).map(([name, sections]) => ({
    ...{ name, folder: `results/${name}`, address: "../run/", sections },
    samples: Map.groupBy(logged, ({ id }) => id),
  }));
  const answers = [[true, false, true], [false, true, true]];
  return writeSite(
    out,
    runs,
    logged.map((one, i) => ({
      ...one,
      read: () =>
        answers[i]!.map((right, k) => ({
          ...{ context: `question ${k} ${TASK}`, choices: [" yes", HOSTILE], gold: 0, right },
          logLikelihoods: right ? [-1, -2] : [-2, -1],
        })),
    })),
  );
}

const wait = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/** Waits until an expression is true. */
async function until(page: Page, expression: string): Promise<void> {
  for (let tries = 0; tries < 400; tries++) {
    if (await page.evaluate<boolean>(expression)) return;
    await wait(50);
  }
  throw new Error(`This did not become true: ${expression}`);
}

async function open(page: Page, url: string, how: Parameters<typeof openPage>[2]): Promise<void> {
  await page.send("Page.navigate", { url: "about:blank" });
  await openPage(page, url, how);
  await until(page, "document.querySelector('#chart canvas') !== null");
}

/** Chooses `value` in the control `name`. */
const choose = (page: Page, name: string, value: string) =>
  page.evaluate(`(() => {
    const control = document.querySelector('select[name=${JSON.stringify(name)}]');
    control.value = ${JSON.stringify(value)};
    control.dispatchEvent(new Event("change"));
  })()`);

const idOf = (method: string, asked: number): string => {
  const row = at(SECTIONS.sweep!, 0).rows.find((row) => row.label === method && row.asked === asked)!;
  return `sweep:${at(row.runs, 0).id}`;
};

/** Filter values of the rows in the table. */
const TABLE_ROWS = `(() => {
  const rows = new Map(BENCH.sections.flatMap(({ rows }) => rows).map((row) => [row.id, row.filters]));
  return [...document.querySelectorAll("#table tr[data-id]")].map((row) => rows.get(row.dataset.id));
})()`;

async function eachFilter(page: Page): Promise<void> {
  const names = await page.evaluate<string[]>("Object.keys(BENCH.sections[0].rows[0].filters)");
  assertEquals(names.length, 13);
  for (const name of names) {
    await page.evaluate("document.querySelector('[name=reset]').click()");
    const value = await page.evaluate<string | null>(`(() => {
      const boxes = [...document.querySelectorAll("[name='filter-${name}']")];
      boxes.at(-1)?.click();
      return boxes.at(-1)?.value ?? null;
    })()`);
    // A filter with one value is not shown.
    if (value === null) continue;
    const shown = await page.evaluate<Record<string, string>[]>(TABLE_ROWS);
    assert(shown.length > 0, `${name}: ${value} leaves no row`);
    for (const filters of shown) {
      assert(filters[name] === value || filters.method === "dense", `${name}: ${filters[name]} beside ${value}`);
    }
    assertEquals(
      await page.evaluate("new URLSearchParams(location.hash.slice(1)).get(" + JSON.stringify(name) + ")"),
      value,
    );
  }
}

async function eachAxis(page: Page): Promise<void> {
  for (const name of ["vertical", "horizontal"]) {
    const values = await page.evaluate<string[]>(
      `[...document.querySelector('select[name=${name}]')].map((o) => o.value)`,
    );
    assert(values.length > 10, `${values.length} axes`);
    for (const value of values) {
      await choose(page, name, value);
      // The chart names its axes for screen readers.
      await until(
        page,
        `(() => {
          const titles = document.querySelector("#chart .plot")?.ariaLabel.split(": ")[0].split(" against ");
          const [option] = document.querySelector("select[name=${name}]").selectedOptions;
          return option.value === ${JSON.stringify(value)} &&
            option.textContent.startsWith(titles?.[${name === "vertical" ? 0 : 1}] ?? "none");
        })()`,
      );
    }
  }
}

/** Clicks a point of the chart with the mouse. */
async function pinPoint(page: Page): Promise<void> {
  await page.evaluate("document.querySelector('#chart').scrollIntoView({ block: 'start' })");
  const id = idOf("flap", 0.2);
  await until(page, "chartPoints().length > 5");
  const place = await page.evaluate<{ x: number; y: number }>(
    `chartPoints().find(({ id }) => id === ${JSON.stringify(id)})`,
  );
  await page.send("Input.dispatchMouseEvent", { type: "mouseMoved", ...place });
  await until(page, "!document.querySelector('#tooltip').hidden");
  assertStringIncludes(await page.evaluate("document.querySelector('#tooltip').textContent"), "flap at 20 %");
  await clickAt(page, place);
  await until(page, "document.querySelector('#pins .cell h3') !== null");
  const text = await page.evaluate<string>("document.querySelector('#pins').textContent");
  for (const part of ["flap at 20 %", "deno task bench reproduce", "deno task bench export", "FFN channels kept"]) {
    assertStringIncludes(text, part);
  }
  assertStringIncludes(await page.evaluate("decodeURIComponent(location.hash)"), `pin=${id}`);
}

/** Picks a baseline, and compares what the page says with the tests of the reports. */
async function baseline(page: Page): Promise<void> {
  const section = at(SECTIONS.sweep!, 0);
  await choose(page, "baseline", idOf("flap", 0.2));
  await until(page, "document.querySelector('#progress').textContent === ''");
  const base = section.rows.find((row) => row.label === "flap" && row.asked === 0.2)!;
  const rows = section.rows.filter((row) => row !== base && row.runs.length > 0);
  const column = section.columns.find(({ kind }) => kind === "perplexity")!;
  const results = corrected(rows.flatMap((row) => pairedTest(column, row, base) ?? []));
  for (const [i, row] of rows.entries()) {
    const id = JSON.stringify(`sweep:${at(row.runs, 0).id}`);
    const text = await page.evaluate<string>(
      `document.querySelector("[data-id=" + CSS.escape(${id}) + "]:not(article)").textContent`,
    );
    assertStringIncludes(text, changeWords(column, at(results, i)));
    assertStringIncludes(text, pValue(at(results, i)));
  }
}

/** The first pinned row that is dense against the other: tests as those of the reports, and examples that changed. */
async function pair(page: Page): Promise<void> {
  const { rows, columns } = at(SECTIONS.sweep!, 0);
  const [dense, flap] = ["dense", "flap"].map((label) => rows.find((row) => row.label === label)!);
  const tested = columns.filter(({ kind, primary }) => kind !== "throughput" && primary);
  const results = corrected(tested.flatMap((column) => pairedTest(column, flap!, dense!) ?? []));
  await until(page, "!document.querySelector('[data-name=pair]').textContent.includes('…')");
  const text = await page.evaluate<string>("document.querySelector('[data-name=pair]').textContent");
  assertEquals(results.length, 4);
  results.forEach((result, i) => assertStringIncludes(text, changeWords(at(tested, i), result)));
  const [before = "", after = ""] = [at(sweep, 0), pruned].map((one) =>
    one.state === "done" ? at(one.tasks, 0).outcomes.acc : ""
  );
  const broken = [...before].flatMap((bit, i) => bit === "1" && after[i] === "0" ? [i] : []);
  assert(broken.length > 1);
  assertStringIncludes(text, `arc_easy: ${broken.length} broken`);
  assertStringIncludes(text, `examples ${broken.join(", ")}`);
}

async function examples(page: Page, url: string, requests: () => string[]): Promise<void> {
  const pins = [idOf("flap", 0.2), idOf("dense", 0)].map((id) => `pin=${encodeURIComponent(id)}`).join("&");
  await open(page, `${url}#model=all&${pins}`, { width: 1400 });
  await pair(page);
  assert(requests().every((address) => !address.includes("samples")), "examples are loaded before they are opened");
  await page.evaluate("document.querySelector('[data-name=examples]').open = true");
  const shown = () =>
    page.evaluate<string[]>("[...document.querySelectorAll('.context')].map((one) => one.textContent)");
  await until(page, "document.querySelectorAll('.context').length > 0");
  assertEquals(await shown(), [`question 0 ${TASK}`]);
  await choose(page, "show", "repaired");
  await until(page, "document.querySelector('.context')?.textContent.startsWith('question 1')");
  await choose(page, "show", "all");
  await until(page, "document.querySelectorAll('.context').length === 3");
  await page.evaluate(`(() => {
    const field = document.querySelector("[name=search]");
    field.value = "QUESTION 2";
    field.dispatchEvent(new Event("input"));
  })()`);
  await until(page, "document.querySelectorAll('.context').length === 1");
  assertEquals(await shown(), [`question 2 ${TASK}`]);
}

Deno.test("the page over many runs works in a browser", async (t) => {
  using temp = tempFolder();
  const url = pathToFileURL(write(join(temp.path, "www"))).href;
  await withPage(async (page) => {
    for (const width of [390, 1400]) {
      await t.step(`${width} pixels: fits, asks for nothing else, and takes no text as markup`, async () => {
        for (const dark of [false, true]) {
          page.requests.length = page.problems.length = 0;
          await open(page, `${url}#model=all`, { width, dark });
          const [whole = 0, inner = 0] = await page.evaluate<number[]>(
            "[document.documentElement.scrollWidth, document.documentElement.clientWidth]",
          );
          assert(whole <= inner, `the page is ${whole} pixels wide, and ${inner} fit`);
          assertEquals(await page.evaluate("window.hacked ?? null"), null);
          assertStringIncludes(await page.evaluate("document.querySelector('#table').textContent"), HOSTILE);
          assertEquals(page.problems, []);
          const folder = url.slice(0, url.lastIndexOf("/"));
          assertEquals(page.requests.filter((address) => !address.startsWith(folder) && address !== "about:blank"), []);
          await screenshot(page, `site-${width}${dark ? "-dark" : ""}`);
        }
      });
      await t.step(`${width} pixels: each filter, axis, a pin and a baseline`, async () => {
        await open(page, url, { width });
        await eachFilter(page);
        await open(page, `${url}#model=SmolLM2-135M.gguf`, { width });
        await eachAxis(page);
        await open(page, `${url}#model=SmolLM2-135M.gguf`, { width });
        await pinPoint(page);
        await baseline(page);
        assertEquals(page.problems, []);
      });
    }
    await t.step("the table holds all rows, the best of a level first, and the chart names its front", async () => {
      await open(page, `${url}#model=Many.gguf&x=parameters`, { width: 1400 });
      await until(page, "document.querySelectorAll('#table tr[data-id]').length === 50");
      const shown = await page.evaluate<string[]>(
        "[...document.querySelectorAll('#table tr[data-id] td:nth-of-type(3)')].map((one) => one.firstChild.textContent)",
      );
      assertEquals(shown.map(Number), shown.map(Number).sort((a, b) => a - b));
      const best = many.find(({ cell }) => cell.method?.options.i === 0)!;
      const row = at(SECTIONS.many!, 0).rows.find(({ runs }) => at(runs, 0).id === best.id)!;
      const note = await page.evaluate<string>("document.querySelector('#chart-note').textContent");
      assertStringIncludes(note, `no other point is better on both axes: ${row.label} at 20 % of prunable`);
      const csv = await page.evaluate<string>(`new Promise((resolve) => {
        URL.createObjectURL = (blob) => (blob.text().then(resolve), "#");
        document.querySelector("[name=csv]").click();
      })`);
      const lines = csv.trim().split("\r\n");
      assertEquals(lines.length, 51);
      assertStringIncludes(at(lines, 1), `,${row.values.get(at(SECTIONS.many!, 0).columns[0]!.key)!.value},`);
    });
    await t.step("examples are loaded when they are opened, and show what pruning broke and repaired", async () => {
      page.requests.length = page.problems.length = 0;
      await examples(page, url, () => page.requests);
      assertEquals(page.problems, []);
      assertEquals(await page.evaluate("window.hacked ?? null"), null);
    });
  });
});
