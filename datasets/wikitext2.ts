/** WikiText-2: line-level text for protocols (a) and (b), whole articles for protocol (c), and its detokeniser.
 *
 * @module
 */
import { PYTHON_SPACE, replaceEach, strip } from "../core/util/python_text.ts";
import type { Corpus } from "./define.ts";

/** Whether a line is the title of an article (` = Title = `) and not of a section (` = = Title = = `). */
function isTitle(line: string): boolean {
  const text = strip(replaceEach(replaceEach(line, "= = =", "==="), "= =", "=="));
  return text.startsWith("= ") && text.endsWith(" =");
}

/** The raw file of the records: lines of a text file, or rows of the Hub, which keep their line feed. An empty row of
 * the Hub is a blank line: a space and a line feed. */
function rawText(lines: readonly string[]): string {
  if (!lines.some((line) => line.endsWith("\n"))) return lines.join("\n");
  return lines.map((row) => row === "" ? " \n" : row).join("");
}

/** Articles of line-level records, as `EleutherAI/wikitext_document_level` makes them from the raw file. */
function wikitextPages(lines: readonly string[]): string[] {
  let page: string[] = [];
  const pages = [page];
  for (const line of rawText(lines).split("\n")) {
    if (isTitle(line)) pages.push(page = []);
    page.push(line);
  }
  const texts = pages.map((page) => page.join("\n"));
  return strip(texts[0] ?? "") === "" ? texts.slice(1) : texts;
}

/** Brackets and quotes that lose their inner spaces: opening, closing. */
const PAIRS = ([["\\(", "\\)"], ["\\[", "\\]"], ["{", "}"], ['"', '"'], ["'", "'"]] as const).map(([open, close]) =>
  new RegExp(`(${open})[${PYTHON_SPACE}]*([^${close}]*?)[${PYTHON_SPACE}]*(${close})`, "g")
);

/** WikiText in ordinary typography, rule by rule as in lm-evaluation-harness's `wikitext_detokenizer`. Its second rule
 * is a slip and hardly ever applies. */
export function wikitextDetokenise(text: string): string {
  text = replaceEach(text, "s '", "s'");
  text = text.replace(/\/' [0-9]\//g, () => "/'[0-9]/");
  for (const [from, to] of [[" @-@ ", "-"], [" @,@ ", ","], [" @.@ ", "."]] as const) {
    text = replaceEach(text, from, to);
  }
  for (const mark of [":", ";", ".", "!", "?", ","]) text = replaceEach(text, ` ${mark} `, `${mark} `);
  for (const pair of PAIRS) text = text.replace(pair, "$1$2$3");
  for (const [from, to] of [["= = = =", "===="], ["= = =", "==="], ["= =", "=="]] as const) {
    text = replaceEach(text, from, to);
  }
  text = replaceEach(text, " \u00b0 ", "\u00b0");
  for (const [from, to] of [[" \n", "\n"], ["\n ", "\n"], [" N ", " 1 "], [" 's", "'s"]] as const) {
    text = replaceEach(text, from, to);
  }
  return text;
}

const shared = { source: "Merity et al. 2016, arXiv:1609.07843", licence: "CC-BY-SA-3.0 and GFDL" };

/** WikiText-2 (raw), line by line. */
export const wikitext2: Corpus = {
  ...shared,
  id: "wikitext2",
  summary: "WikiText-2 raw: Wikipedia articles, records joined by an empty line",
  hub: { repo: "Salesforce/wikitext", config: "wikitext-2-raw-v1" },
  textField: "text",
  splits: {
    train: ["wikitext2-train.jsonl", "wikitext2-train.txt", "wiki.train.raw", "wiki.train.tokens"],
    validation: ["wikitext2-validation.jsonl", "wikitext2-validation.txt", "wiki.valid.raw", "wiki.valid.tokens"],
    test: ["wikitext2-test.jsonl", "wikitext2-test.txt", "wiki.test.raw", "wiki.test.tokens"],
  },
  wholeFiles: ["wikitext2.jsonl", "wikitext2.txt", "wikitext2-tokens-valid.txt"],
  evaluationSplit: "test",
  calibrationSplit: "train",
  joiner: "\n\n",
  calibrationJoiner: " ",
  startsArticle: isTitle,
  documents: wikitextPages,
  detokenise: wikitextDetokenise,
};

/** WikiText-2 (raw), page by page, for protocol (c). */
export const wikitext: Corpus = {
  ...shared,
  id: "wikitext",
  summary: "WikiText-2 raw, whole articles, for protocol (c) as in lm-evaluation-harness",
  hub: { repo: "EleutherAI/wikitext_document_level", config: "wikitext-2-raw-v1" },
  textField: "page",
  splits: {
    train: ["wikitext-train.jsonl"],
    validation: ["wikitext-validation.jsonl"],
    test: ["wikitext-test.jsonl", "wikitext.jsonl"],
  },
  evaluationSplit: "test",
  calibrationSplit: "train",
  documents: (pages) => [...pages],
  detokenise: wikitextDetokenise,
};
