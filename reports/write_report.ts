/** Records in, files out: the one entry that writes a report.
 *
 * @module
 */
import { join } from "node:path";
import type { CellRecord } from "../core/schema.ts";
import { UsageError } from "../core/errors.ts";
import { WIDE } from "./chart_style.ts";
import { buildCharts } from "./charts.ts";
import { toCsv } from "./csv.ts";
import { toPng, toSvg } from "./draw.ts";
import { type Part, toHtml } from "./html.ts";
import { toLatex } from "./latex.ts";
import { toMarkdown } from "./markdown.ts";
import { buildSections } from "./rows.ts";
import { rankings } from "./significance.ts";
