import { assert, assertEquals, assertRejects } from "@std/assert";
import { at } from "../../core/util/indexing.ts";
import { UsageError } from "../../core/util/errors.ts";
import { type CalibrationOptions, drawCalibration } from "../../datasets/calibration.ts";
import { getCorpus } from "../../datasets/mod.ts";
import { fakeTokenizer } from "../support/scoring_fakes.ts";
import { known } from "../support/values.ts";
import { tempFolder } from "../support/weights_fixture.ts";

const words = (prefix: string, count: number) => Array.from({ length: count }, (_, i) => `${prefix}${i}`).join(" ");

/** Draws from `records` as the training split of corpus `id`. */
async function draw(
  id: string,
  field: string,
  records: string[],
  { windowStart, ...some }: Partial<CalibrationOptions> & { windowStart?: number[] } = {},
) {
  using temp = tempFolder();
  const data = temp.path;
  const file = at(known(getCorpus(id).splits.train), 0);
  await Deno.writeTextFile(`${data}/${file}`, records.map((text) => JSON.stringify({ [field]: text })).join("\n"));
  const tokenizer = fakeTokenizer({ windowStart });
  const options = { sequences: 20, tokens: 5, seed: 0, ...some };
  const { windows, dataset } = await drawCalibration({ corpus: getCorpus(id), tokenizer, data, ...options });
  return { texts: windows.map((ids) => tokenizer.decode([...ids])), windows, dataset };
}

Deno.test("drawCalibration() takes windows of the joined training text, the same for the same seed", async () => {
  const records = [words("a", 30), words("b", 30)];
  const { texts, windows, dataset } = await draw("ptb-test-space", "sentence", records);
  assertEquals([windows.length, dataset.split, dataset.source], [20, "calibration", "ptb-train.jsonl"]);
  for (const [i, text] of texts.entries()) {
    assertEquals(at(windows, i).length, 5);
    assert(records.join(" ").includes(text.trimStart()));
  }
  assertEquals((await draw("ptb-test-space", "sentence", records)).texts, texts);
  assert((await draw("ptb-test-space", "sentence", records, { seed: 1 })).texts.join() !== texts.join());
});

Deno.test("drawCalibration() takes each window of C4 from one record that is longer than it", async () => {
  const records = [words("a", 9), words("short", 5), words("b", 12)];
  const { texts } = await draw("c4", "text", records);
  for (const text of texts) assert(records.some((record) => record.includes(text.trimStart())));
  assert(!texts.join().includes("short"));
  assert(texts.some((text) => text.includes("a")) && texts.some((text) => text.includes("b")));
});

Deno.test("drawCalibration() opens every window where the model needs it, at the same places", async () => {
  const records = [words("a", 30), words("b", 30)];
  const rest = ["a", "b", "c", "d"].map((name) => words(name, 6));
  const cases = [
    { id: "ptb-test-space", field: "sentence", texts: records, options: {} },
    { id: "c4", field: "text", texts: records, options: {} },
    { id: "bookcorpus", field: "text", texts: rest, options: { draw: "distinct-rows", sequences: 4 } },
  ] as const;
  for (const { id, field, texts, options } of cases) {
    const plain = await draw(id, field, texts, { ...options, tokens: 5 });
    const opened = await draw(id, field, texts, { ...options, tokens: 6, windowStart: [0] });
    assertEquals(opened.windows.map((ids) => [...ids]), plain.windows.map((ids) => [0, ...ids]));
  }
});

Deno.test("drawCalibration() refuses text that is shorter than a window", async () => {
  for (const [id, field] of [["ptb-test-space", "sentence"], ["c4", "text"]] as const) {
    await assertRejects(() => draw(id, field, ["a b c"], { tokens: 9 }), UsageError, "has no window of 9 tokens");
  }
  await assertRejects(
    () => draw("c4", "text", [words("a", 3)], { tokens: 5, stream: "training c4" }),
    UsageError,
    'The training text of "c4" (c4-train.jsonl, 1 record) has no window of 5 tokens: use shorter windows',
  );
});

Deno.test("drawCalibration() takes one window from each of different records that are long enough, as LLM-Pruner", async () => {
  const records = ["a b c d", words("u", 5), words("v", 5), words("w", 9), "e f g h"];
  const rows = (seed: number) => draw("bookcorpus", "text", records, { sequences: 3, draw: "distinct-rows", seed });
  const first = (await rows(0)).texts;
  // A record of just as many tokens is its own window.
  const whole = [records[1], records[2]].filter((text) => first.some((window) => window.trim() === text));
  assertEquals(whole.length, 2);
  const starts = new Set<string>();
  for (let seed = 0; seed < 40; seed++) {
    const { texts, windows } = await rows(seed);
    assertEquals(windows.map(({ length }) => length), [5, 5, 5]);
    assertEquals(texts.map((text) => text.trim().charAt(0)).sort(), ["u", "v", "w"]);
    starts.add(texts.map((text) => text.trim()).find((text) => text.startsWith("w")) ?? "");
  }
  // Every place of the longer record, the last included.
  assertEquals(starts.size, 5);
  assertEquals((await rows(0)).texts, first);
  await assertRejects(
    () => draw("bookcorpus", "text", records, { sequences: 4, draw: "distinct-rows" }),
    UsageError,
    'The calibration text of "bookcorpus" (bookcorpus-train.jsonl) has 3 records of 5 tokens or more, but distinct-rows needs 4',
  );
});
