import * as tf from "@tensorflow/tfjs";
import { assertEquals, assertRejects } from "@std/assert";
import { closeSides, openSides, timeSides } from "../../benchmarks/timing/engine_turns.ts";
import type { Peer } from "../../benchmarks/timing/peer_process.ts";
import { UsageError } from "../../core/util/errors.ts";
import { at } from "../../core/util/indexing.ts";
import { ggufTokenizerMetadata } from "../../core/formats/tokenizer_gguf_write.ts";
import { exportGguf } from "../../models/export_gguf.ts";
import { openModel } from "../../models/load.ts";
import { testOnEngines } from "../support/engines.ts";
import { tempFolder } from "../support/weights_fixture.ts";

/** A peer that writes down what it is asked, and cannot open `refused`. */
function standInPeer(refused?: string): Peer & { questions: unknown[] } {
  const questions: unknown[] = [];
  return {
    questions,
    versions: "stand-in",
    ask: <Answer>(question: unknown) => {
      questions.push(question);
      if (refused !== undefined) return Promise.reject(new UsageError(refused));
      return Promise.resolve({ ms: questions.length } as Answer);
    },
    close: () => Promise.resolve(),
  };
}

testOnEngines("openSides() opens a file in both engines; closeSides() frees it", async (engine) => {
  using temp = tempFolder();
  const folder = temp.path;
  const file = `${folder}/tiny.gguf`;
  const { source, tokenizer, tokenizerDefinition } = await openModel("tiny");
  const metadata = ggufTokenizerMetadata(tokenizerDefinition, tokenizer, source.config.vocabSize);
  exportGguf(source, { to: file, type: "F32", tokenizer: metadata });
  source.close();
  const choice = { prefillTokens: 8, decodeTokens: 2, repeats: 2, batch: 1 };
  const before = tf.memory().numTensors;
  const peer = standInPeer();
  const sides = await openSides(file, { engine, peer }, choice);
  const results = await timeSides(sides, undefined, choice);
  await closeSides(sides);
  assertEquals(results.map(({ name, model }) => [name, model.oursMs.length]), [["pp8", 2], ["tg2", 2]]);
  assertEquals(at(results, 1).model.llamaCppMs, [6, 7]);
  const passes = (pass: string) => [0, 1, 2].map(() => ({ pass, of: file }));
  assertEquals(peer.questions, [
    { open: file, prefillTokens: 8, decodeTokens: 2, threads: engine.threads },
    ...passes("prefill"),
    ...passes("decode"),
    { close: file },
  ]);
  await assertRejects(
    () => openSides(file, { engine, peer: standInPeer("no such type") }, choice),
    UsageError,
    "no such type",
  );
  const message = "5000 tokens exceeds";
  await assertRejects(() => openSides(file, { engine, peer }, { ...choice, prefillTokens: 5000 }), UsageError, message);
  assertEquals(tf.memory().numTensors, before);
});
