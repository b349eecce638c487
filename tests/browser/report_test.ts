/** The HTML report in a real browser: it loads without network or errors, sorts, has tooltips, and fits a phone and a
 * wide screen. `MASKPRUNE_SCREENSHOTS` names a folder that keeps the pictures. */
import { assert, assertEquals } from "@std/assert";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { inflateSync } from "node:zlib";
import { known, take } from "../support/values.ts";
import { at } from "../../core/util/indexing.ts";
import { readRecords } from "../../benchmarks/records/store.ts";
import { writeReport } from "../../benchmarks/commands/reports.ts";
import { sweepRecords } from "../support/reports_fixture.ts";
import { clickAt, openPage, type Page, screenshot, withPage } from "../support/chromium.ts";
import { tempFolder } from "../support/weights_fixture.ts";

const WIDTHS = [360, 1400];
const ROOT = join(import.meta.dirname!, "../..");

/** The made-up sweep, whose numbers spread widely, and the published one, whose names and notes are real. */
const REPORTS = { sweep: sweepRecords(), smollm2: readRecords(join(ROOT, "results/smollm2-135m-one-shot")).records };

async function open(page: Page, path: string, how: Parameters<typeof openPage>[2]): Promise<void> {
  await openPage(page, pathToFileURL(path).href, how);
  for (let tries = 0; await page.evaluate("document.readyState") !== "complete" && tries < 100; tries++) {
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** The inflated streams of a PDF, as text. */
function contentStreams(pdf: Uint8Array): string[] {
  const bytes = new TextDecoder("latin1").decode(pdf);
  return [...bytes.matchAll(/stream\r?\n/g)].flatMap(({ index, 0: { length } }) => {
    const [start, end] = [index + length, bytes.indexOf("endstream", index)];
    try {
      return [inflateSync(pdf.subarray(start, end)).toString("latin1")];
    } catch {
      return []; // Fonts and pictures may be stored in other ways.
    }
  });
}

/** Clicks the middle of the first element that `selector` finds, with the mouse. */
async function click(page: Page, selector: string): Promise<void> {
  const place = await page.evaluate<{ x: number; y: number }>(`(() => {
    const element = document.querySelector(${JSON.stringify(selector)});
    element.scrollIntoView({ block: "center", inline: "center" });
    const { x, y, width, height } = element.getBoundingClientRect();
    return { x: x + width / 2, y: y + height / 2 };
  })()`);
  await clickAt(page, place);
}

/** Numbers that the third column is sorted by: the dense row's, then those of the pruned rows; failed ones have none. */
const sortKeys = (page: Page) =>
  page.evaluate<number[][]>(`[".dense", ":not(.dense)"].map((which) =>
    [...document.querySelectorAll("table.sortable.quality > tbody" + which + " > tr")]
      .map((row) => row.cells[2].dataset.sort).filter((key) => key).map(Number))`);

async function withReports(test: (page: Page, pages: Record<string, string>) => Promise<void>): Promise<void> {
  using temp = tempFolder();
  const folder = temp.path;
  const pages: Record<string, string> = {};
  for (const [name, records] of Object.entries(REPORTS)) {
    await writeReport(records, join(folder, name), { title: `Report ${name}` });
    pages[name] = join(folder, name, "report.html");
  }
  await withPage((page) => test(page, pages));
}

Deno.test("the HTML report works in a browser", async (t) => {
  await withReports(async (page, pages) => {
    for (const [name, path] of Object.entries(pages)) {
      for (const width of WIDTHS) {
        for (const dark of [false, true]) {
          const title = `${name}, ${width} pixels${dark ? ", dark" : ""}`;
          await t.step(`${title}: fits its width, asks for nothing and has no error`, async () => {
            page.requests.length = page.problems.length = 0;
            await open(page, path, { width, dark });
            const [whole, inner, outer] = take(
              await page.evaluate<number[]>(
                "[document.documentElement.scrollWidth, document.documentElement.clientWidth, innerWidth]",
              ),
              3,
            );
            assertEquals(outer, width);
            assert(whole <= inner, `the page is ${whole} pixels wide, and ${inner} fit`);
            const { length } = await screenshot(page, `${name}-${width}${dark ? "-dark" : ""}`);
            assert(length > 20_000, `a picture of more than one colour: current ${length} bytes`);
            assertEquals(page.problems, []);
            assertEquals(page.requests, [pathToFileURL(path).href]);
          });
        }
      }
    }

    await t.step(
      "a click on a heading sorts by its numbers, a second one turns them round; dense stays on top",
      async () => {
        await open(page, known(pages.sweep), { width: 1400 });
        const before = await sortKeys(page);
        const sorted = at(before, 1).toSorted((a, b) => a - b);
        assert(new Set(sorted).size > 2);
        await click(page, "table.sortable th:nth-child(3) button");
        const rising = await sortKeys(page);
        assertEquals(rising[0], before[0]);
        assertEquals(rising[1], sorted);
        await click(page, "table.sortable th:nth-child(3) button");
        const falling = await sortKeys(page);
        assertEquals(falling[1], sorted.toReversed());
      },
    );

    await t.step("in print, a table that goes on on the next page has its header there as well", async () => {
      await open(page, known(pages.sweep), { width: 1400 });
      // A colour that nothing else has, and rows that do not fit on one page.
      await page.evaluate(`(() => {
        const style = document.createElement("style");
        style.textContent = ".quality th { color: #102030 !important } .quality td { padding: 20px 3px !important }";
        document.head.append(style);
      })()`);
      const { data } = await page.send("Page.printToPDF") as { data: string };
      const streams = contentStreams(Uint8Array.fromBase64(data));
      // RGB of the colour, as a page sets it for what it fills.
      const painted = streams.filter((text) => /\.0627 \.1255 \.1882 rg/.test(text)).length;
      assert(painted >= 2, `the header is on ${painted} pages`);
    });

    await t.step("a point of a chart that the mouse is over has a tooltip with method, level and value", async () => {
      const text = await page.evaluate<string>(`(() => {
        const point = [...document.querySelectorAll("figure svg path:has(title)")].find((path) =>
          /flap/.test(path.textContent) && path.getBoundingClientRect().width > 0);
        point.scrollIntoView({ block: "center" });
        const { x, y, width, height } = point.getBoundingClientRect();
        const found = document.elementsFromPoint(x + width / 2, y + height / 2).find((one) => one === point);
        return found?.querySelector("title")?.textContent ?? "";
      })()`);
      assert(/^flap, target \d+ %, [\d.]+ % of prunable removed: [\d.]+/.test(text), `the tooltip says "${text}"`);
    });
  });
});
