/** The report as one HTML page that needs no network and no other file.
 *
 * @module
 */
import { html, raw } from "hono/html";
import type { Block, FactsBlock, GlanceBlock, GridBlock, ReportDocument, TableBlock } from "./document.ts";
import { SCRIPT, STYLE } from "./html_assets.ts";
import { isDense } from "./rows.ts";
import { failureText, levelGroups, type TableCell, type TableColumn, type TableRow } from "./table.ts";

/** A figure for wide and for narrow screens, as SVG. */
export interface DrawnChart {
  wide: string;
  narrow: string;
}

/** Drawn figures by name. */
export type Drawings = ReadonlyMap<string, DrawnChart>;

/** What `html` gives: text whose values are escaped already. */
type Markup = ReturnType<typeof html>;

/** Numbers stay with their units. */
const unbroken = (text: string) => text.replace(/ (%|×)/g, "\u00a0$1");

function glanceCards({ glance: { topics, lines, note } }: GlanceBlock): Markup {
  const cards = lines.map((line) => {
    const entries = line.findings.map((found, i) =>
      found === null ? html`` : html`
        <dt>${topics[i] ?? ""}</dt>
        <dd>${found.best === "" ? "" : html`
          <b>${found.best}</b>
        `}${unbroken(found.value)}${found.verdict === ""
          ? ""
          : html`<span class="verdict">${unbroken(found.verdict)}</span>`}</dd>
      `
    );
    return html`
      <div class="card level">
        <h3>${line.level}</h3>
        <dl>${entries}</dl>
      </div>
    `;
  });
  return html`
    <div class="levels">${cards}</div>
    <p class="meta">${note}</p>
  `;
}

function valueCell({ text, spread, place, sign, sort }: TableCell, { numeric }: TableColumn): Markup {
  const classes = [numeric ? "" : "text", ["", "best", "second"][place]].join(" ").trim();
  const value = place === 1 ? html`<b>${text}</b>` : place === 2 ? html`<u>${text}</u>` : text;
  const small = spread === "" ? "" : html`<span class="spread">${spread}</span>`;
  const mark = sign === "" ? "" : html`<span class="sign">${sign}</span>`;
  return html`<td class="${classes}" data-sort="${sort ?? ""}">${value}${small}${mark}</td>`;
}

/** A table's columns with the cells of a row. */
const paired = (columns: readonly TableColumn[], { cells }: TableRow) =>
  columns.flatMap((column, i) => {
    const cell = cells[i];
    return cell === undefined ? [] : [{ column, cell }];
  });

function tableRow(columns: TableColumn[], own: TableRow, first: boolean): Markup {
  const { row, kind } = own;
  const style = isDense(row) ? "" : raw(` style="background:${row.colour}"`);
  const swatch = html`
    <span class="swatch" ${style}></span>
  `;
  const name = html`<td data-sort="${row.label}">${swatch}<span class="name">${row.label}</span></td>`;
  const [, asked, ...others] = paired(columns, own);
  const valueOf = ({ column, cell }: { column: TableColumn; cell: TableCell }) => valueCell(cell, column);
  const rest = kind === "failed"
    ? html`<td class="failed" colspan="${others.length}">${failureText(row)}</td>`
    : others.map(valueOf);
  return html`<tr class="${first ? "first" : ""}">${name}${asked === undefined ? "" : valueOf(asked)}${rest}</tr>`;
}

function tableMarkup({ id, table: { columns, rows }, caption, legend, notes }: TableBlock): Markup {
  const heads = columns.map(({ header, detail, numeric, better }) => {
    const arrow = better === null ? "" : better === "higher" ? "\u00a0↑" : "\u00a0↓";
    return html`<th scope="col" class="${numeric ? "" : "text"}"><button type="button"><span>${header}${arrow}</span>${
      detail === "" ? "" : detail.split(", ").map((part) => html`<small>${part}</small>`)
    }</button></th>`;
  });
  // A body per level: a page break comes between them.
  const bodies = levelGroups({ columns, rows }).map((group) =>
    html`<tbody${group.some(({ row }) => isDense(row)) ? raw(' class="dense"') : ""}>${
      group.map((row, i) => tableRow(columns, row, i === 0))
    }</tbody>`
  );
  return html`
    <div class="card scroll" tabindex="0" role="region" aria-label="comparison table">
      <table class="sortable ${id}">
        <thead>
          <tr>${heads}</tr>
        </thead>
        ${bodies}
      </table>
    </div><p class="caption">${caption}</p>${notesMarkup([...legend, ...notes])}
  `;
}

