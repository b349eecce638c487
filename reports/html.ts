/** The report as one HTML page that needs no network and no other file.
 *
 * @module
 */
import { html, raw } from "hono/html";
import { level } from "./format.ts";
import { SCRIPT, STYLE } from "./html_assets.ts";
import { colours, NEUTRAL } from "./palette.ts";
import { measureWords, reproducedText, reproduction, reproductionNotes } from "./reproduction.ts";
import type { Section } from "./rows.ts";
import type { Ranking } from "./significance.ts";
import {
  configurationFacts,
  contextWords,
  environmentFacts,
  generations,
  glance,
  legend,
  protocols,
  warnings,
} from "./summary.ts";
import {
  buildCostTable,
  buildQualityTable,
  buildTaskTable,
  failureText,
  levelGroups,
  type Table,
  type TableCell,
  type TableRow,
} from "./table.ts";

/** A figure for wide and for narrow screens, as SVG. */
export interface DrawnChart {
  title: string;
  wide: string;
  narrow: string;
}

/** What `html` gives: text whose values are escaped already. */
type Markup = ReturnType<typeof html>;

function glanceCards(section: Section, ranks: Ranking[]): Markup {
  const { topics, lines } = glance(section, ranks);
  const cards = lines.map((line) => {
    const entries = line.findings.map((found, i) =>
      found === null ? html`` : html`
        <dt>${topics[i]}</dt>
        <dd>${found.best === "" ? "" : html`
          <b>${found.best}</b>
        `}${found.value}${found.verdict === "" ? "" : html`<span class="verdict">${found.verdict}</span>`}</dd>
      `
    );
    return html`
      <div class="card level">
        <h3>${line.level} sparsity asked</h3>
        <dl>${entries}</dl>
      </div>
    `;
  });
  return html`<div class="levels">${cards}</div>`;
}

function valueCell({ text, spread, standing, sort }: TableCell, numeric: boolean): Markup {
  const classes = [numeric ? "" : "text", ["", "best", "second"][standing.place]].join(" ").trim();
  const value = standing.place === 1 ? html`<b>${text}</b>` : standing.place === 2 ? html`<u>${text}</u>` : text;
  const small = spread === "" ? "" : html`<span class="spread">${spread}</span>`;
  const sign = standing.sign === "" ? "" : html`<span class="sign">${standing.sign}</span>`;
  return html`<td class="${classes}" data-sort="${sort ?? ""}">${value}${small}${sign}</td>`;
}

function tableRow(table: Table, row: TableRow, first: boolean, section: Section, colour?: string): Markup {
  const swatch = html`<span class="swatch" style="background:${colour ?? NEUTRAL.dense}"></span>`;
  const name = html`<td data-sort="${row.label}">${swatch}<span class="name">${row.label}</span></td>`;
  const source = section.rows.find(({ label, asked }) => label === row.label && asked === row.asked);
  const rest = row.kind === "failed" && source !== undefined
    ? html`${valueCell(row.cells[1], true)}<td class="failed" colspan="${row.cells.length - 2}">${
      failureText(source)
    }</td>`
    : row.cells.slice(1).map((cell, i) => valueCell(cell, table.columns[i + 1].numeric));
  return html`<tr class="${first ? "first" : ""}">${name}${rest}</tr>`;
}

/** @param name A class for the style sheet. */
function tableMarkup(table: Table, section: Section, name = ""): Markup {
  const byLabel = colours(
    section.rows.flatMap(({ label, methodId }) => methodId === null ? [] : [{ label, methodId }]),
  );
  const heads = table.columns.map(({ header, detail, numeric, better }) => {
    const arrow = better === null ? "" : better === "higher" ? " ↑" : " ↓";
    return html`<th scope="col" class="${numeric ? "" : "text"}"><button type="button"><span>${header}${arrow}</span>${
      detail === "" ? "" : detail.split(", ").map((part) => html`<small>${part}</small>`)
    }</button></th>`;
  });
  const groups = levelGroups(table);
  const rowsOf = (group: TableRow[]) =>
    group.map((row, i) => tableRow(table, row, i === 0, section, byLabel.get(row.label)));
  const dense = groups.filter(([row]) => row.label === "dense");
  const others = groups.filter(([row]) => row.label !== "dense");
  return html`
    <div class="card scroll" tabindex="0" role="region" aria-label="comparison table">
      <table class="sortable ${name}">
        <thead>
          <tr>${heads}</tr>
        </thead>
        <tbody>${dense.map(rowsOf)}</tbody>
        <tbody>${others.map(rowsOf)}</tbody>
      </table>
    </div>
  `;
}

