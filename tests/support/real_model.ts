/** A real model on the native engine, or the one that `MASKPRUNE_ENGINES` names, for tests against goldens of other programs.
 *
 * @module
 */
import { assert, assertEquals } from "@std/assert";
import { createScorer, type Scorer } from "../../benchmarks/evaluation/scorer.ts";
import { startEngine } from "../../core/engine/engine.ts";
import type { EngineName } from "../../core/schema/schema.ts";
import { at } from "../../core/util/indexing.ts";
import { uploadModel, usualForm } from "../../models/device.ts";
import { openModel } from "../../models/load.ts";
import { scoringModel } from "../../models/scoring.ts";
import { onDevice } from "./device_models.ts";
import { tokenLogProbs } from "./token_log_probs.ts";

const ENGINE = (Deno.env.get("MASKPRUNE_ENGINES") || "tensorflow") as EngineName;

/** A text with the tokenizer's ids and the log-probability of each but the first. */
export interface TextGolden {
  text: string;
  ids: number[];
  tokenLogProbs: number[];
}

export function readGolden<T>(name: string): T {
  return JSON.parse(Deno.readTextFileSync(new URL(`../golden/${name}.json`, import.meta.url)));
}

/** The model in the file that the variable names; `deno task ${command}` fetches it. Checks of texts that this project
 * does not ship are listed as ignored unless `MASKPRUNE_DATA` names their folder. */
export async function realModel(variable: string, command: string) {
  const path = Deno.env.get(variable);
  if (!path) throw new Error(`Set ${variable} to the .gguf file that \`deno task ${command}\` fetches`);
  const data = Deno.env.get("MASKPRUNE_DATA");
  const { whyNotFast } = await startEngine(ENGINE);
  const { source, tokenizer } = await openModel(path);
  const decoder = await uploadModel(source);
  source.close();
  const model = scoringModel(decoder);
  const scorer = createScorer(model, tokenizer);

  const test = (name: string, fn: () => void | Promise<void>, ignore = false) =>
    Deno.test({ name, fn, ignore, sanitizeOps: false, sanitizeResources: false });

  async function assertTexts(texts: readonly TextGolden[], toleranceNats: number): Promise<void> {
    for (const { text, ids, tokenLogProbs: theirs } of texts) {
      assertEquals(tokenizer.encode(text), ids);
      assertEquals(tokenizer.decode(ids), text);
      const ours = await tokenLogProbs(model, ids);
      assertEquals(ours.length, theirs.length);
      const worst = Math.max(...theirs.map((value, i) => Math.abs(value - at(ours, i))));
      assert(worst <= toleranceNats, `"${text.slice(0, 40)}": a log-probability differs by ${worst} nats`);
    }
  }

  /** Tests of a perplexity, in exact arithmetic within 0.01, and where the machine has it in fast arithmetic. */
  function testPerplexity(what: string, expected: number, measure: (scorer: Scorer) => Promise<number>): void {
    test(`perplexity of ${what} agrees with transformers`, async () => {
      const perplexity = await measure(scorer);
      assert(Math.abs(perplexity - expected) <= 0.01, `Perplexity must be ${expected}: current ${perplexity}`);
    }, data === undefined);
    const missing = whyNotFast === null ? "" : ` (not here: ${whyNotFast})`;
    test(`fast arithmetic gives that perplexity within 0.5 %${missing}`, async () => {
      const engine = await startEngine(ENGINE, { arithmetic: "fast" });
      try {
        const { source } = await openModel(path!);
        using rounded = await onDevice(source, usualForm(source, engine));
        source.close();
        const perplexity = await measure(createScorer(scoringModel(rounded), tokenizer));
        assert(
          Math.abs(perplexity / expected - 1) <= 5e-3,
          `Perplexity must be near ${expected}: current ${perplexity}`,
        );
      } finally {
        await startEngine(ENGINE);
      }
    }, data === undefined || whyNotFast !== null);
  }

  return { tokenizer, decoder, scorer, data, test, assertTexts, testPerplexity };
}
