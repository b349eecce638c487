import { renderTable, reportOf } from "../../benchmarks/commands/reports.ts";
import { toSvg } from "../../reports/draw.ts";
import { toLatex } from "../../reports/latex.ts";
import { toMarkdown } from "../../reports/markdown.ts";
import { assertGolden, smallRecords } from "../support/reports_fixture.ts";

const report = reportOf(smallRecords(), "Golden run");
const charts = report.sections.flatMap(({ blocks }) =>
  blocks.flatMap((block) => block.kind === "figures" ? block.charts : [])
);

Deno.test("toMarkdown() has the layout of report.md", () => {
  assertGolden("report.md", toMarkdown(report));
});

Deno.test("toLatex() has the layout of report.tex", () => assertGolden("report.tex", toLatex(report)));

Deno.test("renderTable() has the layout of report_terminal.txt", () => {
  assertGolden("report_terminal.txt", renderTable(smallRecords(), { width: 100, colour: false }));
});

for (const name of ["perplexity-vs-sparsity", "accuracy-vs-pp512"]) {
  Deno.test(`toSvg() draws report_${name}.svg`, async () => {
    const chart = charts.find((chart) => chart.name === name)!;
    assertGolden(`report_${name}.svg`, await toSvg(chart.spec) + "\n");
  });
}
