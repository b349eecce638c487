import { assert, assertEquals } from "@std/assert";
import { at } from "../../core/util/indexing.ts";
import { createTokenizer } from "../../core/formats/tokenizer.ts";
import { ggufTokenizerMetadata } from "../../core/formats/tokenizer_gguf_write.ts";
import { expectedTensors, type WeightSource } from "../../models/config.ts";
import { exportHfFolder } from "../../models/export.ts";
import { exportGguf } from "../../models/export_gguf.ts";
import { prunedSource } from "../../models/export_source.ts";
import { openModel } from "../../models/load.ts";
import { hostTensor, pruneModel } from "../../models/surgery.ts";
import { toyTokens } from "../support/toy.ts";
import { byteLevelDefinition, exportToy, PLANS } from "../support/export_fixture.ts";
import { withFolder } from "../support/weights_fixture.ts";
import { testOnEngines } from "../support/engines.ts";
import { freed, logitsOf, onDevice } from "../support/device_models.ts";

const TOKENS = toyTokens({ count: 17 });

async function sourceLogits(source: WeightSource): Promise<Float32Array> {
  using model = await onDevice(source);
  source.close();
  return await logitsOf(model, TOKENS);
}

/** Logits of what an export reads back as. */
async function readLogits(path: string): Promise<Float32Array> {
  return await sourceLogits((await openModel(path)).source);
}

/** Root mean square of the difference, relative to that of `expected`. */
function relativeError(actual: Float32Array, expected: Float32Array): number {
  const square = (values: Float32Array) => values.reduce((sum, value) => sum + value * value, 0);
  return Math.sqrt(square(actual.map((value, i) => value - at(expected, i))) / square(expected));
}

testOnEngines("exportHfFolder() and exportGguf() read back with the logits of the pruned model", async () => {
  const variants = [{}, { tiedHead: true, biases: ["output" as const] }];
  const plans = [PLANS.uniform, PLANS.shallow];
  for (const [options, plan] of variants.flatMap((each) => plans.map((plan) => [each, plan] as const))) {
    // 6 heads of 8 before, 2 or 4 after: H K is 48 and 16 or 32, never the width 64 or 20.
    const source = exportToy({ width: 64, ...options });
    using dense = await onDevice(source);
    using model = freed(pruneModel(dense, plan));
    const expected = await logitsOf(model, TOKENS);
    const pruned = prunedSource(source, plan);
    for (const name of expectedTensors(pruned.config).keys()) {
      assertEquals(pruned.read(name), await hostTensor(model, name), name);
    }
    await withFolder(async (folder) => {
      const definition = byteLevelDefinition();
      exportHfFolder(pruned, { to: `${folder}/hf`, dtype: "F32", tokenizer: definition, maxShardBytes: 50_000 });
      const tokenizer = ggufTokenizerMetadata(definition, createTokenizer(definition, "test"), 300);
      exportGguf(pruned, { to: `${folder}/f32.gguf`, type: "F32", tokenizer });
      exportGguf(pruned, { to: `${folder}/q8.gguf`, type: "Q8_0", tokenizer });
      assertEquals(await readLogits(`${folder}/hf`), expected);
      assertEquals(await readLogits(`${folder}/f32.gguf`), expected);
      // Each weight is off by 0.5 % of its spread; a few matrices in a row add up.
      const error = relativeError(await readLogits(`${folder}/q8.gguf`), expected);
      assert(error > 1e-4 && error < 0.03, `Q8_0 changed the logits by ${error}`);
    });
  }
});
