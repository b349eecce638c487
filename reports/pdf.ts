/** A figure as a PDF of one page. resvg turns the SVG into outlines, of letters too; here they become PDF operators.
 *
 * @module
 */
import { Resvg } from "@resvg/resvg-js";
import { deflateSync } from "node:zlib";
import { at } from "../core/util/indexing.ts";
import { SHIPPED_FONT } from "./draw.ts";

/** Operators of the commands of a path. */
const COMMANDS: Record<string, string> = { M: "m", L: "l", C: "c", Z: "h" };
const CAPS = ["butt", "round", "square"];
const JOINS = ["miter", "round", "bevel"];

/** Elements and attributes that resvg writes for charts. Others would be lost. */
const KNOWN = "svg g path defs width height viewBox xmlns fill stroke d transform visibility opacity fill-opacity " +
  "stroke-opacity stroke-width stroke-dasharray stroke-linecap stroke-linejoin M L C Z";

function refuseUnknown(name: string): void {
  if (!KNOWN.split(" ").includes(name)) throw new SyntaxError(`Cannot write a PDF: the drawing has "${name}"`);
}

/** Numbers without exponents, which PDF does not know. */
const numbers = (text = "") =>
  (text.match(/-?[\d.]+(?:e-?\d+)?/g) ?? []).map((one) => String(Number(Number(one).toFixed(3)))).join(" ");

/** `#0080ff` as three parts of 1. */
const colour = (hex: string) => numbers([1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16) / 255).join(" "));

/** Operators that paint a path. */
function paint({ fill = "#000000", stroke = "none", ...own }: Record<string, string>): string {
  const [hasArea, hasLine] = [fill !== "none", stroke !== "none"];
  if (own.visibility === "hidden" || !hasArea && !hasLine) return "";
  const area = `${colour(fill)} rg\n`;
  const line = `${colour(stroke)} RG ${own["stroke-width"] ?? 1} w [${numbers(own["stroke-dasharray"])}] 0 d ` +
    `${CAPS.indexOf(own["stroke-linecap"] ?? "butt")} J ${JOINS.indexOf(own["stroke-linejoin"] ?? "miter")} j\n`;
  const outline = (own.d ?? "").replace(/([A-Z])([^A-Z]*)/g, (_, command: string, points: string) => {
    refuseUnknown(command);
    return `${numbers(points)} ${COMMANDS[command]}\n`;
  });
  return `${hasArea ? area : ""}${hasLine ? line : ""}${outline}${hasArea && hasLine ? "B" : hasArea ? "f" : "S"}\n`;
}

/** A drawing of groups and paths as operators, and the opacities of areas and lines that they name. */
function operators(svg: string): { text: string; opacities: string[] } {
  const opacities: string[] = [];
  const groups = [1];
  let text = "";
  for (const [, isEnd, name = "", rest = ""] of svg.matchAll(/<(\/?)(\w+)([^>]*)>/g)) {
    const entries = [...rest.matchAll(/([\w-]+)="([^"]*)"/g)].map(([, key = "", value = ""]) => [key, value] as const);
    const own: Record<string, string> = Object.fromEntries(entries);
    for (const one of [name, ...Object.keys(own)]) refuseUnknown(one);
    if (name === "path") {
      const [area, line] = ["fill", "stroke"].map((part) => at(groups, 0) * Number(own[`${part}-opacity`] ?? 1));
      const parts = `/ca ${numbers(String(area))} /CA ${numbers(String(line))}`;
      if (!opacities.includes(parts)) opacities.push(parts);
      text += `/O${opacities.indexOf(parts)} gs\n${paint(own)}`;
    } else if (name === "g" && isEnd) {
      groups.shift();
      text += "Q\n";
    } else if (name === "g" && !rest.endsWith("/")) {
      groups.unshift(at(groups, 0) * Number(own.opacity ?? 1));
      text += `q\n${own.transform ? `${numbers(own.transform)} cm\n` : ""}`;
    }
  }
  return { text, opacities };
}

/** A picture as a PDF, in ASCII. Letters are outlines of the shipped font: a reader needs no font.
 * @throws {SyntaxError} for pictures with more than areas and lines. */
export function toPdf(svg: string): string {
  const drawing = new Resvg(svg, { font: SHIPPED_FONT });
  const outlines = drawing.toString();
  const { text, opacities } = operators(outlines);
  // An SVG's pixel is 3/4 of a point; its vertical axis points down.
  const [w, h] = [0.75 * drawing.width, 0.75 * drawing.height];
  const scale = w / Number(/viewBox="\S+ \S+ (\S+)/.exec(outlines)?.[1] ?? drawing.width);
  const stream = deflateSync(`${scale} 0 0 ${-scale} 0 ${h} cm\n${text}`).toHex() + ">";
  const states = opacities.map((parts, i) => `/O${i} << ${parts} >>`).join(" ");
  const objects = [
    "<< /Type /Catalog /Pages 2 0 R >>",
    "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
    `<< /Type /Page /Parent 2 0 R /MediaBox [0 0 ${w} ${h}] /Contents 4 0 R /Resources << /ExtGState << ${states} >> >> >>`,
    `<< /Length ${stream.length} /Filter [/ASCIIHexDecode /FlateDecode] >>\nstream\n${stream}\nendstream`,
  ];
  let file = "%PDF-1.4\n";
  const offsets = objects.map((object, i) => {
    const offset = file.length;
    file += `${i + 1} 0 obj\n${object}\nendobj\n`;
    return `${String(offset).padStart(10, "0")} 00000 n \n`;
  });
  return `${file}xref\n0 ${objects.length + 1}\n0000000000 65535 f \n${offsets.join("")}` +
    `trailer\n<< /Size ${objects.length + 1} /Root 1 0 R >>\nstartxref\n${file.length}\n%%EOF\n`;
}
