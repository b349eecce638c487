/** The report as one HTML page that needs no network and no other file.
 *
 * @module
 */
import { html, raw } from "hono/html";
import {
  type Block,
  type FactsBlock,
  type GlanceBlock,
  groupsOf,
  type ReportDocument,
  type TableBlock,
  type TableCell,
  type TableColumn,
  type TableRow,
} from "./document.ts";
import { script, style } from "./html_assets.ts";
import { NEUTRAL } from "./palette.ts";

/** Figures as SVG, by name. */
type Drawings = ReadonlyMap<string, string>;

/** What `html` gives: text whose values are escaped already. */
type Markup = ReturnType<typeof html>;

/** Numbers stay with their units. */
const unbroken = (text: string) => text.replace(/ (%|×)/g, "\u00a0$1");

function glanceCards({ topics, lines }: GlanceBlock): Markup {
  const cards = lines.map(({ level, findings }) => {
    const entries = findings.map((found, i) =>
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
        <h3>${level}</h3>
        <dl>${entries}</dl>
      </div>
    `;
  });
  return html`
    <div class="levels">${cards}</div>
  `;
}

const smallLines = (texts: string[]) => texts.map((text) => html`<small>${text}</small>`);

function valueCell({ text, spread, place, sign, sort, below }: TableCell, { numeric }: TableColumn): Markup {
  const classes = [numeric ? "" : "text", ["", "best", "second"][place]].join(" ").trim();
  const value = place === 1 ? html`<b>${text}</b>` : place === 2 ? html`<u>${text}</u>` : text;
  const small = spread === "" ? "" : html`<span class="spread">${spread}</span>`;
  const mark = sign === "" ? "" : html`<span class="sign">${sign}</span>`;
  return html`<td class="${classes}" data-sort="${sort ?? ""}">${value}${small}${mark}${smallLines(below)}</td>`;
}

function tableRow(columns: TableColumn[], { cells, colour, failed }: TableRow, isFirst: boolean): Markup {
  const [name, ...others] = cells;
  const style = colour === NEUTRAL.dense ? "" : raw(` style="background:${colour}"`);
  const swatch = colour === null ? "" : html`
    <span class="swatch" ${style}></span>
  `;
  const label = html`<span class="name">${name?.text}${smallLines(name?.below ?? [])}</span>`;
  const known = failed ? others.slice(0, 1) : others;
  const rest = failed ? html`<td class="failed" colspan="${others.length - 1}">${failed.text}</td>` : "";
  return html`<tr class="${isFirst ? "first" : ""}"><td data-sort="${name?.text}">${swatch}${label}</td>${
    known.map((cell, i) => valueCell(cell, columns[i + 1]!))
  }${rest}</tr>`;
}

const ARROW = { higher: "\u00a0↑", lower: "\u00a0↓" };

function tableMarkup({ id, title, columns, rows, caption, legend, notes }: TableBlock): Markup {
  const heads = columns.map(({ header, detail, numeric, better }) =>
    html`<th scope="col" class="${numeric ? "" : "text"}"><button type="button"><span>${header}${
      better ? ARROW[better] : ""
    }</span>${detail === "" ? "" : smallLines(detail.split(", "))}</button></th>`
  );
  // A body per level: a page break comes between them.
  const bodies = groupsOf(rows).map((group) =>
    html`<tbody${group[0]?.group === "" ? raw(' class="dense"') : ""}>${
      group.map((row, i) => tableRow(columns, row, i === 0))
    }</tbody>`
  );
  const texts = [...legend, ...notes];
  return html`
    <div class="card scroll" tabindex="0" role="region" aria-label="${title}">
      <table class="sortable ${id}">
        <thead>
          <tr>${heads}</tr>
        </thead>
        ${bodies}
      </table>
    </div>
    ${id === "quality" ? html`<p class="caption">${caption}</p>` : ""}
    <ul class="notes">${texts.map((text) => html`<li>${text}</li>`)}</ul>
  `;
}

function factsMarkup({ isOpen, title, facts }: FactsBlock): Markup {
  const list = html`<dl>${
    facts.map(({ name, text }) =>
      html`
        <dt>${name}</dt>
        <dd>${text}</dd>
      `
    )
  }</dl>`;
  return isOpen
    ? html`
      <h3>${title}</h3>
      <div class="card facts">${list}</div>
    `
    : html`<details class="card facts"><summary>${title}</summary>${list}</details>`;
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
      return html`<h3>${block.title}</h3>${tableMarkup(block)}`;
    case "figures":
      // Vega escapes names and values itself; its output is the one thing that goes into the page as it is.
      return html`
        <h3>${block.title}</h3>
        <div class="charts">${block.charts.map(({ name, title }) =>
          html`<figure class="card" aria-label="${title}">${raw(drawings.get(name) ?? "")}</figure>`
        )}</div>
      `;
  }
}

/** The page. Its content security policy allows no request and no script but its own.
 * @param drawings The document's figures, drawn. */
export async function toHtml({ title, sections }: ReportDocument, drawings: Drawings): Promise<string> {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(script())));
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
        <style>${raw(style())}</style>
      </head>
      <body>
        <main>
    <h1>${title}</h1>
    ${parts}
        </main>
        <script>${raw(script())}</script>
      </body>
    </html>
  `;
  return page.toString();
}
