/** Packs token sequences into batches. Sequences that begin alike share one row as a prefix tree; rows of similar
 * length share a batch.
 *
 * @module
 */
import { at } from "../../core/util/indexing.ts";
import type { TokenBatch } from "../../models/layers.ts";
import type { ScoredTargets } from "../../models/scoring.ts";
import type { ScoredSequence } from "./requests.ts";

/** A row: a shared prefix, then the rest of each sequence. The last id of a sequence is never an input. */
interface Row {
  /** Inputs in the shared prefix. */
  prefixLength: number;
  members: number[];
  length: number;
  /** Inputs of its longest sequence. */
  longest: number;
}

/** A batch and where its results belong. */
export interface PackedBatch {
  batch: TokenBatch;
  targets: ScoredTargets;
  /** Sequence of each target; a sequence's targets are in order. */
  owners: Int32Array;
}

const inputCount = ({ ids }: ScoredSequence) => ids.length - 1;

function commonPrefix(a: ScoredSequence, b: ScoredSequence, limit: number): number {
  const most = Math.min(limit, inputCount(a), inputCount(b));
  let length = 0;
  while (length < most && a.ids[length] === b.ids[length]) length++;
  return length;
}

/** Least share of its tokens that a shared row must save. Attention costs the square of a row's length, so sequences
 * that only begin with the same token stay apart. */
const LEAST_SAVING = 0.1;

/** Most that others may add to a row that one long sequence makes too long, such as choices after a few-shot prompt. */
const MOST_ADDED = 0.25;

/** Groups neighbouring sequences into rows of at most `rowTokens` tokens (a single sequence may be longer). */
function packRows(sequences: readonly ScoredSequence[], rowTokens: number): Row[] {
  const rows: Row[] = [];
  sequences.forEach((sequence, index) => {
    const inputs = inputCount(sequence);
    const row = rows.at(-1);
    if (row) {
      const prefixLength = commonPrefix(at(sequences, at(row.members, 0)), sequence, row.prefixLength);
      // Every earlier member repeats what the prefix loses.
      const length = row.length + (row.members.length - 1) * (row.prefixLength - prefixLength) + inputs - prefixLength;
      const longest = Math.max(row.longest, inputs);
      const most = Math.max(rowTokens, (1 + MOST_ADDED) * longest);
      if (length <= most && row.length + inputs - length >= LEAST_SAVING * length) {
        row.members.push(index);
        Object.assign(row, { prefixLength, length, longest });
        return;
      }
    }
    rows.push({ prefixLength: inputs, members: [index], length: inputs, longest: inputs });
  });
  return rows;
}

function buildBatch(rows: readonly Row[], sequences: readonly ScoredSequence[]): PackedBatch {
  const length = Math.max(...rows.map((row) => row.length));
  const size = rows.length * length;
  const tokens = new Int32Array(size);
  const positions = new Int32Array(size);
  const segments = new Int32Array(size);
  const targetRows: number[] = [];
  const targetIds: number[] = [];
  const owners: number[] = [];
  rows.forEach(({ prefixLength, members }, b) => {
    const start = b * length;
    const first = at(sequences, at(members, 0));
    for (let i = 0; i < prefixLength; i++) {
      tokens[start + i] = at(first.ids, i);
      positions[start + i] = i;
    }
    let next = start + prefixLength;
    members.forEach((member, branch) => {
      const { ids, scored } = at(sequences, member);
      const shift = next - prefixLength;
      for (let i = prefixLength; i < ids.length - 1; i++, next++) {
        tokens[next] = at(ids, i);
        positions[next] = i;
        segments[next] = branch + 1;
      }
      for (let i = ids.length - scored; i < ids.length; i++) {
        targetRows.push(i - 1 < prefixLength ? start + i - 1 : shift + i - 1);
        targetIds.push(at(ids, i));
        owners.push(member);
      }
    });
  });
  const isPlain = rows.every(({ members }) => members.length === 1);
  return {
    batch: { tokens, batch: rows.length, length, positions, ...isPlain ? {} : { segments } },
    targets: { rows: Int32Array.from(targetRows), ids: Int32Array.from(targetIds) },
    owners: Int32Array.from(owners),
  };
}

/** Most padding of a batch, as a share of the tokens that it may have: more costs as much as another batch. */
const MOST_PADDING = 1 / 32;

/** Batches of at most `batchTokens` tokens, padding included (a single longer row makes its own batch), longest rows
 * first, each made when it is asked for. Neighbouring sequences with a common beginning, such as the choices of one
 * example, are encoded once.
 *
 * Each sequence must have at least two ids and score at least one. */
export function* packBatches(sequences: readonly ScoredSequence[], batchTokens: number): Generator<PackedBatch, void> {
  const rows = packRows(sequences, batchTokens).sort((a, b) => b.length - a.length);
  let pending: Row[] = [];
  let padding = 0;
  for (const row of rows) {
    const { length } = pending[0] ?? row;
    padding += length - row.length;
    if (pending.length > 0 && ((pending.length + 1) * length > batchTokens || padding > MOST_PADDING * batchTokens)) {
      yield buildBatch(pending, sequences);
      [pending, padding] = [[], 0];
    }
    pending.push(row);
  }
  if (pending.length > 0) yield buildBatch(pending, sequences);
}
