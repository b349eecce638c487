import { assert, assertEquals, assertRejects } from "@std/assert";
import { at } from "../../core/util/indexing.ts";
import { batchBudget, scoreInBatches } from "../../benchmarks/evaluation/batches.ts";
import type { ScoredSequence } from "../../benchmarks/evaluation/requests.ts";
import { createScorer } from "../../benchmarks/evaluation/scorer.ts";
import type { ScoringModel } from "../../models/scoring.ts";
import { fakeLogProb, fakeModel, fakeTokenizer } from "../support/scoring_fakes.ts";

const OUT_OF_MEMORY = "OOM when allocating tensor with shape[512,49152]";

/** A fake model whose device holds `most` tokens; `sizes` keeps the sizes of the batches that it was asked for. */
function smallDevice(most: number, message = OUT_OF_MEMORY): ScoringModel & { sizes: number[] } {
  const model = fakeModel();
  const sizes: number[] = [];
  return {
    ...model,
    sizes,
    score: (batch, targets) => {
      sizes.push(batch.tokens.length);
      return batch.tokens.length > most ? Promise.reject(new Error(message)) : model.score(batch, targets);
    },
  };
}

/** Ten sequences of 9 inputs that begin differently. */
const sequences = Array.from({ length: 10 }, (_, s): ScoredSequence => ({
  ids: Array.from({ length: 10 }, (_, i) => 2 + s * 10 + i),
  scored: 1,
}));

async function scoreOn(model: ScoringModel, batchTokens: number): Promise<{ scores: number[]; possible: number }> {
  const scores: number[] = [];
  const possible = await scoreInBatches(sequences, {
    batchTokens,
    score: ({ batch, targets }) => model.score(batch, targets),
    take: ({ logProbs }, _batch, owners) => owners.forEach((owner, i) => scores[owner] = at(logProbs, i)),
  });
  return { scores, possible };
}

Deno.test("scoreInBatches() halves a batch that does not fit, and scores everything once", async () => {
  const model = smallDevice(30);
  const { scores, possible } = await scoreOn(model, 90);
  assertEquals(scores, sequences.map(({ ids }) => fakeLogProb(ids.slice(0, 9), at(ids, 9))));
  // 90 and 45 fail; in 22 there is room for two sequences.
  assertEquals(model.sizes, [90, 45, 18, 18, 18, 18, 18]);
  assertEquals(possible, 22);
});

Deno.test("scoreInBatches() makes a batch while the one before it is scored, and none before that", async () => {
  const events: string[] = [];
  // Rows are formed of the ids; how many are scored is looked up when a batch is made.
  const watched = sequences.slice(0, 3).map(({ ids }, s) => ({
    ids,
    get scored() {
      events.push(`make ${s}`);
      return 1;
    },
  }));
  let launched = 0;
  await scoreInBatches(watched, {
    batchTokens: 9,
    score: async () => {
      const own = launched++;
      events.push(`launch ${own}`);
      await Promise.resolve();
      events.push(`read ${own}`);
      return own;
    },
    take: (own) => events.push(`take ${own}`),
  });
  assertEquals(events, [
    "make 0",
    ...["launch 0", "make 1", "read 0", "take 0"],
    ...["launch 1", "make 2", "read 1", "take 1"],
    ...["launch 2", "read 2", "take 2"],
  ]);
});

Deno.test("scoreInBatches() gives up at a single sequence, and at once on any other error", async () => {
  const tooSmall = smallDevice(8);
  await assertRejects(() => scoreOn(tooSmall, 90), Error, OUT_OF_MEMORY);
  assertEquals(tooSmall.sizes, [90, 45, 18, 9]);
  const broken = smallDevice(8, "device lost");
  await assertRejects(() => scoreOn(broken, 90), Error, "device lost");
  assertEquals(broken.sizes, [90]);
});

Deno.test("scoreInBatches() gives up at a row that cannot be split", async () => {
  const context = Array.from({ length: 40 }, (_, i) => i + 2);
  const sizes: number[] = [];
  const attempt = scoreInBatches([50, 60, 70].map((id) => ({ ids: [...context, id, id], scored: 2 })), {
    batchTokens: 90,
    score: ({ batch }) => {
      sizes.push(batch.tokens.length);
      return Promise.reject(new Error(OUT_OF_MEMORY));
    },
    take: () => {},
  });
  await assertRejects(() => attempt, Error, OUT_OF_MEMORY);
  assertEquals(sizes, [43, 43]);
});

Deno.test("createScorer() does not ask again for what ran out of memory once", async () => {
  const model = smallDevice(30);
  const scorer = createScorer(model, fakeTokenizer(), { batchTokens: 90 });
  const first = await scorer.loglikelihood(sequences);
  assertEquals(scorer.batchTokens(), 22);
  model.sizes.length = 0;
  assertEquals(await scorer.loglikelihood(sequences), first);
  assert(Math.max(...model.sizes) <= 22, `batches of ${model.sizes}`);
});

Deno.test("batchBudget() is what a quarter of the free memory holds, a power of two between two bounds", () => {
  const budget = (free: number) => batchBudget({ fastTokens: 512, bytesPerToken: 1000, freeBytes: () => free });
  assertEquals([budget(400_000), budget(512_000)], [64, 128]);
  assertEquals([budget(0), budget(1e12)], [32, 512]);
});
