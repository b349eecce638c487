/** Models on the device that are freed at the end of a block, and what they compute.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import { startEngine } from "../../core/engine/engine.ts";
import { loadCorpus } from "../../datasets/load.ts";
import { getCorpus } from "../../datasets/mod.ts";
import { forward, targetLogProbs } from "../../models/decoder.ts";
import { type DecoderModel, disposeModel, uploadModel } from "../../models/device.ts";
import type { TokenBatch } from "../../models/layers.ts";
import { nextTokens, scoredRows, windowBatch } from "../../models/training/batches.ts";
import { openModel } from "../../models/load.ts";
import { batchGradients } from "../../models/training/gradients.ts";
import { type HostMasks, uploadMasks } from "../../models/training/student.ts";
import { logits } from "../../models/vocabulary.ts";

/** The model, freed at the end of the block: `using small = freed(pruneModel(dense, plan))`. */
export function freed(model: DecoderModel): DecoderModel & Disposable {
  return Object.assign(model, { [Symbol.dispose]: () => disposeModel(model) });
}

/** The model of `source` on the device: `using model = await onDevice(source)`. */
export async function onDevice(...source: Parameters<typeof uploadModel>): Promise<DecoderModel & Disposable> {
  return freed(await uploadModel(...source));
}

/** Logits of a batch or of one sequence, [B T V], with masks as `forward()` takes them. */
export async function logitsOf(
  model: DecoderModel,
  given: Int32Array | TokenBatch,
  pass: Parameters<typeof forward>[2] = {},
): Promise<Float32Array> {
  const batch = given instanceof Int32Array ? { tokens: given, batch: 1, length: given.length } : given;
  const scores = tf.tidy(() => logits(model, forward(model, batch, pass)));
  const values = await scores.data<"float32">();
  scores.dispose();
  return values;
}

/** Mean nats per token on windows of held-out text. */
export async function lossOf(model: DecoderModel, windows: Int32Array[]): Promise<number> {
  const batch = windowBatch(windows);
  const rows = tf.tidy(() => scoredRows(forward(model, batch), batch));
  const { logProbs } = await targetLogProbs(model, rows, nextTokens(batch));
  rows.dispose();
  return -logProbs.reduce((sum, value) => sum + value, 0) / logProbs.length;
}

/** Cross entropy of a window with gates, and its gradients to them: layer by layer, in their order. */
export async function gateGradients(
  model: DecoderModel,
  gates: HostMasks[],
  window: Int32Array,
): Promise<{ loss: number; gradients: Float32Array[] }> {
  const masks = uploadMasks(gates);
  const variables = masks.flatMap((layer) => Object.values(layer) as tf.Tensor[]);
  const weights = { crossEntropy: 1, distillation: 0, temperature: 1, hidden: 0 };
  const { terms, gradients } = await batchGradients({ model, masks, windows: [window], weights, variables });
  tf.dispose(variables);
  return { loss: terms.total, gradients };
}

/** The bundled model on the native engine where it starts, its tokenizer, its corpus, and `count` windows of text that
 * it has not seen. Importing `engines.ts` starts engines: tools that import this file must not. */
export async function bundledModel(count: number, tokens: number) {
  const { startable } = await import("./engines.ts");
  await startEngine(startable.includes("tensorflow") ? "tensorflow" : "wasm");
  const { source, tokenizer } = await openModel("tiny");
  const corpus = getCorpus("tiny-world");
  const { texts } = await loadCorpus(corpus, { split: "validation" });
  const ids = Int32Array.from(tokenizer.encode(texts.join("\n\n")));
  const heldOut = Array.from({ length: count }, (_, i) => ids.slice(tokens * i, tokens * (i + 1)));
  const model = await onDevice(source);
  source.close();
  return { model, tokenizer, corpus, heldOut };
}
