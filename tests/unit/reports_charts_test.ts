import { assert, assertEquals, assertRejects, assertStringIncludes, assertThrows } from "@std/assert";
import fc from "fast-check";
import { inflateSync } from "node:zlib";
import { UsageError } from "../../core/util/errors.ts";
import { at } from "../../core/util/indexing.ts";
import { buildCharts } from "../../reports/charts.ts";
import { paretoFront } from "../../reports/pareto.ts";
import { toPng, toSvg } from "../../reports/draw.ts";
import { colours } from "../../reports/palette.ts";
import { reportOf, sectionsOf } from "../../benchmarks/commands/reports.ts";
import type { CellRecord, DoneRecord } from "../../core/schema/schema.ts";
import { writePaperFigures } from "../../reports/paper_figures.ts";
import { siteData } from "../../reports/site/site_data.ts";
import { toPdf } from "../../reports/pdf.ts";
import { doneRecord, sectionOf, smallRecords, sweepRecords } from "../support/reports_fixture.ts";
import { folderTest } from "../support/weights_fixture.ts";

Deno.test("paretoFront() is the set of points that no other beats, by brute force", () => {
  const point = fc.record({ x: fc.integer({ min: 0, max: 9 }), y: fc.integer({ min: 0, max: 9 }) });
  fc.assert(fc.property(fc.array(point, { maxLength: 12 }), fc.boolean(), (points, lowerIsBetter) => {
    const sign = lowerIsBetter ? -1 : 1;
    const beaten = (p: { x: number; y: number }) =>
      points.some((q) => q.x >= p.x && sign * q.y >= sign * p.y && (q.x > p.x || sign * q.y > sign * p.y));
    const key = ({ x, y }: { x: number; y: number }) => `${x},${y}`;
    const expected = new Set(points.filter((p) => !beaten(p)).map(key));
    const front = paretoFront(points, lowerIsBetter);
    assertEquals(new Set(front.map(key)), expected);
    for (let i = 1; i < front.length; i++) assert(at(front, i).x > at(front, i - 1).x);
  }));
});

Deno.test("colours() gives a method the same colour whatever else is compared, and variants their own", () => {
  const displays = new Map([["flap", { order: 2, colour: "#E69F00" }], ["random", { order: 1, colour: "#8C6D31" }]]);
  const labels = ["random", "mask-prune", "flap", "mine", "mine too"].map((id) => ({ variant: id, methodId: id }));
  const all = colours([...labels, { variant: "flap (b)", methodId: "flap" }], displays);
  assertEquals([all.get("flap"), all.get("random")], ["#E69F00", "#8C6D31"]);
  assertEquals(new Set(all.values()).size, 6);
});

Deno.test("buildCharts() draws what the records allow and nothing else", () => {
  const names = (records: Parameters<typeof sectionsOf>[0]) => buildCharts(sectionOf(records)).map(({ name }) => name);
  const all = "accuracy-vs-pp512 accuracy-vs-tg128 perplexity-vs-sparsity accuracy-vs-sparsity";
  assertEquals(names(sweepRecords()), all.split(" "));
  assertEquals(names([doneRecord()]), []);
  const bare = doneRecord({ method: "flap", sparsity: 0.2, throughput: false, tasks: [] });
  assertEquals(names([bare]), ["perplexity-vs-sparsity"]);
});

Deno.test("siteData() has removed layers with width 0, in their places", () => {
  const record = doneRecord({ method: "sheared", sparsity: 0.2 });
  const { layers } = record.size;
  const gone = [3, 29];
  record.size = { ...record.size, layers: layers.filter((_, l) => !gone.includes(l)) };
  const units = (l: number) => gone.includes(l) ? [] : [0];
  record.plan.layers = layers.map((_, l) => ({ kvGroups: units(l), queryHeads: units(l), ffnChannels: units(l) }));
  const run = { name: "A", folder: "", address: "", sections: sectionsOf([record]), samples: new Map() };
  const { sections } = siteData([run]) as { sections: { rows: { cells: Record<"ffn" | "heads", number[]>[] }[] }[] };
  const { ffn, heads } = at(at(at(sections, 0).rows, 0).cells, 0);
  for (const parts of [ffn, heads]) {
    assertEquals(parts.length, layers.length);
    assertEquals(parts.flatMap((part, l) => part === 0 ? [l] : []), gone);
  }
});

