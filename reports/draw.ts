/** Vega-Lite specification to SVG and PNG, the same bytes on every machine.
 *
 * @module
 */
import { renderAsync } from "@resvg/resvg-js";
import { join } from "node:path";
import * as vega from "vega";
import { compile, type TopLevelSpec } from "vega-lite";
import { FONT } from "./palette.ts";

/** Widths of Inter in units of the font size, coarsely: lays text out without a canvas and the same everywhere. */
function textWidth(text: string, fontSize: number): number {
  let width = 0;
  for (const c of text) {
    width += /[iljI.,:;'|!()[\]]/.test(c) ? 0.3 : /[mwMW%@×–≈]/.test(c) ? 0.88 : /[A-Z0-9]/.test(c) ? 0.65 : 0.57;
  }
  return width * fontSize;
}

/** What Vega's measuring hook is given; longer text than `limit` pixels is cut. */
interface TextItem {
  fontSize?: number;
  limit?: number;
}

/** A mark's `description` channel becomes a `title` element, which browsers show as a tooltip. Vega's other
 * descriptions repeat what texts say. */
const addTitles = (svg: string): string =>
  svg.replace(/<path aria-label="([^"]*)"([^>]*?)(?:\/>|><\/path>)/g, "<path$2><title>$1</title></path>")
    .replaceAll(/ aria-label="[^"]*"/g, "");

/** Numbers without the digits after so many decimals. */
const shortened = (value: string, decimals: number): string =>
  value.replace(new RegExp(`(\\.\\d{${decimals}})\\d+(?!\\d*e)`, "g"), "$1");

/** `rgb(0, 128, 255)` as `#0080ff`. */
const hexColours = (svg: string): string =>
  svg.replace(
    /rgb\((\d+), (\d+), (\d+)\)/g,
    (_, ...parts: string[]) =>
      `#${parts.slice(0, 3).map((part) => Number(part).toString(16).padStart(2, "0")).join("")}`,
  );

/** Removes what takes room and cannot be seen: digits below a hundredth of a pixel (a tenth in outlines), attributes
 * with default values, names of Vega's own parts, empty paths and groups. The whole picture has the font of its
 * texts. */
function compact(svg: string): string {
  return svg.replace(
    / (d|transform|x|y|x1|y1|x2|y2|width|height)="([^"]*)"/g,
    (_, name: string, value: string) => ` ${name}="${shortened(value, name === "d" ? 1 : 2)}"`,
  ).replaceAll(/ (?:opacity="1"|stroke-width="1"|transform="translate\(0,0\)")/g, "")
    .replaceAll(/<path class="(?:background|foreground)"[^>]* d="(?:M0,0h0v0h0Z)?"[^>]*\/>/g, "")
    .replaceAll(/ (?:class|role|aria-hidden|aria-roledescription)="[^"]*"/g, "")
    .replaceAll(/<g[^>]*(?:\/>|><\/g>)/g, "")
    .replaceAll(` font-family="${FONT}"`, "")
    .replace("<svg ", `<svg font-family="${FONT}" `);
}

/** Draws a Vega-Lite specification. */
export async function toSvg(spec: Record<string, unknown>): Promise<string> {
  // Vega asks this hook where it has no canvas; its own guess is 40 % too wide.
  const { textMetrics } = vega as unknown as { textMetrics: { width: (item: TextItem, text: unknown) => number } };
  textMetrics.width = (item, text) =>
    Math.min(textWidth(String(text ?? ""), item.fontSize ?? 11), item.limit || Infinity);
  vega.resetSVGDefIds();
  const view = new vega.View(vega.parse(compile(spec as unknown as TopLevelSpec).spec), {
    renderer: "none",
    logLevel: vega.Warn,
  });
  try {
    return addTitles(hexColours(compact(await view.toSVG())));
  } finally {
    view.finalize();
  }
}

/** The shipped font and no other. */
export const SHIPPED_FONT = {
  loadSystemFonts: false,
  defaultFontFamily: "Inter",
  sansSerifFamily: "Inter",
  fontFiles: ["Inter-Regular.otf", "Inter-SemiBold.otf"].map((file) => join(import.meta.dirname!, "fonts", file)),
};

/** Rasterises an SVG at twice its size. */
export async function toPng(svg: string): Promise<Uint8Array> {
  const zoom = { mode: "zoom", value: 2 } as const;
  return (await renderAsync(svg, { fitTo: zoom, background: "#ffffff", font: SHIPPED_FONT })).asPng();
}
