import * as tf from "@tensorflow/tfjs";
import { assert } from "@std/assert";
import { atEnd, known, take } from "../support/values.ts";
import { measureTask } from "../../benchmarks/evaluation/tasks.ts";
import { measurePerplexity } from "../../benchmarks/evaluation/perplexity.ts";
import { createScorer } from "../../benchmarks/evaluation/scorer.ts";
import { tinyTasks } from "../../datasets/tiny_world/mod.ts";
import { createRng } from "../../core/util/rng.ts";
import { queryHeads } from "../../models/units.ts";
import { openModel } from "../../models/load.ts";
import { scoringModel } from "../../models/scoring.ts";
import { onDevice } from "../support/device_models.ts";
import { testOnEngines } from "../support/engines.ts";

const LIMIT = 80;
const TEXT = { corpus: "tiny-world", split: "test", protocol: "a", windowTokens: 128, maxWindows: 16 } as const;

testOnEngines("tiny: every task is well above chance, and half of the units missing shows", async () => {
  const { source, tokenizer } = await openModel("tiny");
  using model = await onDevice(source);
  source.close();
  const rng = createRng(0, "tiny/damage");
  const halfMask = (units: number) =>
    tf.tensor1d(rng.shuffle(Array.from({ length: units }, (_, i) => i < units / 2 ? 0 : 1)), "float32");
  const masks = model.config.layers.map((shape) => ({
    queryHeads: halfMask(queryHeads(shape)),
    ffn: halfMask(shape.ffnChannels),
  }));
  using _masks = atEnd(() => tf.dispose(masks.flatMap(({ queryHeads, ffn }) => [queryHeads, ffn])));
  const [whole, damaged] = take(
    [{}, { masks }].map((options) => createScorer(scoringModel(model, options), tokenizer)),
    2,
  );
  const [perplexity, damagedPerplexity] = [
    (await measurePerplexity(whole, TEXT, {})).perplexity,
    (await measurePerplexity(damaged, TEXT, {})).perplexity,
  ];
  assert(damagedPerplexity > 1.5 * perplexity, `perplexity ${perplexity}, damaged ${damagedPerplexity}`);
  let [mean, damagedMean] = [0, 0];
  for (const { id } of tinyTasks) {
    const { result: { metrics, chance } } = await measureTask(whole, id, { limit: LIMIT });
    const { result: worse } = await measureTask(damaged, id, { limit: LIMIT });
    const accuracy = known(metrics.acc).value;
    // The owners of things are at chance: the bundled model learns the other half of this task only.
    const part = id.includes("coreference") ? 0.3 : 0.5;
    assert(accuracy - chance > part * (1 - chance), `${id}: ${accuracy} with a chance of ${chance}`);
    mean += accuracy / tinyTasks.length;
    damagedMean += known(worse.metrics.acc).value / tinyTasks.length;
  }
  assert(mean - damagedMean > 0.15, `mean accuracy ${mean}, damaged ${damagedMean}`);
}, { except: ["cpu", "webgpu"] });
