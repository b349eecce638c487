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

/** Style sheet of the page. */
export const STYLE = `
:root{color-scheme:light dark;--page:#f6f7f9;--card:#fff;--ink:#1f2328;--muted:#59636e;--dense:#4b535d;--line:#c8ced5;
--grid:#e7eaee;--accent:#0b5cad;--warn-bg:#fff7e0;--warn-line:#d9a400;--best:#e9f5ee}
@media (prefers-color-scheme:dark){:root{--page:#0f1318;--card:#171c23;--ink:#e8ecf1;--muted:#a3adb8;--dense:#c3cad2;
--line:#48515c;--grid:#2a313a;--accent:#7ab8ff;--warn-bg:#2d2611;--warn-line:#b58900;--best:#17322a}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 Inter,system-ui,-apple-system,"Segoe UI",Roboto,
Helvetica,Arial,sans-serif;-webkit-text-size-adjust:100%}
main{max-width:1360px;margin:0 auto;padding:28px 24px 64px}
h1{font-size:28px;line-height:1.2;margin:0 0 4px;overflow-wrap:anywhere}
h2{font-size:21px;margin:36px 0 2px;overflow-wrap:anywhere}
h3{font-size:16px;margin:28px 0 10px}
p{margin:0 0 8px}.meta{color:var(--muted);font-size:13.5px;overflow-wrap:anywhere}
.warn{background:var(--warn-bg);border-left:3px solid var(--warn-line);border-radius:4px;padding:8px 12px;margin:10px 0;
font-size:14px;overflow-wrap:anywhere}
.card{background:var(--card);border:1px solid var(--grid);border-radius:10px}
.levels{display:grid;gap:14px;grid-template-columns:repeat(auto-fit,minmax(min(100%,330px),1fr));margin:16px 0}
.level{padding:14px 16px}.level h3{margin:0 0 8px;font-size:15px}
.level dl{margin:0}.level dt{color:var(--muted);font-size:12.5px;margin-top:8px}
.level dd{margin:0;overflow-wrap:anywhere}.level dd b{font-size:16px}
.level .verdict{display:block;color:var(--muted);font-size:13px}
.scroll{position:relative;overflow-x:auto;-webkit-overflow-scrolling:touch}
table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums;width:100%}
th,td{padding:6px 10px;white-space:nowrap;text-align:right;border-bottom:1px solid var(--grid)}
th{vertical-align:bottom;font-weight:600;border-bottom:1px solid var(--line)}
th.text,td.text{text-align:left}
th small,td small{display:block;font-weight:400;color:var(--muted);font-size:11.5px}
th:first-child,td:first-child{position:sticky;left:0;background:var(--card);z-index:1;text-align:left}
th button{all:unset;cursor:pointer;display:block;width:100%}
th button:hover{color:var(--accent)}
th button:focus-visible{outline:2px solid var(--accent);outline-offset:2px;border-radius:3px}
th[aria-sort=ascending] button>span::after{content:" \\25B2";font-size:9px}
th[aria-sort=descending] button>span::after{content:" \\25BC";font-size:9px}
td .name{display:inline-block;width:max-content;max-width:min(290px,36vw);
white-space:normal;overflow-wrap:anywhere;vertical-align:top}
th:last-child,td:last-child{padding-right:18px}
tr.first>td{border-top:2px solid var(--line)}table.sorted tr.first>td{border-top:0}
tr:last-child>td{border-bottom:0}
td .spread{color:var(--muted);font-size:11.5px}
td .sign{display:inline-block;width:0;padding-left:2px;font-weight:600}
td.best b{font-weight:700}td.best{background:var(--best)}td.second u{text-underline-offset:3px}
td.failed{text-align:left;color:var(--muted);white-space:normal}
.swatch{display:inline-block;width:10px;height:10px;border-radius:50%;margin-right:7px;background:var(--dense)}
p.caption{font-size:13px;margin:8px 0 0;overflow-wrap:anywhere}
ul.notes{color:var(--muted);font-size:13px;margin:10px 0 0;padding-left:18px}
ul.notes li{margin:3px 0;overflow-wrap:anywhere}
.charts{display:grid;gap:14px;grid-template-columns:repeat(auto-fit,minmax(min(100%,560px),1fr))}
figure{margin:0;padding:6px;overflow-x:auto}
figure svg{max-width:100%;height:auto;display:block;margin:auto}
@media (max-width:640px){main{padding:18px 12px 40px}h1{font-size:23px}
figure{padding:0}figure svg{max-width:none}th,td{padding:6px 8px}
/* Room for the numbers: what was really removed stands in the table of sizes, too. */
.quality th:nth-child(3),.quality td:nth-child(3):not(.failed){display:none}}
details{margin:12px 0;padding:10px 14px}summary{cursor:pointer;font-weight:600}
div.facts{padding:4px 14px 12px;margin:0 0 12px}
.facts dl{display:grid;grid-template-columns:minmax(110px,max-content) 1fr;gap:4px 16px;margin:10px 0 0;font-size:13px}
.facts dt{color:var(--muted);overflow-wrap:anywhere}.facts dd{margin:0;overflow-wrap:anywhere}
@media (max-width:640px){.facts dl{grid-template-columns:1fr;gap:1px}.facts dd{margin-bottom:6px}}
${figureColours}
@media print{@page{size:A4 landscape;margin:12mm}:root{--page:#fff;--card:#fff;--ink:#000;--muted:#444;--dense:#4b535d;
--line:#999;--grid:#ddd;--best:#fff;--warn-bg:#fff;color-scheme:light}body{font-size:10pt}main{max-width:none;padding:0}
.card{border-color:#ccc}.scroll{overflow:visible}table{font-size:6.6pt}th,td{padding:2px 3px;white-space:normal}
td{position:relative;white-space:nowrap;padding-right:9px}td.best{background:none}
/* Chromium repeats a header on the next page, but no box within it. */
th button{display:contents}th small,td .spread{font-size:5.8pt}.charts{grid-template-columns:1fr 1fr}
figure,.level,tr,tbody{break-inside:avoid}
thead{display:table-header-group}tbody{break-before:auto}h2,h3{break-after:avoid}
details:not([open])>*:not(summary){display:block}th:first-child,td:first-child{position:static}}
`;

/** Sorts a table by the clicked column. There is a body per level; the dense row's stays on top, and the rows of all
 * others go into the last one. */
export const SCRIPT = `
for (const table of document.querySelectorAll("table.sortable")) {
  const bodies = [...table.tBodies].filter((one) => !one.classList.contains("dense"));
  const body = bodies[bodies.length - 1];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const valueOf = (row) => (row.cells[column] && row.cells[column].dataset.sort) || undefined;
    const order = (a, b) => {
      const [x, y] = [valueOf(a), valueOf(b)];
      if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
      const ascending = isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y;
      return down ? -ascending : ascending;
    };
    if (body) body.append(...bodies.flatMap((one) => [...one.rows]).sort(order));
    table.classList.add("sorted");
  }));
}
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => { part.open = true; }));
`;
