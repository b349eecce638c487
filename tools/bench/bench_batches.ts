/** `deno task bench:batches [--model PATH] [--engine NAME] [--windows 300] [--length 256] [--sizes LIST] [--repeats 3]`: how
 * long scoring takes with batches of fixed sizes, and with the size that the scorer chooses by measurement, its trials
 * included.
 *
 * The windows are random ids (seeded). All ways are taken in turns in one process, after an untimed pass of each; the
 * largest difference of a token's log-probability between them is printed as well.
 *
 * @module
 */
import { parseArgs } from "@std/cli/parse-args";
import { wholeNumber } from "../../benchmarks/commands/command.ts";
import { createScorer } from "../../benchmarks/evaluation/scorer.ts";
import { startBestEngine, startEngine } from "../../core/engine/engine.ts";
import { unknownName } from "../../core/util/errors.ts";
import { at } from "../../core/util/indexing.ts";
import { createRng } from "../../core/util/rng.ts";
import { ENGINE_NAMES } from "../../core/schema/schema.ts";
import { median } from "../../core/util/stats.ts";
import { uploadModel } from "../../models/decoder.ts";
import { openModel } from "../../models/load.ts";
import { scoringModel } from "../../models/scoring.ts";
import { runTool } from "../run_tool.ts";

const HELP = "deno task bench:batches [--model PATH] [--engine NAME] [--windows 300] [--length 256] " +
  "[--sizes 128,256,512,1024,2048] [--repeats 3]";

async function start(name: string | undefined) {
  if (name === undefined) return (await startBestEngine()).engine;
  const known = ENGINE_NAMES.find((engine) => engine === name);
  if (!known) throw unknownName("engine", name, ENGINE_NAMES);
  return await startEngine(known);
}

/** Largest difference of two scorings, in nats. */
const difference = (a: readonly Float32Array[], b: readonly Float32Array[]): number =>
  a.reduce((most, row, i) => row.reduce((own, x, j) => Math.max(own, Math.abs(x - at(at(b, i), j))), most), 0);

async function main(): Promise<void> {
  const flags = parseArgs(Deno.args, {
    string: ["model", "engine", "windows", "length", "sizes", "repeats"],
    boolean: ["help"],
    default: { model: "tiny", windows: "300", length: "256", sizes: "128,256,512,1024,2048", repeats: "3" },
  });
  if (flags.help) return console.log(HELP);
  const [windows, length, repeats] = (["windows", "length", "repeats"] as const).map((name) =>
    wholeNumber(name, flags[name])
  );
  if (windows === undefined || length === undefined || repeats === undefined) return;
  const engine = await start(flags.engine);
  const { source, tokenizer } = await openModel(flags.model);
  const model = scoringModel(await uploadModel(source));
  source.close();
  const rng = createRng(0, "batches");
  const work = Array.from({ length: windows }, () => Int32Array.from({ length }, () => rng.integer(model.vocabSize)));
  const ways = [...flags.sizes.split(",").map((text: string) => wholeNumber("sizes", text)), null].map((
    batchTokens,
  ) => ({
    name: batchTokens === null ? "chosen" : String(batchTokens),
    batchTokens: batchTokens ?? undefined,
    seconds: [] as number[],
    used: [] as string[],
    scores: [] as Float32Array[],
  }));
  for (let i = 0; i <= repeats; i++) {
    for (const way of ways) {
      // A scorer of its own each time: trials belong to the time.
      const scorer = createScorer(model, tokenizer, way);
      const began = performance.now();
      way.scores = await scorer.tokenLogProbs(work);
      if (i > 0) way.seconds.push((performance.now() - began) / 1000);
      const trials = scorer.batchTrials().map((trial) => `${trial.tokens}: ${trial.tokensPerS.toFixed(0)}/s`);
      way.used.push(`${scorer.batchSizes().batchTokens}${trials.length > 0 ? ` after ${trials.join(", ")}` : ""}`);
    }
  }
  const best = Math.min(
    ...ways.filter(({ batchTokens }) => batchTokens !== undefined).map((way) => median(way.seconds)),
  );
  console.log(
    `${flags.model} on ${engine.library}, ${engine.device}: ${windows} windows of ${length} tokens, ${repeats} repeats`,
  );
  console.log("batch      median s (range)          tokens/s   over the best fixed   tokens used");
  for (const { name, batchTokens, seconds, used } of ways) {
    const own = median(seconds);
    const range = `${own.toFixed(2)} (${Math.min(...seconds).toFixed(2)} to ${Math.max(...seconds).toFixed(2)})`;
    const rate = (windows * length / own).toFixed(0);
    console.log(
      `${name.padEnd(9)}  ${range.padEnd(24)}  ${rate.padEnd(9)}  ${(own / best).toFixed(3).padEnd(20)}  ${
        batchTokens ?? used.slice(1).join("; ")
      }`,
    );
  }
  const [first, ...others] = ways;
  const nats = Math.max(...others.map(({ scores }) => difference(first?.scores ?? [], scores)));
  console.log(`log-probabilities differ by up to ${nats.toExponential(1)} nats`);
}

if (import.meta.main) await runTool(main);
