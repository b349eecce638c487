import { assertEquals, assertThrows } from "@std/assert";
import { checkLevels } from "../../benchmarks/configuration/checks.ts";
import { chooseMultiple } from "../../benchmarks/configuration/prepare.ts";
import { resolveConfig } from "../../benchmarks/configuration/resolve.ts";
import { UsageError } from "../../core/util/errors.ts";
import { type EngineName, type RunConfig, runConfigSchema, trainingSchema } from "../../core/schema/schema.ts";
import { getMethod, parseOptions, register } from "../../methods/mod.ts";
import { smallConfig } from "../support/weights_fixture.ts";

/** Checks levels of one method on a model of 4 layers. */
function check(id: string, options: Record<string, unknown>, changes: Partial<RunConfig> = {}): void {
  const layers = Array.from({ length: 4 }, () => ({ kvGroups: 8, queryHeadsPerGroup: 1, ffnChannels: 384 }));
  const methods = [{ id, options: parseOptions(getMethod(id), options) as Record<string, unknown> }];
  const run = runConfigSchema.parse({ methods: [{ id }], out: "unused", sparsity: [0.5], ...changes });
  checkLevels({ ...run, methods, ffnMultiple: 1 }, smallConfig({ width: 128, headSize: 16, layers }));
}

/** Methods and options that a level is refused for. */
const refuse = (message: string, ...given: Parameters<typeof check>) =>
  assertThrows(() => check(...given), UsageError, message);

Deno.test("checkLevels() refuses levels that units or layers cannot reach, and lets others pass", () => {
  check("random", {}, { sparsity: [0, 0.25, 0.9] });
  refuse("Sparsity 0.999 cannot be reached", "random", {}, { sparsity: [0.25, 0.999] });
  check("llm-pruner", { keepFirst: 1, keepLast: 1 }, { sparsity: [0.4] });
  const alone = `Method "llm-pruner": Sparsity 0.5 cannot be reached by pruning layers 1 to 2 of 4:`;
  refuse(alone, "llm-pruner", { keepFirst: 1, keepLast: 1 });
  const none = `Method "llm-pruner": keepFirst and keepLast must leave a layer to prune: current 3 + 1 of 4`;
  refuse(none, "llm-pruner", { keepFirst: 3, keepLast: 1 });
  // No cell of level 0 is run: it is the dense model's.
  check("llm-pruner", { keepFirst: 3, keepLast: 1 }, { sparsity: [0] });
});

Deno.test("checkLevels() refuses flap's biases besides least-squares compensation, and passes either alone", () => {
  const [both, none] = [{ compensate: "least-squares" as const }, { compensate: "none" as const }];
  check("flap", { biasCompensation: false }, both);
  check("flap", {}, none);
  refuse('Method "flap": its biases and --compensate least-squares', "flap", {}, both);
});

Deno.test("training without a loss is refused", () => {
  const none = { crossEntropy: 0, distillation: 0 };
  const run = { ...{ methods: [{ id: "flap" }], out: "unused", sparsity: [0.5] }, training: none };
  const resolve = () => resolveConfig([{ values: run, where: () => "--training" }]);
  assertThrows(resolve, UsageError, "--training: training.crossEntropy: one of the weights crossEntropy");
  trainingSchema.parse({ ...none, hidden: 1 });
});

Deno.test("checkLevels() refuses target shapes of sheared that are over the budget or do not fit the run", () => {
  // Half of the layers are half of the parameters.
  check("sheared", { targetLayers: 2, targetHidden: 128, targetHeads: 8, targetFfn: 384 });
  const large = 'Method "sheared": targetLayers=3,targetHeads=8,targetFfn=384 keeps 638976 of 851968';
  refuse(large, "sheared", { targetLayers: 3, targetHeads: 8, targetFfn: 384 });
  const training = trainingSchema.parse({ hidden: 0.5 });
  refuse("training.hidden=0.5 compares hidden states", "sheared", { targetHidden: 64 }, { training });
  check("sheared", {}, { training });
});

Deno.test("checkLevels() refuses fractions of multipruner that are more than all", () => {
  check("multipruner", { layers: 1, channels: 0 });
  refuse('Method "multipruner": layers + channels must be at most 1', "multipruner", { layers: 0.5 });
});

Deno.test("checkLevels() names the method of a user whose check throws", () => {
  const check = () => {
    throw new TypeError("no luck");
  };
  register({ ...getMethod("random"), id: "sample-check", check });
  refuse('Method "sample-check": no luck', "sample-check", {});
});

Deno.test("chooseMultiple() takes what suits the engine and the blocks of the model's file", () => {
  const auto = (engine: EngineName, ...dtypes: string[]) => chooseMultiple("auto", engine, dtypes);
  assertEquals([auto("wasm", "BF16", "F32"), auto("tensorflow", "BF16", "F32")], [1, 16]);
  assertEquals([auto("tensorflow", "F32", "Q8_0"), auto("wasm", "Q4_K", "Q8_0")], [32, 256]);
  assertEquals(chooseMultiple(3, "tensorflow", ["Q8_0"]), 3);
});
