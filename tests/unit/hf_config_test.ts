import { assertEquals, assertThrows } from "@std/assert";
import { hfFamilyOf } from "../../models/families/mod.ts";
import fc from "fast-check";
import { at } from "../../core/util/indexing.ts";
import { FileFormatError, UsageError } from "../../core/util/errors.ts";
import { LINEAR_NAMES } from "../../models/config.ts";
import { fromHfConfig, toHfConfig } from "../../models/hf_config.ts";
import { smallConfig } from "../support/weights_fixture.ts";

/** `config.json` of Llama-3.2-1B as transformers 4 writes it, without what does not describe the model. */
const LLAMA_32_1B = JSON.parse(Deno.readTextFileSync(new URL("../golden/llama-3.2-1b-config.json", import.meta.url)));

Deno.test("fromHfConfig() reads Llama 3.2", () => {
  assertEquals(fromHfConfig(LLAMA_32_1B, "config.json"), {
    vocabSize: 128256,
    width: 2048,
    headSize: 64,
    layers: Array.from({ length: 16 }, () => ({ kvGroups: 8, queryHeadsPerGroup: 4, ffnChannels: 8192 })),
    tiedHead: true,
    biases: [],
    ropeBase: 500000,
    ropeScaling: {
      ...{ type: "llama3", factor: 32, lowFrequencyFactor: 1, highFrequencyFactor: 4 },
      originalMaxPositions: 8192,
    },
    normEpsilon: 1e-5,
    maxPositions: 131072,
    bosTokenId: 128000,
    eosTokenId: 128001,
  });
});

Deno.test("fromHfConfig() takes transformers' defaults for what old files leave out", () => {
  // LLaMA-7B's first config.json had no more than this.
  const old = {
    ...{ model_type: "llama", vocab_size: 32000, hidden_size: 4096, intermediate_size: 11008 },
    ...{ num_hidden_layers: 32, num_attention_heads: 32 },
  };
  const config = fromHfConfig(old, "config.json");
  assertEquals(config.layers[0], { kvGroups: 32, queryHeadsPerGroup: 1, ffnChannels: 11008 });
  assertEquals([config.headSize, config.ropeBase, config.normEpsilon, config.maxPositions], [128, 10000, 1e-6, 2048]);
  assertEquals([config.tiedHead, config.biases, config.bosTokenId, config.ropeScaling], [false, [], null, undefined]);
});

Deno.test("fromHfConfig() reads rope_parameters, the older scaling key, lists of token ids and biases", () => {
  const { rope_theta: _, rope_scaling: __, ...rest } = LLAMA_32_1B;
  const rope_parameters = { ...LLAMA_32_1B.rope_scaling, rope_theta: 500000 };
  assertEquals(fromHfConfig({ ...rest, rope_parameters }, "c"), fromHfConfig(LLAMA_32_1B, "c"));
  assertEquals(fromHfConfig({ ...rest, rope_parameters: { rope_type: "default", rope_theta: 7 } }, "c").ropeBase, 7);
  const linear = fromHfConfig({ ...LLAMA_32_1B, rope_scaling: { type: "linear", factor: 2 } }, "c");
  assertEquals(linear.ropeScaling, { type: "linear", factor: 2 });
  assertEquals(fromHfConfig({ ...LLAMA_32_1B, eos_token_id: [128001, 128008] }, "c").eosTokenId, 128001);
  const biased = fromHfConfig({ ...LLAMA_32_1B, attention_bias: true, mlp_bias: true }, "c");
  assertEquals(biased.biases, [...LINEAR_NAMES]);
});

Deno.test("fromHfConfig() reads a Mistral without a sliding window as the same decoder", () => {
  const own = { model_type: "mistral", architectures: ["MistralForCausalLM"], sliding_window: null };
  const mistral = { ...LLAMA_32_1B, ...own };
  assertEquals(fromHfConfig(mistral, "c"), { ...fromHfConfig(LLAMA_32_1B, "c"), family: "mistral" });
  const { num_key_value_heads: _, max_position_embeddings: __, ...old } = mistral;
  const { layers, maxPositions } = fromHfConfig(old, "c");
  assertEquals([at(layers, 0).kvGroups, at(layers, 0).queryHeadsPerGroup, maxPositions], [8, 4, 131072]);
});

Deno.test("toHfConfig() says Mistral where transformers accepts no Llama with so many heads", () => {
  const config = smallConfig({ width: 10 });
  const { architectures, model_type, sliding_window } = toHfConfig(config);
  assertEquals([architectures, model_type, sliding_window], [["MistralForCausalLM"], "mistral", null]);
  assertEquals(toHfConfig(smallConfig({ width: 12 })).model_type, "llama");
});