Deno.test("buildCharts() draws a destroyed model at the edge of the scale, as a triangle", async () => {
  const destroyed = doneRecord({ method: "flap", sparsity: 0.5 });
  destroyed.perplexity = destroyed.perplexity.map((result) => ({ ...result, perplexity: 1e6, perplexityStderr: 9e5 }));
  const charts = (last: CellRecord) =>
    buildCharts(sectionOf([doneRecord(), doneRecord({ method: "flap", sparsity: 0.2 }), last]));
  const draw = (last: CellRecord) => toSvg(charts(last).find(({ name }) => name === "perplexity-vs-sparsity")!.spec);
  const svg = await draw(destroyed);
  assertStringIncludes(svg, "Triangles: above");
  const [dot = "", triangle = ""] = svg.match(/<path[^>]*><title>flap[^<]*<\/title>/g) ?? [];
  assert(/ d="M[\d.]+,0A/.test(dot) && !/A/.test(triangle.split("<title>")[0]!), dot + triangle);
  assertStringIncludes(triangle, ",0)");
  assert(!(await draw(doneRecord({ method: "flap", sparsity: 0.5 }))).includes("Triangles"));
});

Deno.test("toSvg() draws the same bytes twice, with tooltips, and names cannot become markup", async () => {
  const evil = `<script>alert("x")</script>`;
  const records = [doneRecord(), doneRecord({ method: evil, sparsity: 0.2, model: "SmolLM2-135M.gguf" })];
  for (const chart of buildCharts(sectionOf(records))) {
    const svg = await toSvg(chart.spec);
    assertEquals(await toSvg(chart.spec), svg);
    assert(!svg.includes("<script"));
    assertStringIncludes(svg, "&lt;script&gt;");
  }
  const svg = await toSvg(at(buildCharts(sectionOf(records)), 0).spec);
  assertStringIncludes(svg, "<title>&lt;script&gt;");
});

Deno.test("toPng() draws text with the shipped font at twice the size", async () => {
  const svg = (text: string) =>
    `<svg xmlns="http://www.w3.org/2000/svg" width="60" height="20"><text y="15" font-family="Inter">${text}</text></svg>`;
  const png = await toPng(svg("word"));
  assertEquals([...png.slice(0, 8)], [137, 80, 78, 71, 13, 10, 26, 10]);
  const view = new DataView(png.buffer, png.byteOffset);
  assertEquals([view.getUint32(16), view.getUint32(20)], [120, 40]);
  assert(png.length > (await toPng(svg(""))).length);
});

folderTest("writePaperFigures() leaves titles out of the figures and puts them into captions", async (folder) => {
  const document = reportOf(smallRecords(), "small", ["mask-prune", "flap", "random"]);
  const written = await writePaperFigures(document, folder, { columns: "1", dots: true });
  const figures = written.filter((path) => path.endsWith(".svg"));
  assert(figures.length > 0);
  assertEquals(written.length, 2 * figures.length + 1);
  const captions = Deno.readTextFileSync(at(written, written.length - 1));
  const charts = document.sections.flatMap(({ blocks }) =>
    blocks.flatMap((block) => block.kind === "figures" ? block.charts : [])
  );
  for (const { name, title } of charts) {
    assertStringIncludes(captions, `**${name}**: ${title}. `);
    assert(!Deno.readTextFileSync(`${folder}/${name}.svg`).includes(title), `${name} holds its title`);
  }
  for (const path of figures) {
    const svg = Deno.readTextFileSync(path);
    assertStringIncludes(svg, ' width="234pt"');
    if (svg.includes(">random<")) assert(svg.indexOf(">mask-prune<") < svg.indexOf(">random<"), `order in ${path}`);
  }
  const [{ values }] = charts.flatMap(({ seeds }) => seeds?.data ?? []) as [{ values: { y: number }[] }];
  const perSeed = smallRecords().flatMap((one) => one.cell.method?.id === "mask-prune" ? one as DoneRecord : [])
    .map(({ perplexity }) => at(perplexity, 0).perplexity);
  assertEquals(values.map(({ y }) => y), perSeed);
  const alone = buildCharts(sectionOf([doneRecord(), doneRecord({ method: "flap", sparsity: 0.2 })]));
  assertEquals(alone.flatMap(({ seeds }) => seeds ?? []), []);
  const again = () => writePaperFigures(document, folder, { columns: "1", dots: false });
  assertEquals((await again()).length, written.length);
  Deno.writeTextFileSync(`${folder}/captions.md`, "mine");
  await assertRejects(again, UsageError, "does not belong to earlier figures");
  assertEquals(Deno.readTextFileSync(`${folder}/captions.md`), "mine");
});

/** The operators of a PDF's page, after its table of offsets was followed. */
function pageOf(pdf: string): { objects: string[]; operators: string[] } {
  const start = Number(/startxref\n(\d+)/.exec(pdf)?.[1]);
  const offsets = [...pdf.slice(start).matchAll(/(\d{10}) 00000 n/g)].map(([, offset]) => Number(offset));
  const objects = offsets.map((offset) => pdf.slice(offset, pdf.indexOf("endobj", offset)));
  objects.forEach((object, i) => assert(object.startsWith(`${i + 1} 0 obj\n`), object.slice(0, 20)));
  const stream = /stream\n([0-9a-f]+)>/.exec(at(objects, 3))?.[1] ?? "";
  return { objects, operators: inflateSync(Uint8Array.fromHex(stream)).toString().trim().split(/\n/) };
}

Deno.test("toPdf() writes areas, lines, dashes and opacities where the picture has them", () => {
  const { objects, operators } = pageOf(toPdf(
    '<svg xmlns="http://www.w3.org/2000/svg" width="200" height="100"><g transform="translate(10,20)" opacity="0.5">' +
      '<path d="M0,0h30v10z" fill="#ff0000" fill-opacity="0.5"/><g/></g>' +
      '<path d="M1,2L3,1e-9" fill="none" stroke="#0000ff" stroke-width="4" stroke-dasharray="6 3"/></svg>',
  ));
  assertStringIncludes(at(objects, 2), "/MediaBox [0 0 150 75]");
  assertStringIncludes(at(objects, 2), "/O0 << /ca 0.25 /CA 0.5 >> /O1 << /ca 1 /CA 1 >>");
  assertEquals(operators, [
    ...["0.75 0 0 -0.75 0 75 cm", "q", "1 0 0 1 10 20 cm", "/O0 gs", "1 0 0 rg", "0 0 m", "30 0 l", "30 10 l", " h"],
    ...["f", "Q", "/O1 gs", "0 0 1 RG 4 w [6 3] 0 d 0 J 0 j", "1 2 m", "3 0 l", "S"],
  ]);
});

Deno.test("toPdf() writes all of a chart as outlines, and refuses what it cannot write", async () => {
  const [chart] = buildCharts(sectionOf(smallRecords())).filter(({ name }) => name === "perplexity-vs-sparsity");
  const { operators } = pageOf(toPdf(await toSvg(chart!.spec)));
  const count = (operator: string) => operators.filter((line) => line === operator).length;
  assertEquals(count("q"), count("Q"));
  // Each letter of the axes is an area: more than there are points.
  assert(count("f") > 20, `${count("f")} areas`);
  const clipped =
    '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><clipPath id="a"><path d="M0,0h3v3z"/>' +
    '</clipPath><path clip-path="url(#a)" d="M0,0h9v9z"/></svg>';
  assertThrows(() => toPdf(clipped), SyntaxError, "the drawing has");
});
