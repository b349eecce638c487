/** Scores the bundled model, whole and damaged, with the evaluation core that every method is measured by.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import { measureTask } from "../../../benchmarks/evaluation/multiple_choice.ts";
import { measurePerplexity } from "../../../benchmarks/evaluation/perplexity.ts";
import { createScorer } from "../../../benchmarks/evaluation/scorer.ts";
import { createRng } from "../../../core/util/rng.ts";
import { tinyTasks } from "../../../datasets/tiny_world/mod.ts";
import { type DecoderConfig, queryHeads } from "../../../models/config.ts";
import { modelSize } from "../../../models/count.ts";
import { disposeModel, uploadModel } from "../../../models/decoder.ts";
import type { LayerMasks } from "../../../models/masks.ts";
import { openModel } from "../../../models/load.ts";
import { scoringModel } from "../../../models/scoring.ts";

/** Scores of one state of the model. */
export interface StateScores {
  /** Fraction of query heads and FFN channels of every layer that are masked at random. */
  masked: number;
  /** Protocol (a), windows of 128 tokens of the test text. */
  perplexity: number;
  perplexityStderr: number;
  tasks: { id: string; examples: number; accuracy: number; stderr: number; chance: number }[];
}

/** What the model card says. */
export interface TinyScores {
  config: DecoderConfig;
  parameters: number;
  testTokens: number;
  states: StateScores[];
}

/** Masks that remove `fraction` of the query heads and FFN channels of every layer at random; the caller frees them. */
export function randomMasks(config: DecoderConfig, fraction: number): LayerMasks[] {
  const rng = createRng(0, "tiny/damage");
  const mask = (units: number) => {
    const removed = Math.round(fraction * units);
    return tf.tensor1d(rng.shuffle(Array.from({ length: units }, (_, i) => i < removed ? 0 : 1)), "float32");
  };
  return config.layers.map((shape) => ({ queryHeads: mask(queryHeads(shape)), ffn: mask(shape.ffnChannels) }));
}

/** Scores the model in `folder` whole and with a fifth, a third and a half of its units masked; an engine must be running. */
export async function scoreTiny(folder: string): Promise<TinyScores> {
  const { source, tokenizer } = await openModel(folder);
  const { config } = source;
  const model = await uploadModel(source);
  source.close();
  const states: StateScores[] = [];
  let testTokens = 0;
  for (const masked of [0, 0.2, 0.35, 0.5]) {
    const masks = randomMasks(config, masked);
    const scorer = createScorer(scoringModel(model, { masks }), tokenizer);
    const result = await measurePerplexity(
      scorer,
      { corpus: "tiny-world", split: "test", protocol: "a", windowTokens: 128 },
      {},
    );
    testTokens = result.tokens;
    const tasks: StateScores["tasks"] = [];
    for (const { id } of tinyTasks) {
      const { result: { metrics: { acc }, samples, chance } } = await measureTask(scorer, id, {});
      if (acc === undefined) throw new Error(`"${id}" has no accuracy`);
      tasks.push({ id, examples: samples.effective, accuracy: acc.value, stderr: acc.stderr ?? 0, chance });
    }
    tf.dispose(masks.flatMap(({ queryHeads, ffn }) => [queryHeads!, ffn!]));
    states.push({ masked, perplexity: result.perplexity, perplexityStderr: result.perplexityStderr ?? 0, tasks });
    console.error(
      `masked ${masked}  perplexity ${result.perplexity.toFixed(3)}  ` +
        tasks.map(({ id, accuracy }) => `${id} ${accuracy.toFixed(3)}`).join("  "),
    );
  }
  disposeModel(model);
  return { config, parameters: modelSize(config).parameters, testTokens, states };
}