function figures(charts: DrawnChart[]): Markup {
  // Vega escapes names and values itself; its output is the one thing that goes into the page as it is.
  const drawn = charts.map(({ title, wide, narrow }) =>
    html`
      <figure class="card" aria-label="${title}">
        <div class="wide">${raw(wide)}</div>
        <div class="narrow">${raw(narrow)}</div>
      </figure>
    `
  );
  return html`
    <h3>Charts</h3>
    <div class="charts">${drawn}</div>
  `;
}

function facts(title: string, entries: { name: string; text: string }[]): Markup {
  const rows = entries.map(({ name, text }) =>
    html`
      <dt>${name}</dt>
      <dd>${text}</dd>
    `
  );
  return html`
    <details class="card">
      <summary>${title}</summary>
      <dl>${rows}</dl>
    </details>
  `;
}

function failures(section: Section): Markup {
  const entries = section.rows.flatMap(({ label, failures }) =>
    failures.map(({ cell, failure }) => ({
      name: `${label}, ${level(cell.sparsity)}, seed ${cell.seed}`,
      text: `${failure.kind}${failure.exitCode === null ? "" : ` (exit code ${failure.exitCode})`}: ${failure.message}`,
    }))
  );
  return entries.length === 0 ? html`` : facts("Failed cells", entries);
}

const notes = (texts: string[]): Markup => html`<ul class="notes">${texts.map((text) => html`<li>${text}</li>`)}</ul>`;

function reproductionMarkup(section: Section): Markup {
  const found = reproduction(section);
  if (found === null) return html``;
  const heads = found.measures.map((measure) => {
    const [name, detail] = measureWords(measure);
    return html`<th scope="col">${name}<small>${detail}</small></th>`;
  });
  const rows = found.rows.map(({ label, row, values }) => {
    const name = row.asked > 0 ? `${row.label} at ${level(row.asked)}` : row.label;
    const cells = values.map((value) => {
      const { ours, theirs, difference } = reproducedText(value);
      return html`<td>${ours}<small>${theirs}</small><small>${difference}</small></td>`;
    });
    return html`<tr><td><span class="name">${label}<small>${name}</small></span></td>${cells}</tr>`;
  });
  return html`
    <h3>Beside the paper: ${found.title}</h3>
    <div class="card scroll" tabindex="0" role="region" aria-label="ours and the paper's numbers">
      <table class="pairs">
        <thead>
          <tr><th scope="col">in the paper<small>ours</small></th>${heads}</tr>
        </thead>
        <tbody>${rows}</tbody>
      </table>
    </div>${notes(reproductionNotes(found))}
  `;
}

function sectionMarkup({ section, ranks, charts }: Part): Markup {
  const how = legend(section);
  const quality = buildQualityTable(section, ranks);
  const hasMore = section.columns.some(({ primary }) => !primary);
  return html`<section>
<h2>${section.model} on ${section.engine}</h2>
<p class="meta">${contextWords(section)}</p>
${warnings(section).map((text) => html`<p class="warn">${text}</p>`)}
${glanceCards(section, ranks)}
${quality === null ? "" : html`<h3>Quality</h3>${tableMarkup(quality, section, "quality")}${notes(how.quality)}`}
${reproductionMarkup(section)}
<h3>Size and speed</h3>
${tableMarkup(buildCostTable(section), section)}
${notes(how.cost)}
${charts.length > 0 ? figures(charts) : ""}
<h3>Details</h3>
${
    hasMore
      ? html`<details class="card"><summary>All metrics of the tasks</summary>${
        tableMarkup(buildTaskTable(section, ranks), section)
      }</details>`
      : ""
  }
${
    generations(section).map(({ prompt, texts }) =>
      facts(
        `What the models write after “${prompt}”`,
        texts.map(({ label, text }) => ({ name: label, text })),
      )
    )
  }
${failures(section)}
${facts("Protocols and data", protocols(section))}
${facts("Configuration", configurationFacts(section))}
${facts("Environment", environmentFacts(section))}
</section>`;
}

/** A section with what is computed from it once. */
export interface Part {
  section: Section;
  ranks: Ranking[];
  charts: DrawnChart[];
}

/** The page. Its content security policy allows no request and no script but its own. */
export async function toHtml(title: string, parts: Part[]): Promise<string> {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(SCRIPT)));
  const policy = `default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-${digest.toBase64()}'`;
  const page = await html`
    <!DOCTYPE html>
    <html lang="en">
      <head>
        <meta charset="utf-8">
        <meta name="viewport" content="width=device-width, initial-scale=1">
        <meta http-equiv="Content-Security-Policy" content="${policy}">
        <title>${title}</title>
        <style>${raw(STYLE)}</style>
      </head>
      <body>
        <main>
    <h1>${title}</h1>
    ${parts.map(sectionMarkup)}
        </main>
        <script>${raw(SCRIPT)}</script>
      </body>
    </html>
  `;
  return page.toString();
}
