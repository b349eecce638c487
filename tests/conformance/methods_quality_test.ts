/** Methods that look at data must beat chance on a model that has learned something: the bundled one. */
import { assert } from "@std/assert";
import { drawCalibration } from "../../datasets/calibration.ts";
import type { Method, Statistics } from "../../methods/define.ts";
import { getMethod, parseOptions } from "../../methods/mod.ts";
import { pruneModel } from "../../models/surgery.ts";
import { methodContext } from "../support/method_context.ts";
import { testedMethods } from "../support/own_methods.ts";
import { bundledModel, freed, lossOf } from "../support/device_models.ts";

Deno.test({
  name: "methods that read calibration data beat random pruning of the bundled model on held-out text",
  // Native addons and the worker of wasm live as long as the process.
  sanitizeOps: false,
  sanitizeResources: false,
  fn: async () => {
    const { methods } = await testedMethods();
    const { model: bundled, tokenizer, corpus, heldOut } = await bundledModel(16, 64);
    using model = bundled;
    const { windows: calibration } = await drawCalibration({ corpus, tokenizer, sequences: 16, tokens: 64, seed: 0 });
    const cache = new Map<string, Statistics>();
    const lossAfter = async (method: Method, seed: number) => {
      const options = parseOptions(method, {});
      const context = methodContext({ model, options, calibration, sparsity: 0.3, seed, cache });
      const { plan, replaced } = await method.prune(context);
      using small = freed(await pruneModel(model, plan, replaced));
      return await lossOf(small, heldOut);
    };
    let best = Infinity;
    for (const seed of [0, 1, 2]) best = Math.min(best, await lossAfter(getMethod("random"), seed));
    // Methods that learn would have to train first; magnitude may lose against chance, as published for LLaMA-7B
    // (LLM-Pruner's table 1: L2 582.41, random 27.51).
    const informed = methods.filter(({ kind, needs }) => kind === "one-shot" && needs.calibration);
    for (const method of informed) {
      const loss = await lossAfter(method, 0);
      assert(loss < best, `${method.id} gives ${loss} nats a token: must be less than random pruning, ${best}`);
    }
  },
});
