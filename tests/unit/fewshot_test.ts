import { fileURLToPath } from "node:url";
import { join } from "node:path";
import { assertEquals, assertRejects, assertThrows } from "@std/assert";
import { take } from "../support/values.ts";
import { at } from "../../core/util/indexing.ts";
import { measureTask } from "../../benchmarks/evaluation/tasks.ts";
import { createScorer, type Scorer } from "../../benchmarks/evaluation/scorer.ts";
import { UsageError } from "../../core/util/errors.ts";
import { choicesAfter } from "../../datasets/define.ts";
import { withFewshot } from "../../datasets/fewshot.ts";
import { loadTask } from "../../datasets/load.ts";
import { getTask } from "../../datasets/mod.ts";
import { fakeModel, fakeTokenizer } from "../support/scoring_fakes.ts";
import { folderTest } from "../support/weights_fixture.ts";

const fixtures = fileURLToPath(new URL("../../datasets/fixtures", import.meta.url));

const numbers = Array.from({ length: 1000 }, (_, i) => i);
const pick = (ids: number[]) => ({
  examples: ids.map((i) => ({ choices: choicesAfter(`Q${i}`, ["no", "yes"]), gold: i % 2 })),
  records: ids.map((i) => ({ i })),
});
const pool = pick(numbers);

// random.Random(1234).sample(range(1000), 5) twice gives 989, 796, 451, 119, 7 and 92, 932, 965, 961, 826.
Deno.test("withFewshot() draws as lm-evaluation-harness, anew for each example", () => {
  const scored = pick([0, 1]);
  const [first, second] = take(withFewshot(scored, pool, { count: 5, excludes: false }), 2);
  assertEquals(first.prefix, "Q989 yes\n\nQ796 no\n\nQ451 yes\n\nQ119 yes\n\nQ7 yes\n\n");
  assertEquals(second.prefix, "Q92 no\n\nQ932 no\n\nQ965 yes\n\nQ961 yes\n\nQ826 no\n\n");
  assertEquals(first.choices, at(scored.examples, 0).choices);
});

Deno.test("withFewshot() leaves the example itself out where the harness does", () => {
  // One more is drawn; without the example itself it is the last one that falls away.
  const drawn = [989, 796, 451, 119, 7];
  const prefix = (own: number) => at(withFewshot(pick([own]), pool, { count: 4, excludes: true }), 0).prefix;
  const text = (ids: number[]) => ids.map((id) => `Q${id} ${id % 2 ? "yes" : "no"}\n\n`).join("");
  assertEquals(prefix(0), text(drawn.slice(0, 4)));
  assertEquals(prefix(451), text(drawn.filter((id) => id !== 451)));
});

Deno.test("withFewshot() refuses a pool that is too small", () => {
  const refuse = (from: number[], options: { count: number; excludes: boolean }, message: string) =>
    assertThrows(() => withFewshot(pick([0]), pick(from), options), UsageError, message);
  refuse([0, 1], { count: 3, excludes: false }, "need a pool of 3");
  refuse([0, 1, 2], { count: 3, excludes: true }, "need a pool of 4");
  refuse([0, 0, 0], { count: 1, excludes: true }, "current 0");
});

folderTest("measureTask() puts solved examples of the training split before the context", async (data) => {
  for (const name of ["winogrande", "openbookqa"]) {
    await Deno.copyFile(join(fixtures, `${name}.jsonl`), join(data, `${name}.jsonl`));
  }
  const train = (await Deno.readTextFile(join(fixtures, "winogrande.jsonl"))).split("\n")[1];
  const another = { sentence: "Li fed _ twice.", option1: "Mo", option2: "Ed", answer: "1" };
  await Deno.writeTextFile(join(data, "winogrande-train.jsonl"), `${train}\n${JSON.stringify(another)}\n`);
  const contexts: string[] = [];
  const scorer: Scorer = {
    ...createScorer(fakeModel(), fakeTokenizer()),
    loglikelihood: (requests) => {
      contexts.push(...requests.map((request) => "context" in request ? request.context : ""));
      return Promise.resolve(requests.map(() => ({ logLikelihood: -1, isGreedy: false })));
    },
  };
  const { result } = await measureTask(scorer, "winogrande", { data, fewshot: 1 });
  assertEquals([result.numFewshot, result.fewshotDataset?.source], [1, "winogrande-train.jsonl"]);
  // The second example is itself in the pool: only the other one is left for it.
  assertEquals(contexts[2], "Li fed Mo twice.\n\nAna thanked Bea for the lift since Ana");
  await assertRejects(
    () => loadTask(getTask("openbookqa"), { data, fewshot: 1, cache: data }),
    UsageError,
    'The train split of "openbookqa" was not found in "' + data + '": looked for openbookqa-train.jsonl, ' +
      "openbookqa-train.parquet; `bench fetch openbookqa/train` downloads it",
  );
  await assertRejects(() => loadTask(getTask("tiny-facts"), { fewshot: 1 }), UsageError, "no training split");
});
