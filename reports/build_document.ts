/** Records to a document: what a report says, in which order.
 *
 * @module
 */
import type { CellRecord } from "../core/schema/schema.ts";
import type { Chart } from "./chart_style.ts";
import { buildCharts } from "./charts.ts";
import type { Block, DocumentSection, FactsBlock, FiguresBlock, ReportDocument, TableBlock } from "./document.ts";
import {
  configurationFacts,
  contextWords,
  environmentFacts,
  failureFacts,
  generations,
  measureFacts,
} from "./facts.ts";
import { glance } from "./findings.ts";
import { legend, type TableId, tableNotes } from "./notes.ts";
import { placeWords, protocol, protocolCaption, protocolTitle } from "./protocol.ts";
import { besidePaperGrid } from "./beside_paper.ts";
import { buildSections, type Definitions, type Section } from "./rows.ts";
import type { Fact } from "./settings.ts";
import { type Ranking, rankings } from "./significance.ts";
import { buildCostTable, buildQualityTable, buildSizeTable, buildTaskTable, type Table } from "./table.ts";
import { warnings } from "./warnings.ts";

function tableBlocks(section: Section, ranks: Ranking[]): Record<TableId, TableBlock[]> {
  const caption = protocolCaption(section);
  const block = (id: TableId, title: string, table: Table | null): TableBlock[] =>
    table === null ? [] : [{
      kind: "table",
      id,
      title,
      shortCaption: `${title} of ${sectionTitle(section)}`,
      caption,
      table,
      legend: legend(id, table, section),
      notes: tableNotes(id, section, table),
    }];
  const hasMore = section.columns.some(({ primary }) => !primary);
  return {
    quality: block("quality", "Quality", buildQualityTable(section, ranks)),
    size: block("size", "Size and speed", buildSizeTable(section)),
    cost: block("cost", "Cost", buildCostTable(section)),
    tasks: block("tasks", "All metrics of the tasks", hasMore ? buildTaskTable(section, ranks) : null),
  };
}

const factsBlock = (id: FactsBlock["id"], title: string, facts: Fact[]): FactsBlock[] =>
  facts.length === 0 ? [] : [{ kind: "facts", id, title, facts }];

/** Model and engine, and what was done besides cutting: runs that differ in this have other titles. */
function sectionTitle(section: Section): string {
  const how = protocolTitle(section);
  return `${section.model} on ${placeWords(section)}${how === "" ? "" : `, ${how}`}`;
}

const isTimed = ({ columns }: Section) => columns.some(({ kind }) => kind === "throughput");

function buildDocumentSection(section: Section, prefix: string): DocumentSection {
  const ranks = rankings(section);
  const { quality, size, cost, tasks } = tableBlocks(section, ranks);
  const { lead, rest } = buildCharts(section, prefix);
  const figures = (title: string, charts: Chart[]): FiguresBlock[] =>
    charts.length === 0 ? [] : [{ kind: "figures", title, charts }];
  const found = glance(section, ranks);
  const blocks: Block[] = [
    { kind: "line", text: contextWords(section) },
    ...factsBlock("protocol", "Protocol", protocol(section)),
    { kind: "warnings", texts: warnings(section) },
    ...found.lines.length === 0 || found.topics.length === 0 ? [] : [{ kind: "glance" as const, glance: found }],
    ...figures(`Quality against ${isTimed(section) ? "speed and " : ""}size`, lead),
    ...quality,
    ...besidePaperGrid(section),
    ...size,
    ...cost,
    ...figures("Charts", rest),
    ...tasks,
    ...generations(section).flatMap(({ prompt, texts }) =>
      factsBlock(
        "generations",
        `What the models write after “${prompt}”`,
        texts,
      )
    ),
    ...factsBlock("failures", "Failed cells", failureFacts(section)),
    ...factsBlock("measures", "Measurements and data", measureFacts(section)),
    ...factsBlock("configuration", "Options of the methods", configurationFacts(section)),
    ...factsBlock("environment", "Environment", environmentFacts(section)),
  ];
  return { title: sectionTitle(section), results: section, blocks };
}

/** Builds the report of a run. Everything comes from `records` alone.
 * @param title What the run is called. */
export function buildDocument(
  records: readonly CellRecord[],
  title: string,
  definitions: Definitions,
): ReportDocument {
  const sections = buildSections(records, definitions);
  const ways = [...new Set(sections.map(protocolTitle))].filter((way) => way !== "");
  return {
    title: ways.length === 1 ? `${title}: ${ways.join("")}` : title,
    sections: sections.map((section, i) =>
      buildDocumentSection(section, sections.length > 1 ? `${i + 1}-${section.model}-${section.engine}-` : "")
    ),
  };
}
