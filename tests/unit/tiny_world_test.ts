import { fileURLToPath } from "node:url";
import { assert, assertEquals } from "@std/assert";
import { at } from "../../core/util/indexing.ts";
import { openModel } from "../../models/load.ts";
import { modelSize } from "../../models/count.ts";
import { loadCorpus, loadTask } from "../../datasets/load.ts";
import { tinyTasks, tinyWorld } from "../../datasets/tiny_world/mod.ts";
import { atEnd } from "../support/values.ts";

/** Sentences of a text, by their full stops alone. */
const sentencesOf = (text: string): string[] => text.match(/[^.\s][^.]*\./g) ?? [];

const SPLITS = ["train", "calibration", "validation", "test"];
const committed = new Map<string, string[]>();
for (const split of SPLITS) committed.set(split, (await loadCorpus(tinyWorld, { split })).texts);

Deno.test("texts of different splits share no sentence, and questions only those of the test split", async () => {
  const seen = new Map<string, string>();
  const check = (text: string, split: string) => {
    for (const sentence of sentencesOf(text)) {
      const other = seen.get(sentence) ?? split;
      assertEquals(other, split, `"${sentence}" is in ${other} and in ${split}`);
      seen.set(sentence, split);
    }
  };
  for (const [split, texts] of committed) texts.forEach((text) => check(text, split));
  assert(seen.size > 40_000, `only ${seen.size} sentences were compared`);
  for (const { id } of tinyTasks) {
    const file = new URL(`../../datasets/tiny_world/data/${id.replace("tiny-", "")}.jsonl`, import.meta.url);
    for (const line of (await Deno.readTextFile(file)).trim().split("\n")) {
      const { context, choices, gold, after } = JSON.parse(line);
      assertEquals(new Set(choices).size, choices.length, context);
      check(`${context} ${choices[gold]}${after}`, "test");
    }
  }
});

Deno.test("tinyTasks and tinyWorld read their committed data", async () => {
  for (const task of tinyTasks) {
    const { examples, dataset } = await loadTask(task);
    assertEquals(examples.length, 400, task.id);
    assertEquals(dataset.split, "test");
    for (const { choices, gold } of examples) {
      assert(gold < choices.length);
      assert(
        choices.every(({ context, continuation }) => context === at(choices, 0).context && /^ \S/.test(continuation)),
      );
    }
  }
  for (const split of SPLITS) assert(committed.get(split)!.length >= 500, split);
});

Deno.test("openModel() opens the bundled model: multi-head, 1 to 3 million parameters, at most 6 MB", async () => {
  const { source, tokenizer } = await openModel("tiny");
  using _end = atEnd(() => source.close());
  const { parameters } = modelSize(source.config);
  assert(parameters > 1e6 && parameters < 3e6, `${parameters} parameters`);
  assert(source.config.layers.every(({ queryHeadsPerGroup }) => queryHeadsPerGroup === 1));
  const folder = fileURLToPath(new URL("../../models/tiny/", import.meta.url));
  assert((await Deno.stat(`${folder}model.safetensors`)).size <= 6e6);
  assertEquals(tokenizer.addsBos, false);
  assertEquals([tokenizer.tokenText(0), tokenizer.tokenText(1)], ["<s>", "</s>"]);
  const text = committed.get("test")!.slice(0, 50).join(tinyWorld.joiner);
  const ids = tokenizer.encode(text);
  assertEquals(tokenizer.decode(ids), text);
  const words = text.split(/\s+/).length;
  assert(ids.length < 1.4 * words, `${ids.length} tokens for ${words} words`);
});