const notesMarkup = (texts: string[]): Markup =>
  texts.length === 0 ? html`` : html`<ul class="notes">${texts.map((text) => html`<li>${text}</li>`)}</ul>`;

function factList({ facts }: FactsBlock): Markup {
  return html`<dl>${
    facts.map(({ name, text }) =>
      html`
        <dt>${name}</dt>
        <dd>${text}</dd>
      `
    )
  }</dl>`;
}

function factsMarkup(block: FactsBlock): Markup {
  if (block.id === "protocol") {
    return html`
      <h3>${block.title}</h3>
      <div class="card facts">${factList(block)}</div>
    `;
  }
  return html`
    <details class="card facts">
      <summary>${block.title}</summary>
      ${factList(block)}
    </details>
  `;
}

/** The first line of a cell, and the others smaller below it. */
const stacked = ([first = "", ...others]: string[]): Markup =>
  html`${first}${others.filter((text) => text !== "").map((text) => html`<small>${text}</small>`)}`;

function gridMarkup({ title, caption, header, numeric, rows, notes }: GridBlock): Markup {
  const name = (i: number) => numeric[i] ? "" : "text";
  const heads = header.map((cell, i) => html`<th scope="col" class="${name(i)}">${stacked(cell)}</th>`);
  const body = rows.map((row) => {
    const cells = row.map((cell, i) =>
      html`<td class="${name(i)}">${i === 0 ? html`<span class="name">${stacked(cell)}</span>` : stacked(cell)}</td>`
    );
    return html`<tr>${cells}</tr>`;
  });
  return html`
    <h3>${title}</h3>
    <div class="card scroll" tabindex="0" role="region" aria-label="${title}">
      <table class="pairs">
        <thead>
          <tr>${heads}</tr>
        </thead>
        <tbody>${body}</tbody>
      </table>
    </div>${caption === "" ? "" : html`<p class="caption">${caption}</p>`}${notesMarkup(notes)}
  `;
}

function figureMarkup(title: string, { wide, narrow }: DrawnChart): Markup {
  // Vega escapes names and values itself; its output is the one thing that goes into the page as it is.
  return html`
    <figure class="card" aria-label="${title}">
      <div class="wide">${raw(wide)}</div>
      <div class="narrow">${raw(narrow)}</div>
    </figure>
  `;
}

function blockMarkup(block: Block, drawings: Drawings): Markup {
  switch (block.kind) {
    case "line":
      return html`<p class="meta">${block.text}</p>`;
    case "warnings":
      return html`${block.texts.map((text) => html`<p class="warn">${text}</p>`)}`;
    case "facts":
      return factsMarkup(block);
    case "glance":
      return glanceCards(block);
    case "table":
      return block.id === "tasks"
        ? html`<details class="card"><summary>${block.title}</summary>${tableMarkup(block)}</details>`
        : html`<h3>${block.title}</h3>${tableMarkup(block)}`;
    case "grid":
      return gridMarkup(block);
    case "figures": {
      const drawn = block.charts.flatMap(({ name, title }) => {
        const own = drawings.get(name);
        return own === undefined ? [] : [figureMarkup(title, own)];
      });
      return html`
        <h3>${block.title}</h3>
        <div class="charts">${drawn}</div>
      `;
    }
  }
}

/** The page. Its content security policy allows no request and no script but its own.
 * @param drawings The document's figures, drawn. */
export async function toHtml({ title, sections }: ReportDocument, drawings: Drawings): Promise<string> {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(SCRIPT)));
  const policy = `default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-${digest.toBase64()}'`;
  const parts = sections.map(({ title, blocks }) =>
    html`<section>
<h2>${title}</h2>
${blocks.map((block) => blockMarkup(block, drawings))}
</section>`
  );
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
    ${parts}
        </main>
        <script>${raw(SCRIPT)}</script>
      </body>
    </html>
  `;
  return page.toString();
}
