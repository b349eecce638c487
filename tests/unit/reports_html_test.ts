import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { UsageError } from "../../core/util/errors.ts";
import { writeReport } from "../../benchmarks/commands/reports.ts";
import { doneRecord, failedRecord, smallRecords } from "../support/reports_fixture.ts";
import { folderTest, tempFolder } from "../support/weights_fixture.ts";

async function page(records: Parameters<typeof writeReport>[0], title: string): Promise<string> {
  using temp = tempFolder();
  await writeReport(records, temp.path, { title });
  return await Deno.readTextFile(`${temp.path}/report.html`);
}

folderTest("writeReport() writes every table, and every chart as specification, SVG and PNG", async (folder) => {
  const files = await writeReport(smallRecords(), `${folder}/a/b`, { title: "t" });
  const found = [...Deno.readDirSync(`${folder}/a/b`)].map(({ name }) => name).sort();
  assertEquals(files.map((path) => path.slice(`${folder}/a/b/`.length)).sort(), found);
  for (const name of ["comparison.md", "comparison.csv", "comparison.tex", "report.html"]) {
    assert(found.includes(name));
  }
  const specs = found.filter((name) => name.endsWith(".vl.json"));
  assert(specs.length >= 4);
  for (const name of specs) {
    const base = name.slice(0, -".vl.json".length);
    assert(found.includes(`${base}.svg`) && found.includes(`${base}.png`));
    const spec = JSON.parse(await Deno.readTextFile(`${folder}/a/b/${name}`));
    assertEquals(spec.$schema, "https://vega.github.io/schema/vega-lite/v6.json");
    const markdown = await Deno.readTextFile(`${folder}/a/b/comparison.md`);
    assertStringIncludes(markdown, `(${base}.svg)`);
  }
});

folderTest(
  "writeReport() leaves no figure of an earlier report in a run's folder, and every file elsewhere",
  async (folder) => {
    const old = ["old.svg", "old.png", "old.vl.json"];
    const others = ["notes.md", "data.csv", "mine.png", "logo.svg"];
    for (const report of [`${folder}/report`, `${folder}/run/report`, `${folder}/run/mine`]) {
      Deno.mkdirSync(report, { recursive: true });
      for (const name of [...old, ...others]) Deno.writeTextFileSync(`${report}/${name}`, "");
    }
    Deno.writeTextFileSync(`${folder}/run/run.json`, "{}");
    const left = async (report: string) => {
      const written = await writeReport(smallRecords(), report, { title: "t" });
      const found = [...Deno.readDirSync(report)].map(({ name }) => name);
      assert(written.every((path) => found.includes(path.slice(report.length + 1))));
      return found.filter((name) => old.includes(name) || others.includes(name)).sort();
    };
    assertEquals(await left(`${folder}/run/report`), others.toSorted());
    for (const name of ["report", "run/mine"]) {
      assertEquals(await left(`${folder}/${name}`), [...old, ...others].sort());
    }
  },
);

folderTest("writeReport() writes over earlier reports, and over no file of the user's", async (folder) => {
  const write = () => writeReport(smallRecords(), folder, { title: "t" });
  Deno.writeTextFileSync(`${folder}/comparison.md`, "mine");
  await assertRejects(write, UsageError, `"${folder}/comparison.md" does not belong to an earlier report`);
  assertEquals(Deno.readTextFileSync(`${folder}/comparison.md`), "mine");
  for (const name of ["comparison.csv", "comparison.tex", "report.html"]) {
    Deno.writeTextFileSync(`${folder}/${name}`, "");
  }
  assert((await write()).includes(`${folder}/comparison.md`));
});

folderTest("writeReport() refuses to report nothing", async (folder) => {
  await assertRejects(() => writeReport([], folder, { title: "t" }), RangeError, "at least one record");
});

Deno.test("toHtml() escapes everything that comes from records", async () => {
  const evil = `"><script>alert(1)</script><img src=x onerror=alert(1)>`;
  const record = doneRecord({
    method: evil,
    options: { [evil]: evil },
    sparsity: 0.2,
    model: evil.replaceAll("/", ""),
  });
  record.environment = { ...record.environment, cpu: evil, library: evil, device: evil };
  record.memory = { ...record.memory, measure: evil };
  const failed = failedRecord({ method: evil, sparsity: 0.4, model: evil.replaceAll("/", "") }, evil);
  const text = await page([record, failed], evil);
  assertEquals(text.match(/<script/g)?.length, 1);
  assert(!/<img/.test(text));
  assertStringIncludes(text, "&lt;script&gt;");
});

Deno.test("toHtml() needs no network: its policy allows one script, its own, and nothing is loaded", async () => {
  const text = await page(smallRecords(), "A run");
  const script = text.match(/<script>([^]*?)<\/script>/)![1];
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(script)));
  assertStringIncludes(text, `script-src 'sha256-${digest.toBase64()}'`.replaceAll("'", "&#39;"));
  assertStringIncludes(text, "default-src &#39;none&#39;");
  assert(!/\s(src|href)=/.test(text.replaceAll(/xlink:href|xmlns(:xlink)?="[^"]*"/g, "")));
  assert(!/@import|url\(/.test(text), "a figure with a clip path would need an id");
  const ids = [...text.matchAll(/\sid="([^"]*)"/g)].map(([, id]) => id);
  assertEquals(new Set(ids).size, ids.length);
});

Deno.test("toHtml() gives every model and engine a section of its own", async () => {
  const text = await page([doneRecord(), doneRecord({ engine: "wasm" })], "Two engines");
  assertStringIncludes(text, "SmolLM2-135M.gguf on tensorflow");
  assertStringIncludes(text, "SmolLM2-135M.gguf on wasm");
});
