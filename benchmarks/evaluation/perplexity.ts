/** Perplexity of a corpus by three protocols whose numbers are not comparable with each other.
 *
 * - (a) SparseGPT, Wanda, GPTQ: the joined text is encoded once and cut into windows of L tokens without overlap; the
 *   rest is dropped. The loss of a window is the mean over its L - 1 predictions, and the perplexity exp of the mean
 *   over windows. If the model needs the beginning-of-sequence token, each window is that token and L - 1 of the text.
 * - (b) LLM-Pruner: the same windows (its L is 128); exp of the mean over all predictions. Equal to (a) for the same L
 *   and text, since all windows are equally long.
 * - (c) lm-evaluation-harness: each document alone, detokenised, every token scored once in rolling windows; per word
 *   and per byte of the raw document.
 *
 * Log-probabilities are computed in f32 and summed in f64.
 *
 * @module
 */
import { UsageError } from "../../core/util/errors.ts";
import { at } from "../../core/util/indexing.ts";
import { splitAtSpaces, utf8Length } from "../../core/util/python_text.ts";
import type { PerplexityChoice, PerplexityResult } from "../../core/schema/schema.ts";
import { mean, standardError } from "../../core/util/stats.ts";
import { cutWindow, encodeForWindows, textTokens, type Tokenizer } from "../../core/formats/tokenizer.ts";
import { checkProtocol, type Corpus } from "../../datasets/define.ts";
import { loadCorpus } from "../../datasets/load.ts";
import { getCorpus } from "../../datasets/mod.ts";
import { rollingBos, tokenizerBos } from "./requests.ts";
import { checkFinite, type Scorer } from "./scorer.ts";

/** One document of protocol (c) with its score. */
export interface ScoredDocument {
  /** Raw, as it stands in the file. */
  document: string;
  /** Detokenised, as scored. */
  text: string;
  /** Summed natural-log probability of the text's tokens. */
  logLikelihood: number;
  /** Pieces of the raw document between white space. */
  words: number;
  /** UTF-8 bytes of the raw document. */
  bytes: number;
}

/** Gets the scores of the documents of protocol (c). */
type OnDocuments = (scored: readonly ScoredDocument[]) => void;

/** The part of a result that depends on the protocol. */
type Measured = Omit<
  PerplexityResult,
  keyof PerplexityChoice | "dataset" | "tokenizerSha256" | "batchTokens" | "seconds"
>;

/** Windows of `length` ids without overlap, with the ids that open each; the rest at the end is dropped. */
export function cutWindows(
  tokenizer: Tokenizer,
  ids: readonly number[],
  length: number,
  most = Infinity,
): Int32Array[] {
  const own = textTokens(tokenizer, length);
  const count = Math.min(Math.floor(ids.length / own), most);
  return Array.from({ length: count }, (_, i) => cutWindow(tokenizer, ids, i * own, length));
}

/** Protocols (a) and (b). */
async function joinedText(
  scorer: Scorer,
  corpus: Corpus,
  texts: readonly string[],
  { protocol, windowTokens, maxWindows = Infinity }: PerplexityChoice,
): Promise<Measured> {
  const { tokenizer } = scorer;
  const ids = encodeForWindows(tokenizer, texts.join(corpus.joiner));
  const windows = cutWindows(tokenizer, ids, windowTokens, Math.min(maxWindows, corpus.maxWindows ?? Infinity));
  if (windows.length === 0) {
    throw new UsageError(
      `Corpus "${corpus.id}" has ${ids.length} tokens here, less than one window of ${windowTokens}: ` +
        "use a smaller windowTokens or more text",
    );
  }
  const scores = await scorer.loglikelihood(windows.map((ids) => ({ ids: [...ids], scored: ids.length - 1 })));
  const losses = scores.map(({ logLikelihood }) => -logLikelihood);
  const windowNll = losses.map((loss) => loss / (windowTokens - 1));
  const nllPerToken = protocol === "a"
    ? mean(windowNll)
    : losses.reduce((sum, loss) => sum + loss, 0) / (windows.length * (windowTokens - 1));
  const perplexity = Math.exp(nllPerToken);
  const stderr = standardError(windowNll);
  return {
    tokens: ids.length,
    windows: windows.length,
    droppedTokens: ids.length - windows.length * textTokens(tokenizer, windowTokens),
    nllPerToken,
    perplexity,
    perplexityStderr: stderr === null ? null : perplexity * stderr,
    windowNll,
    bosPolicy: tokenizer.windowStart.length > 0
      ? "at the start of each window, which this model needs"
      : `${tokenizerBos(tokenizer)}, at the start of the text only`,
  };
}