Deno.test("fromHfConfig() names what it does not support", () => {
  const cases: [Record<string, unknown>, string][] = [
    [{ model_type: "gpt2" }, `model_type "gpt2" is not supported: must be "llama", "mistral", "qwen2"`],
    [{ model_type: "mistral" }, `architecture "LlamaForCausalLM" is not supported: must be "MistralForCausalLM"`],
    [{ model_type: undefined }, "model_type (none) is not supported"],
    [{ architectures: ["LlamaForSequenceClassification"] }, `architecture "LlamaForSequenceClassification"`],
    [{ hidden_act: "gelu" }, `hidden_act "gelu" is not supported: must be "silu"`],
    [{ rope_scaling: { rope_type: "longrope", factor: 4 } }, `RoPE type "longrope" is not supported`],
    [{ partial_rotary_factor: 0.5 }, `partial_rotary_factor 0.5 is not supported`],
    [{ quantization_config: { quant_method: "gptq" } }, `quantized weights ("gptq") are not supported`],
  ];
  for (const [change, message] of cases) {
    assertThrows(() => fromHfConfig({ ...LLAMA_32_1B, ...change }, "config.json"), UsageError, message);
  }
});

Deno.test("fromHfConfig() refuses values that make no sense", () => {
  const cases: [Record<string, unknown>, string][] = [
    [{ hidden_size: undefined }, `"hidden_size" is missing: must be a whole number from 1 to`],
    [{ hidden_size: "2048" }, `"hidden_size" is "2048"`],
    [{ num_hidden_layers: 1e6 }, `"num_hidden_layers" is 1000000: must be a whole number from 1 to 1024`],
    [{ vocab_size: 2 ** 31 }, `"vocab_size" is`],
    [{ num_key_value_heads: 5 }, `"num_attention_heads" is 32: must be a multiple of "num_key_value_heads" 5`],
    [{ num_attention_heads: 24, head_dim: null }, `"head_dim" is missing`],
    [{ head_dim: 65 }, "the head size is 65: must be even"],
    [{ rms_norm_eps: -1 }, `"rms_norm_eps" is -1: must be a positive number`],
    [{ tie_word_embeddings: "yes" }, `"tie_word_embeddings" is "yes": must be true or false`],
    [{ rope_scaling: 4 }, `"rope_scaling" must be an object or null`],
    [{ rope_scaling: { rope_type: "linear" } }, `"rope_scaling.factor" is missing`],
    [{ rope_scaling: { ...LLAMA_32_1B.rope_scaling, low_freq_factor: 4 } }, "must be greater than"],
    [{ bos_token_id: 128256 }, `"bos_token_id" is 128256: must be null or in [0, 128256)`],
  ];
  for (const [change, message] of cases) {
    assertThrows(() => fromHfConfig({ ...LLAMA_32_1B, ...change }, "config.json"), FileFormatError, message);
  }
});

Deno.test("toHfConfig() is the inverse of fromHfConfig()", () => {
  const count = (max: number) => fc.integer({ min: 1, max });
  const scaling = fc.oneof(
    fc.constant(undefined),
    fc.record({ type: fc.constant("linear" as const), factor: count(8) }, { noNullPrototype: true }),
    fc.record({
      type: fc.constant("llama3" as const),
      factor: count(32),
      lowFrequencyFactor: fc.constant(1),
      highFrequencyFactor: fc.constant(4),
      originalMaxPositions: count(8192),
    }, { noNullPrototype: true }),
  );
  const shape = fc.record(
    { kvGroups: count(8), queryHeadsPerGroup: count(4), ffnChannels: count(999) },
    { noNullPrototype: true },
  );
  fc.assert(
    fc.property(shape, count(9), count(64), count(99), fc.boolean(), fc.boolean(), scaling, (...parts) => {
      const [layer, layers, half, width, tiedHead, isBiased, ropeScaling] = parts;
      const config = smallConfig({
        layers: Array.from({ length: layers }, () => ({ ...layer })),
        headSize: 2 * half,
        width,
        tiedHead,
        biases: isBiased ? [...LINEAR_NAMES] : [],
        ...ropeScaling && { ropeScaling },
      });
      const { family, ...read } = fromHfConfig(JSON.parse(JSON.stringify(toHfConfig(config))), "c");
      assertEquals(read, config);
      assertEquals(family, hfFamilyOf(config).reason ? "mistral" : undefined);
    }),
    { numRuns: 200 },
  );
});

Deno.test("toHfConfig() refuses what a Llama config.json cannot describe", () => {
  const message = "Only output, down have a bias";
  assertThrows(() => toHfConfig(smallConfig({ biases: ["output", "down"] })), UsageError, message);
});
