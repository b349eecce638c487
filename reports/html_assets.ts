/** Style and script of the HTML report. Both are put into the page: it needs nothing else.
 *
 * @module
 */
import { NEUTRAL } from "./palette.ts";

/** Names of the page's variables for the neutral colours of the figures. */
const VARIABLE: Record<keyof typeof NEUTRAL, string> = {
  paper: "--card",
  ink: "--ink",
  muted: "--muted",
  dense: "--dense",
  line: "--line",
  grid: "--grid",
};

const figureColours = (Object.keys(NEUTRAL) as (keyof typeof NEUTRAL)[]).flatMap((name) =>
  ["fill", "stroke"].map((what) => `svg [${what}="${NEUTRAL[name]}"]{${what}:var(${VARIABLE[name]})}`)
).join("\n");

const textOf = (name: string) => Deno.readTextFileSync(new URL(`./page/${name}`, import.meta.url));

/** Style sheet of the page. */
export const style = (): string => `${textOf("report.css")}${figureColours}\n`;

/** Script of the page. */
export const script = (): string => textOf("report.js");
