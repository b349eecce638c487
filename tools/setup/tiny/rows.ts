/** Training rows: an endless stream of freshly told documents, cut to length.
 *
 * @module
 */
import { at } from "../../../core/util/indexing.ts";
import { createRng } from "../../../core/util/rng.ts";
import type { Tokenizer } from "../../../core/formats/tokenizer.ts";
import { tellAnything } from "../../../datasets/tiny_world/stories.ts";
import { tellDocument } from "../../../datasets/tiny_world/telling.ts";
import type { TrainingBatch } from "./training.ts";

/** What stands between two documents of a text. */
export const JOINER = "\n\n";

/** Of four rows, one holds documents between the special tokens, as generation wants them; the others are plain text
 * that begins at the start of a document or anywhere in one, as evaluation windows do. */
const ROW_KINDS = ["marked", "anywhere", "start", "start"] as const;

/** Makes batches of training rows; `layout(step)` gives their number and length. */
export function trainingRows(
  tokenizer: Pick<Tokenizer, "encode" | "bosTokenId" | "eosTokenId">,
  seed: number,
  layout: (step: number) => { rows: number; length: number },
): (step: number) => TrainingBatch {
  const rng = createRng(seed, "tiny-world/training");
  const joiner = tokenizer.encode(JOINER);
  const document = () => tokenizer.encode(tellDocument(rng, "train", tellAnything).sentences.join(" "));
  function row(kind: (typeof ROW_KINDS)[number], length: number): number[] {
    const ids: number[] = [];
    const first = document();
    if (kind === "marked") ids.push(tokenizer.bosTokenId!, ...first);
    else ids.push(...kind === "anywhere" ? first.slice(rng.integer(first.length)) : first);
    const between = kind === "marked" ? [tokenizer.eosTokenId!, tokenizer.bosTokenId!] : joiner;
    while (ids.length < length) ids.push(...between, ...document());
    return ids.slice(0, length);
  }
  return (step) => {
    const { rows, length } = layout(step);
    const tokens = new Int32Array(rows * (length + 1));
    for (let r = 0; r < rows; r++) tokens.set(row(at(ROW_KINDS, r % ROW_KINDS.length), length + 1), r * (length + 1));
    return { tokens, rows, length };
  };
}