/** Protocol (c). */
async function wholeDocuments(
  scorer: Scorer,
  corpus: Corpus,
  texts: readonly string[],
  { windowTokens, maxWindows }: PerplexityChoice,
  onDocuments?: OnDocuments,
): Promise<Measured> {
  const documents = corpus.documents!(texts).slice(0, maxWindows);
  if (documents.length === 0) throw new UsageError(`Corpus "${corpus.id}" has no documents: use another corpus`);
  const shown = documents.map((document) => corpus.detokenise?.(document) ?? document);
  const scores = await scorer.loglikelihoodRolling(shown, { bos: "single", maxTokens: windowTokens });
  const scored = documents.map((document, i): ScoredDocument => ({
    document,
    text: at(shown, i),
    logLikelihood: at(scores, i).logLikelihood,
    words: splitAtSpaces(document).length,
    bytes: utf8Length(document),
  }));
  onDocuments?.(scored);
  const sum = (values: number[]) => values.reduce((total, value) => total + value, 0);
  const nll = -sum(scored.map(({ logLikelihood }) => logLikelihood));
  const tokens = sum(scores.map((score) => score.tokens));
  const words = sum(scored.map((one) => one.words));
  const bytes = sum(scored.map((one) => one.bytes));
  const wordPerplexity = Math.exp(nll / words);
  if (wordPerplexity === Infinity && bytes > 100 * words) {
    throw new UsageError(`"${corpus.id}" has too few spaces for perplexity per word: use protocol a or b`);
  }
  return {
    tokens,
    windows: documents.length,
    droppedTokens: 0,
    nllPerToken: nll / tokens,
    perplexity: wordPerplexity,
    perplexityStderr: null,
    windowNll: scored.map((one) => -one.logLikelihood / one.words),
    documentWords: scored.map((one) => one.words),
    documents: {
      words,
      bytes,
      wordPerplexity,
      bytePerplexity: Math.exp(nll / bytes),
      bitsPerByte: nll / bytes / Math.LN2,
    },
    bosPolicy: rollingBos("single", scorer.tokenizer),
  };
}

/** Measures one perplexity; `data` is the folder with data sets.
 * @throws {UsageError} when the corpus, its data or the protocol do not fit.
 * @throws {NumericError} when the model's output is not finite. */
export async function measurePerplexity(
  scorer: Scorer,
  choice: PerplexityChoice,
  { data, onDocuments }: { data?: string; onDocuments?: OnDocuments } = {},
): Promise<PerplexityResult> {
  const start = performance.now();
  const corpus = getCorpus(choice.corpus);
  checkProtocol(corpus, choice.protocol);
  if (choice.windowTokens > scorer.maxTokens) {
    throw new UsageError(
      `Windows of ${choice.windowTokens} tokens exceed the model's ${scorer.maxTokens} positions: use shorter ones`,
    );
  }
  const { texts, dataset } = await loadCorpus(corpus, { data, split: choice.split });
  const measure = choice.protocol === "c" ? wholeDocuments : joinedText;
  const measured = await measure(scorer, corpus, texts, choice, onDocuments);
  checkFinite(measured.perplexity, `perplexity of ${corpus.id}`);
  return {
    ...choice,
    dataset,
    ...measured,
    tokenizerSha256: scorer.tokenizer.sha256,
    batchTokens: scorer.batchTokens(),
    seconds: (performance.now() - start) / 1000,
  };
}
