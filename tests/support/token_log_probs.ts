import { packBatches } from "../../benchmarks/evaluation/packing.ts";
import { at } from "../../core/util/indexing.ts";
import type { ScoringModel } from "../../models/scoring.ts";

/** Natural-log probabilities of all of `ids` but the first: f32 [length - 1]. */
export async function tokenLogProbs(model: ScoringModel, ids: readonly number[]): Promise<Float32Array> {
  const { batch, targets } = at([...packBatches([{ ids, scored: ids.length - 1 }], ids.length)], 0);
  return (await model.score(batch, targets)).logProbs;
}
