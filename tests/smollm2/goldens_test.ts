/** SmolLM2-135M (`deno task get:smollm2`) on the native engine against goldens from transformers and
 * lm-evaluation-harness. `MASKPRUNE_SMOLLM2` names the .gguf file; `MASKPRUNE_DATA` a folder with `wikitext2-tokens-valid.txt`,
 * `arc_easy.jsonl` and `openbookqa.jsonl`, which this project does not ship: without it those checks are listed as ignored.
 *
 * @module
 */
import { assert, assertEquals } from "@std/assert";
import { at } from "../../core/util/indexing.ts";
import { measureTask } from "../../benchmarks/evaluation/tasks.ts";
import { measurePerplexity } from "../../benchmarks/evaluation/perplexity.ts";
import { createScorer } from "../../benchmarks/evaluation/scorer.ts";
import { tokenLogProbs } from "../support/token_log_probs.ts";
import { startEngine } from "../../core/engine/engine.ts";
import { openModel } from "../../models/load.ts";
import { uploadModel, usualForm } from "../../models/device.ts";
import { scoringModel } from "../../models/scoring.ts";
import { onDevice } from "../support/device_models.ts";

/** Nats by which a log-probability may differ from transformers'. */
const TOLERANCE_NATS = 1e-3;

const path = Deno.env.get("MASKPRUNE_SMOLLM2");
if (!path) throw new Error("Set MASKPRUNE_SMOLLM2 to the .gguf file that `deno task get:smollm2` fetches");
const data = Deno.env.get("MASKPRUNE_DATA");

interface TextGolden {
  text: string;
  ids: number[];
  tokenLogProbs: number[];
}

interface TaskGolden {
  n: number;
  logLikelihoods: number[][];
}

function readGolden<T>(name: string): T {
  return JSON.parse(Deno.readTextFileSync(new URL(`../golden/${name}.json`, import.meta.url)));
}

const { whyNotFast } = await startEngine("tensorflow");
const { source, tokenizer } = await openModel(path);
const model = scoringModel(await uploadModel(source));
const scorer = createScorer(model, tokenizer);
source.close();

const options = { sanitizeOps: false, sanitizeResources: false };

Deno.test({
  name: "openModel() of SmolLM2-135M gives transformers' token ids",
  ...options,
  fn: () => {
    for (const { text, ids } of readGolden<{ texts: TextGolden[] }>("smollm2-135m").texts) {
      assertEquals(tokenizer.encode(text), ids);
      assertEquals(tokenizer.decode(ids), text);
    }
    assertEquals([tokenizer.addsBos, tokenizer.vocabSize, tokenizer.eosTokenId], [false, 49152, 2]);
  },
});

Deno.test({
  name: "log-probabilities of SmolLM2-135M agree with transformers",
  ...options,
  fn: async () => {
    for (const { text, ids, tokenLogProbs: theirs } of readGolden<{ texts: TextGolden[] }>("smollm2-135m").texts) {
      const ours = await tokenLogProbs(model, ids);
      assertEquals(ours.length, theirs.length);
      const worst = Math.max(...theirs.map((value, i) => Math.abs(value - at(ours, i))));
      assert(worst <= TOLERANCE_NATS, `"${text.slice(0, 40)}": a log-probability differs by ${worst} nats`);
    }
  },
});

Deno.test({
  name: "measurePerplexity() of SmolLM2-135M on 20 windows of WikiText-2 agrees with transformers",
  ignore: data === undefined,
  ...options,
  fn: async () => {
    const choice = { corpus: "wikitext2", split: "all", protocol: "a", windowTokens: 1024, maxWindows: 20 } as const;
    const result = await measurePerplexity(scorer, choice, { data });
    assertEquals(result.tokens, 275_027);
    assert(Math.abs(result.perplexity - 16.756) <= 0.01, `Perplexity must be 16.756: current ${result.perplexity}`);
  },
});

Deno.test({
  name: `fast arithmetic gives that perplexity within 0.5 %${whyNotFast === null ? "" : ` (not here: ${whyNotFast})`}`,
  ignore: data === undefined || whyNotFast !== null,
  ...options,
  fn: async () => {
    const engine = await startEngine("tensorflow", { arithmetic: "fast" });
    try {
      const { source } = await openModel(path);
      using rounded = await onDevice(source, usualForm(source, engine));
      source.close();
      const choice = { corpus: "wikitext2", split: "all", protocol: "a", windowTokens: 1024, maxWindows: 20 } as const;
      const { perplexity } = await measurePerplexity(createScorer(scoringModel(rounded), tokenizer), choice, { data });
      assert(Math.abs(perplexity / 16.756 - 1) <= 5e-3, `Perplexity must be near 16.756: current ${perplexity}`);
    } finally {
      await startEngine("tensorflow");
    }
  },
});

for (const task of ["arc_easy", "openbookqa"]) {
  Deno.test({
    name: `measureTask() of SmolLM2-135M on ${task} agrees with lm-evaluation-harness example by example`,
    ignore: data === undefined,
    ...options,
    fn: async () => {
      const golden = readGolden<TaskGolden>(`lm-eval-${task}`);
      const { scored } = await measureTask(scorer, task, { data, limit: golden.logLikelihoods.length });
      assertEquals(scored.length, golden.logLikelihoods.length);
      scored.forEach(({ scores }, i) => {
        const worst = Math.max(
          ...scores.map(({ logLikelihood }, j) => Math.abs(logLikelihood - at(at(golden.logLikelihoods, i), j))),
        );
        assert(worst <= TOLERANCE_NATS, `Example ${i}: a log-likelihood differs by ${worst} nats`);
      });
    },
  });
}
