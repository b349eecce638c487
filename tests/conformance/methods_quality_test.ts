/** Methods that look at data must beat chance on a model that has learned something: the bundled one. */
import { assert } from "@std/assert";
import { startEngine } from "../../core/engine/engine.ts";
import { drawCalibration } from "../../datasets/calibration.ts";
import { loadCorpus } from "../../datasets/load.ts";
import { getCorpus } from "../../datasets/mod.ts";
import type { Method, Statistics } from "../../methods/define.ts";
import { getMethod, parseOptions } from "../../methods/mod.ts";
import { disposeModel } from "../../models/device.ts";
import { openModel } from "../../models/load.ts";
import { pruneModel } from "../../models/surgery.ts";
import { startable } from "../support/engines.ts";
import { methodContext } from "../support/method_context.ts";
import { testedMethods } from "../support/own_methods.ts";
import { lossOf, onDevice } from "../support/device_models.ts";

const SPARSITY = 0.3;
const RANDOM_SEEDS = [0, 1, 2];
const CALIBRATION = { sequences: 16, tokens: 64 };
const HELD_OUT = { windows: 16, tokens: 64 };

Deno.test({
  name: "methods that read calibration data beat random pruning of the bundled model on held-out text",
  // Native addons and the worker of wasm live as long as the process.
  sanitizeOps: false,
  sanitizeResources: false,
  fn: async () => {
    const { methods } = await testedMethods();
    await startEngine(startable.includes("tensorflow") ? "tensorflow" : "wasm");
    const { source, tokenizer } = await openModel("tiny");
    const corpus = getCorpus("tiny-world");
    const { windows: calibration } = await drawCalibration({ corpus, tokenizer, ...CALIBRATION, seed: 0 });
    const { texts } = await loadCorpus(corpus, { split: "validation" });
    const ids = Int32Array.from(tokenizer.encode(texts.slice(0, 200).join("\n\n")));
    const heldOut = Array.from(
      { length: HELD_OUT.windows },
      (_, i) => ids.slice(i * HELD_OUT.tokens, (i + 1) * HELD_OUT.tokens),
    );
    using model = await onDevice(source);
    source.close();
    const cache = new Map<string, Statistics>();
    const lossAfter = async (method: Method, seed: number) => {
      const options = parseOptions(method, {});
      const context = methodContext({ model, options, calibration, sparsity: SPARSITY, seed, cache });
      const { plan, replaced } = await method.prune(context);
      const small = await pruneModel(model, plan, replaced);
      try {
        return await lossOf(small, heldOut);
      } finally {
        disposeModel(small);
      }
    };
    let best = Infinity;
    for (const seed of RANDOM_SEEDS) best = Math.min(best, await lossAfter(getMethod("random"), seed));
    // Methods that learn would have to train first; magnitude may lose against chance, as published for LLaMA-7B
    // (LLM-Pruner's table 1: L2 582.41, random 27.51).
    const informed = methods.filter(({ kind, needs }) => kind === "one-shot" && needs.calibration);
    for (const method of informed) {
      const loss = await lossAfter(method, 0);
      assert(loss < best, `${method.id} gives ${loss} nats a token: must be less than random pruning, ${best}`);
    }
  },
});
