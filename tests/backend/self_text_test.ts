/** Text that a model samples for itself. */
import { assertEquals } from "@std/assert";
import { at } from "../../core/util/indexing.ts";
import { selfText } from "../../benchmarks/pipeline/self_text.ts";
import { testOnEngines } from "../support/engines.ts";
import { fakeTokenizer } from "../support/scoring_fakes.ts";
import { onDevice } from "../support/device_models.ts";
import { toySource } from "../support/toy.ts";

testOnEngines("selfText() begins each window as the model's windows begin, and samples the rest", async () => {
  using model = await onDevice(toySource({ seed: 4 }));
  const sample = async (windowStart: number[]) => {
    const loaded = { model, tokenizer: fakeTokenizer({ windowStart }) };
    const { windows } = await selfText(loaded, { sequences: 3, tokens: 6, seed: 0, stream: "calibration" }, {});
    return windows.map((ids) => [...ids]);
  };
  const [plain, opened] = [await sample([]), await sample([0])];
  assertEquals(opened.map((window) => at(window, 0)), [0, 0, 0]);
  // The same stream is sampled, one token less of it.
  assertEquals(opened.map((window) => window.slice(1)), plain.map((window) => window.slice(0, 5)));
  assertEquals(plain.map((window) => window.length), [6, 6, 6]);
});
