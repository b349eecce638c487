/** Figures for papers: without titles, as wide as a column or a page, as SVG and PDF.
 *
 * @module
 */
import { join } from "node:path";
import { UsageError } from "../core/util/errors.ts";
import { ifThere } from "../core/util/paths.ts";
import { writeAtomically } from "../core/util/write_file.ts";
import { chartsOf, type ReportDocument, type Spec } from "./document.ts";
import { toSvg } from "./draw.ts";
import { toPdf } from "./pdf.ts";

/** Widths in points, which fit the columns of common styles of conferences. */
const WIDTH_PT: Record<"1" | "2", number> = { 1: 234, 2: 487 };
/** Pixels of the drawing for a point: letters of 12 pixels print with 8 points. */
const PIXELS = 1.5;

/** A figure as it is drawn for a paper. */
function paperSpec({ title: _, ...spec }: Spec, dots: Spec | undefined, columns: "1" | "2"): Spec {
  const config = spec.config as Record<string, Spec>;
  const legend = { ...config.legend, ...columns === "1" && { orient: "bottom", columns: 2, labelLimit: 140 } };
  const layers = spec.layer as Spec[];
  const autosize = { type: "fit-x", contains: "padding" };
  return {
    ...{ ...spec, padding: 2, config: { ...config, legend }, autosize },
    width: WIDTH_PT[columns] * PIXELS,
    height: columns === "1" ? 220 : 290,
    layer: dots ? [...layers, dots] : layers,
  };
}

/** The drawing with its printed width. */
const printed = (svg: string, widthPt: number) =>
  svg.replace(
    / width="([\d.]+)" height="([\d.]+)"/,
    (_, width: string, height: string) =>
      ` width="${widthPt}pt" height="${(widthPt * Number(height) / Number(width)).toFixed(2)}pt"`,
  );

/** Writes every figure without its title as `NAME.svg` and `NAME.pdf` into `outFolder`, and the titles to
 * `captions.md`: a paper says in the caption what a figure shows.
 * @param layout Columns of a page that a figure is wide; whether charts against sparsity have a dot for every seed.
 * @returns Paths of the files written.
 * @throws {UsageError} when `captions.md` is not of earlier figures. */
export async function writePaperFigures(
  document: ReportDocument,
  outFolder: string,
  { columns, dots }: { columns: "1" | "2"; dots: boolean },
): Promise<string[]> {
  const captions: string[] = [];
  const list = join(outFolder, "captions.md");
  if (!ifThere(() => Deno.readTextFileSync(list), "**").startsWith("**")) {
    throw new UsageError(`"${list}" does not belong to earlier figures: move it, or use another folder`);
  }
  const write = (name: string, content: string): string => {
    const path = join(outFolder, name);
    writeAtomically(path, content);
    return path;
  };
  const paths: string[] = [];
  for (const { name, title, spec, seeds } of chartsOf(document)) {
    const svg = printed(await toSvg(paperSpec(spec, dots ? seeds : undefined, columns)), WIDTH_PT[columns]);
    paths.push(write(`${name}.svg`, svg + "\n"), write(`${name}.pdf`, toPdf(svg)));
    const { subtitle = [] } = spec.title as { subtitle?: string[] };
    captions.push(`**${name}**: ${title}. ${subtitle.join(" ")}${dots && seeds ? " Dots: single seeds." : ""}\n`);
  }
  writeAtomically(list, captions.join("\n"));
  return [...paths, list];
}
