/** Records to a document: what a report says, in which order.
 *
 * @module
 */
import type { CellRecord } from "../core/schema/schema.ts";
import { besidePaperTable } from "./beside_paper.ts";
import { buildCharts } from "./charts.ts";
import { contextWords, environmentFacts, failureFacts, measureFacts } from "./details.ts";
import type { Block, ReportDocument, ResultTableId } from "./document.ts";
import { glance } from "./findings.ts";
import { unique } from "./format.ts";
import { legend, tableNotes } from "./notes.ts";
import { placeWords, protocol, protocolCaption, protocolTitle } from "./protocol.ts";
import { resultTable } from "./result_tables.ts";
import { buildSections, type Definitions, type Section } from "./sections.ts";
import type { Fact } from "./settings.ts";
import { type Ranking, rankings } from "./significance.ts";
import { warnings } from "./warnings.ts";

function tableBlock(section: Section, ranks: Ranking[], id: ResultTableId, title: string): Block[] {
  const table = resultTable(id, section, ranks);
  if (table === null) return [];
  const notes = tableNotes(id, section, table);
  return [{
    ...{ kind: "table", id, title, caption: protocolCaption(section), ...table },
    legend: legend(id, table.rows),
    notes,
  }];
}

const details = (title: string, facts: Fact[]): Block[] =>
  facts.length === 0 ? [] : [{ kind: "facts", isOpen: false, title, facts }];

/** Model and engine, and what was done besides cutting: runs that differ in this have other titles. */
const sectionTitle = (section: Section): string =>
  [`${section.model} on ${placeWords(section)}`, protocolTitle(section)].filter((text) => text !== "").join(", ");

function blocksOf(section: Section, prefix: string): Block[] {
  const ranks = rankings(section);
  const charts = buildCharts(section, prefix);
  const found = glance(section, ranks);
  return [
    { kind: "line", text: contextWords(section) },
    { kind: "facts", isOpen: true, title: "Protocol", facts: protocol(section) },
    { kind: "warnings", texts: warnings(section) },
    ...found.lines.length === 0 || found.topics.length === 0 ? [] : [found],
    ...charts.length === 0 ? [] : [{
      kind: "figures" as const,
      title: `Quality against ${section.speeds.length > 0 ? "speed and " : ""}sparsity`,
      charts,
    }],
    ...tableBlock(section, ranks, "quality", "Quality"),
    ...besidePaperTable(section),
    ...tableBlock(section, ranks, "size", "Size and speed"),
    ...tableBlock(section, ranks, "cost", "Cost"),
    ...details("Failed cells", failureFacts(section)),
    ...details("Measurements and data", measureFacts(section)),
    ...details("Environment", environmentFacts(section)),
  ];
}

/** Builds the report of a run. Everything comes from `records` alone.
 * @param title What the run is called. */
export function buildDocument(records: readonly CellRecord[], title: string, definitions: Definitions): ReportDocument {
  const sections = buildSections(records, definitions);
  const ways = unique(sections.map(protocolTitle)).filter((way) => way !== "");
  return {
    title: ways.length === 1 ? `${title}: ${ways.join("")}` : title,
    sections: sections.map((section, i) => ({
      title: sectionTitle(section),
      results: section,
      blocks: blocksOf(section, sections.length > 1 ? `${i + 1}-${section.model}-${section.engine}-` : ""),
    })),
  };
}
