import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import fc from "fast-check";
import { at } from "../../core/util/indexing.ts";
import { WIDE } from "../../reports/chart_style.ts";
import { buildCharts } from "../../reports/charts.ts";
import { spreadLabels } from "../../reports/charts_lines.ts";
import { paretoFront } from "../../reports/charts_scatter.ts";
import { toPng, toSvg } from "../../reports/draw.ts";
import { listMethods } from "../../methods/mod.ts";
import { colours } from "../../reports/palette.ts";
import { sectionsOf } from "../../benchmarks/commands/reports.ts";
import type { Section } from "../../reports/sections.ts";
import type { CellRecord, DoneRecord } from "../../core/schema/schema.ts";
import { doneRecord, sweepRecords } from "../support/reports_fixture.ts";

const sectionOf = (records: readonly CellRecord[]) => at(sectionsOf(records), 0);

const allCharts = (section: Section) => Object.values(buildCharts(section)).flat();

Deno.test("spreadLabels() keeps labels apart, in order and inside the plot", () => {
  fc.assert(fc.property(fc.array(fc.double({ min: 0, max: 290, noNaN: true }), { maxLength: 15 }), (wanted) => {
    const placed = spreadLabels(wanted, 15, 290);
    const sorted = placed.toSorted((a, b) => a - b);
    for (let i = 1; i < sorted.length; i++) assert(at(sorted, i) - at(sorted, i - 1) >= 15 - 1e-9);
    for (const y of placed) assert(y >= -1e-9 && y <= 290 + 1e-9);
    for (let i = 0; i < wanted.length; i++) {
      for (let j = 0; j < wanted.length; j++) if (at(wanted, i) < at(wanted, j)) assert(at(placed, i) < at(placed, j));
    }
  }));
  assertEquals(spreadLabels([10, 100], 15, 290), [10, 100]);
  assertEquals(spreadLabels([100, 100], 20, 290), [90, 110]);
  assertEquals(spreadLabels([290, 289], 20, 290), [290, 270]);
});

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

Deno.test("every shipped method has a colour and a place of its own", () => {
  const displays = listMethods().map(({ display }) => display!);
  assertEquals(new Set(displays.map(({ colour }) => colour)).size, displays.length);
  assertEquals(new Set(displays.map(({ order }) => order)).size, displays.length);
});

Deno.test("colours() gives a method the same colour whatever else is compared, and variants their own", () => {
  const displays = new Map([["flap", { order: 2, colour: "#E69F00" }], ["random", { order: 1, colour: "#8C6D31" }]]);
  const labels = ["random", "mask-prune", "flap", "mine", "mine too"].map((id) => ({ variant: id, methodId: id }));
  const all = colours([...labels, { variant: "flap (b)", methodId: "flap" }], displays);
  assertEquals([all.get("flap"), all.get("random")], ["#E69F00", "#8C6D31"]);
  assertEquals(new Set(all.values()).size, 6);
});

Deno.test("buildCharts() draws what the records allow and nothing else", () => {
  const names = (records: Parameters<typeof sectionsOf>[0]) => allCharts(sectionOf(records)).map(({ name }) => name);
  assertEquals(names(sweepRecords()), [
    "accuracy-vs-pp512",
    "accuracy-vs-parameters",
    "perplexity-vs-sparsity",
    "accuracy-vs-sparsity",
    "accuracy-vs-tg128",
    "speedup-vs-macs-pp512",
    "speedup-vs-macs-tg128",
    "kept-ffn-channels",
  ]);
  assertEquals(names([doneRecord()]), []);
  const bare = doneRecord({ method: "flap", sparsity: 0.2, throughput: false, tasks: [] });
  assertEquals(names([bare]), ["perplexity-vs-sparsity", "perplexity-vs-parameters"]);
});

Deno.test("buildCharts() shows removed layers with width 0, in their places", () => {
  const record = doneRecord({ method: "sheared", sparsity: 0.2 });
  const { layers } = record.size;
  const gone = [3, 29];
  record.size = { ...record.size, layers: layers.filter((_, l) => !gone.includes(l)) };
  const units = (l: number) => gone.includes(l) ? [] : [0];
  record.plan.layers = layers.map((_, l) => ({ kvGroups: units(l), queryHeads: units(l), ffnChannels: units(l) }));
  for (const name of ["kept-ffn-channels", "kept-query-heads"]) {
    const { spec } = allCharts(sectionOf([record])).find((chart) => chart.name === name)!;
    const { data } = spec(900) as unknown as { data: { values: { layer: number; kept: number }[] } };
    assertEquals(data.values.map(({ layer }) => layer), layers.map((_, l) => l + 1));
    assertEquals(data.values.filter(({ kept }) => kept === 0).map(({ layer }) => layer), [4, 30]);
  }
});

