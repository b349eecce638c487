import { assert, assertEquals } from "@std/assert";
import { at } from "../../core/util/indexing.ts";
import type { DecoderConfig } from "../../models/config.ts";
import { canStep, disposeCache, extend, type Extension, type KvCache } from "../../models/decode.ts";
import { forward, targetLogProbs } from "../../models/decoder.ts";
import { type DecoderModel } from "../../models/device.ts";
import { greedyTokens } from "../../models/generate.ts";
import { assertClose, testOnEngines } from "../support/engines.ts";
import { toyConfig, toySource, toyTokens } from "../support/toy.ts";
import { countTraffic } from "../support/traffic.ts";
import { onDevice } from "../support/device_models.ts";

const ROPE = { base: 10_000 };

/** What families differ in, all of it once. */
const CONFIGS: Record<string, Partial<DecoderConfig>> = {
  "plain, untied": { tiedHead: false },
  "biases and head norms": { biases: ["query", "key", "value"], headNorms: true, tiedHead: true },
  "GELU, norms of outputs, a window, two bases": {
    activation: "gelu-tanh",
    outputNorms: true,
    headNorms: true,
    embeddingScale: 3,
    attentionScale: 0.3,
    attention: toyConfig().layers.map((_, l) => ({
      rope: { base: l === 0 ? 100 : 10_000 },
      window: l === 0 ? 5 : null,
    })),
  },
  "factors, a layer without rotation": {
    residualScale: 0.4,
    logitScale: 0.5,
    attention: toyConfig().layers.map((_, l) => ({ rope: l === 0 ? null : ROPE, window: null })),
  },
};

/** Log-probabilities of all ids of a sequence but the first, each from a step of one position. */
async function steppedLogProbs(model: DecoderModel, ids: Int32Array): Promise<number[]> {
  const all: number[] = [];
  let cache: KvCache | null = null;
  for (let i = 0; i + 1 < ids.length; i++) {
    const grown: Extension = extend(model, ids.slice(i, i + 1), 1, cache);
    cache = grown.cache;
    const { logProbs } = await targetLogProbs(model, grown.states, ids.slice(i + 1, i + 2));
    grown.states.dispose();
    all.push(...logProbs);
  }
  if (cache) disposeCache(cache);
  return all;
}

for (const [name, config] of Object.entries(CONFIGS)) {
  testOnEngines(`decoding gives what scoring gives: ${name}`, async (engine) => {
    using model = await onDevice(toySource({ ...config, seed: 3 }));
    assertEquals(canStep(model, 1), engine.decoderOps);
    const prompts = [toyTokens({ count: 9, seed: 1 }), toyTokens({ count: 9, seed: 2 })];
    const steps = 70;
    const batch = prompts.length;
    const all = Int32Array.from(prompts.flatMap((ids) => [...ids]));
    const start = await greedyTokens(model, all, { batch, steps: 1 });
    const { tokens, cache } = await greedyTokens(model, start.tokens, { batch, steps, cache: start.cache });
    assert(cache);
    assertEquals(cache.length, 9 + steps);
    for (const [b, prompt] of prompts.entries()) {
      const continued = [...start.tokens, ...tokens].filter((_, i) => i % 2 === b);
      const sequence = Int32Array.from([...prompt, ...continued]);
      const length = sequence.length - 1;
      const hidden = forward(model, { tokens: sequence.slice(0, length), batch: 1, length });
      const { isGreedy, logProbs } = await targetLogProbs(model, hidden, sequence.slice(1));
      hidden.dispose();
      assertEquals(isGreedy.slice(8), Array(steps + 1).fill(true));
      assertClose(await steppedLogProbs(model, sequence), logProbs, { atol: 1e-4, rtol: 0 });
    }
    disposeCache(cache);
  });
}

testOnEngines("decoding N tokens reads once, and steps through a layer in one operation", async (engine) => {
  using model = await onDevice(toySource({ layers: Array(4).fill(at(toyConfig().layers, 0)) }));
  const first = Int32Array.of(1, 2);
  const decode = (steps: number) =>
    countTraffic(async () => {
      const { cache } = await greedyTokens(model, first, { batch: first.length, steps });
      if (cache) disposeCache(cache);
    });
  const [short, long] = [await decode(10), await decode(30)];
  assertEquals([short.reads, long.reads], [1, 1]);
  const perToken = (long.launches - short.launches) / 20;
  const layers = model.layers.length;
  // Embedding, final norm, logits, best token; on the other engines a layer takes what its products and sums take.
  assert(perToken <= (engine.decoderOps ? layers + 6 : 60 * layers + 20), `${perToken} operations a token`);
  // The angles, the place, and what TensorFlow.js writes for axes; nothing that grows with the layers.
  if (engine.decoderOps) assert((long.writes - short.writes) / 20 <= 6, `${(long.writes - short.writes) / 20} writes`);
});
