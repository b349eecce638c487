/** What crosses between host and device: budgets of scoring and training. Decoding's are in step_test.ts. */
import { assert, assertEquals } from "@std/assert";
import { packBatches } from "../../benchmarks/evaluation/packing.ts";
import { disposeModel, uploadModel } from "../../models/device.ts";
import { scoringModel } from "../../models/scoring.ts";
import { testOnEngines } from "../support/engines.ts";
import { toyWindows } from "../support/method_context.ts";
import { toySource } from "../support/toy.ts";
import { countTraffic } from "../support/traffic.ts";

testOnEngines("the caller of score() goes on when the batch is launched, before it is read", async () => {
  const model = await uploadModel(toySource());
  const [packed] = packBatches(toyWindows(2, 20).map((ids) => ({ ids: [...ids], scored: ids.length - 1 })), 1024);
  assert(packed);
  const events: string[] = [];
  const { reads } = await countTraffic(
    async () => {
      const scores = scoringModel(model).score(packed.batch, packed.targets);
      events.push("caller");
      await scores;
    },
    (what) => events.push(what),
  );
  assertEquals(reads, 1);
  assertEquals(events.slice(events.lastIndexOf("launches") + 1), ["caller", "reads"]);
  disposeModel(model);
});

testOnEngines("scoring a batch reads once, however many rows go through the vocabulary", async () => {
  const model = await uploadModel(toySource());
  const scoring = scoringModel(model);
  for (const count of [2, 40]) {
    const sequences = toyWindows(count, 20).map((ids) => ({ ids: [...ids], scored: ids.length - 1 }));
    const [packed] = packBatches(sequences, 1024);
    assert(packed);
    const { reads, result } = await countTraffic(() => scoring.score(packed.batch, packed.targets));
    assertEquals([reads, result.logProbs.length, result.isGreedy.length], [1, 19 * count, 19 * count]);
  }
  disposeModel(model);
});