Deno.test("buildCharts() draws what is beyond the scale at its edge, without an error bar", () => {
  const destroyed = doneRecord({ method: "flap", sparsity: 0.5 });
  destroyed.perplexity = destroyed.perplexity.map((result) => ({ ...result, perplexity: 1e6, perplexityStderr: 9e5 }));
  const records = [doneRecord(), doneRecord({ method: "flap", sparsity: 0.2 }), destroyed];
  const chart = allCharts(sectionOf(records)).find(({ name }) => name === "perplexity-vs-sparsity");
  const points: { asked: number; beyond: boolean; quality: number; low: number; high: number }[] = [];
  // Layers are nested; points are the values that say whether they are beyond.
  JSON.stringify(chart?.spec(WIDE), (_, value) => {
    if (value !== null && typeof value === "object" && "beyond" in value) points.push(value);
    return value;
  });
  const shown = (asked: number) => {
    const point = points.find((one) => one.asked === asked);
    assert(point);
    return point;
  };
  const { beyond, quality, low, high } = shown(0.5);
  assertEquals([beyond, low, high], [true, quality, quality]);
  assert(quality < 1e6);
  assertEquals(shown(0.2).beyond, false);
  assert(shown(0.2).low < shown(0.2).high);
});

Deno.test("buildCharts() ends a hopeless interval of a speed-up at the edge of its plot, and draws no speed-up below 0", () => {
  const timed = (method: string | null, samplesMs: number[], sparsity: number) => {
    const record = doneRecord({ method, sparsity, tasks: [] });
    const speed = { name: "pp512", batch: 1, tokensPerS: { mean: 100, sd: 1 }, samplesMs };
    record.throughput = [{ ...speed, denseSamplesMs: samplesMs.map(() => 10) }];
    return record;
  };
  const records = [timed(null, [10, 10], 0), timed("flap", [9, 8.9], 0.2), timed("random", [4, 40], 0.4)];
  const section = sectionOf(records);
  const chart = allCharts(section).find(({ name }) => name === "speedup-vs-macs-pp512");
  const spec = JSON.stringify(chart?.spec(WIDE));
  const values = [...spec.matchAll(/"[xy]":([\d.]+)/g)].map(([, value]) => Number(value));
  const domain = /"domain":\[([\d.]+),([\d.]+)\],"zero":false,"clamp":true/.exec(spec) ?? [];
  const [, low = NaN, high = NaN] = domain.map(Number);
  assert(low >= 0 && low < 0.79 && high < 2.2, `${low} to ${high}`);
  for (const value of values) assert(value >= low && value <= high);
  assertStringIncludes(spec, "reach the edge");
});

Deno.test("toSvg() draws the same bytes twice, with tooltips, and names cannot become markup", async () => {
  const evil = `<script>alert("x")</script>`;
  const records = [doneRecord(), doneRecord({ method: evil, sparsity: 0.2, model: "SmolLM2-135M.gguf" })];
  for (const chart of allCharts(sectionOf(records))) {
    const svg = await toSvg(chart.spec(WIDE));
    assertEquals(await toSvg(chart.spec(WIDE)), svg);
    assert(!svg.includes("<script"));
    assertStringIncludes(svg, "&lt;script&gt;");
  }
  const svg = await toSvg(allCharts(sectionOf(records))[0].spec(WIDE));
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

/** Three steps of a learned mask, as methods report them. */
const curve = [1, 2, 3].map((step) => ({
  ...{ step, loss: 3 - step / 10, crossEntropy: 3, distillation: 0.1, hidden: 0 },
  ...{ gradientNorm: 1, seconds: step, memoryBytes: 1e8, budget: 1 - step / 10 },
  removed: { ffn: 30 * step, layer: step, hidden: 8 * step },
  duals: { z: step },
}));

Deno.test("buildCharts() draws the training of learned masks: every quantity of every learned cell, and no recovery", () => {
  const learned = doneRecord({ method: "mask-prune", sparsity: 0.2, damage: 0.3 });
  learned.training = [{ stage: "learning", steps: 3, tokens: 300, seconds: 3, curve }];
  const recovered = doneRecord({ method: "flap", sparsity: 0.2, damage: 0.3 });
  recovered.training = [{ stage: "recovery", steps: 3, tokens: 300, seconds: 3, curve }];
  const charts = (...records: DoneRecord[]) =>
    allCharts(sectionOf(records)).find(({ name }) => name === "training-curves");
  assertEquals(charts(doneRecord(), recovered), undefined);
  const { values } = charts(doneRecord(), recovered, learned)!.spec(WIDE).data as {
    values: { panel: string; method: string; step: number; value: number }[];
  };
  assertEquals([...new Set(values.map(({ method }) => method))], ["mask-prune"]);
  assertEquals(
    Object.fromEntries(
      [...Map.groupBy(values, ({ panel }) => panel)].map(([panel, own]) => [panel, own.at(-1)!.value]),
    ),
    {
      "training loss": 2.7,
      "budget, part that may stay": 0.7,
      "FFN channels removed, per layer": 90,
      "layers removed": 3,
      "hidden dimensions removed": 24,
      "price of the budget, z": 3,
    },
  );
  const long = Array.from({ length: 1000 }, (_, i) => ({ ...at(curve, 0), step: i + 1 }));
  learned.training = [{ stage: "learning", steps: 1000, tokens: 300, seconds: 3, curve: long }];
  const drawn = charts(doneRecord(), learned)!.spec(WIDE).data as { values: typeof values };
  const losses = drawn.values.filter(({ panel }) => panel === "training loss").map(({ step }) => step);
  assertEquals([losses.length, losses[0], losses.at(-1)], [100, 1, 1000]);
});
