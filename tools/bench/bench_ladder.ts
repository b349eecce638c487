/** `deno task bench:ladder [--model tiny] [--sparsity 0.2,0.3,0.4,0.5] [--steps 100] [--seeds 0] [--data DIR]
 * [--engine auto]`: what a ladder costs and loses against independent runs of mask-prune at every level.
 *
 * Both sweeps run through the ordinary harness on the same model, data and seeds; the table is made from their records.
 * Cost is tokens read in training, and seconds of training in both sweeps, against one independent run of the last level.
 *
 * @module
 */
import { join } from "node:path";
import { parseArgs } from "@std/cli/parse-args";
import { at } from "../../core/util/indexing.ts";
import { createProgress } from "../../benchmarks/sweep/progress.ts";
import { runSweep } from "../../benchmarks/sweep/sweep.ts";
import type { DoneRecord } from "../../core/schema/schema.ts";
import { runTool } from "../run_tool.ts";

const mean = (values: number[]) => values.reduce((a, b) => a + b, 0) / values.length;

/** Tokens and seconds of the last stretch of training of a record: what its own cell spent. */
function spent({ training = [] }: DoneRecord): { tokens: number; seconds: number } {
  const { tokens, seconds } = training.at(-1) ?? { tokens: 0, seconds: 0 };
  return { tokens, seconds };
}

function costOf(records: DoneRecord[]): { tokens: number; seconds: number } {
  const costs = records.map(spent);
  return { tokens: costs.reduce((sum, c) => sum + c.tokens, 0), seconds: costs.reduce((sum, c) => sum + c.seconds, 0) };
}

async function main(): Promise<void> {
  const flags = parseArgs(Deno.args, {
    string: ["model", "sparsity", "steps", "seeds", "data", "engine"],
    default: { model: "tiny", sparsity: "0.2,0.3,0.4,0.5", steps: "100", seeds: "0", engine: "auto" },
  });
  const levels = flags.sparsity.split(",").map(Number).toSorted((a: number, b: number) => a - b);
  const seeds = flags.seeds.split(",").map(Number);
  const corpus = flags.model === "tiny" ? "tiny-world" : "wikitext2";
  const folder = await Deno.makeTempDir({ prefix: "bench-ladder-" });
  try {
    const sweep = async (ladder: boolean): Promise<DoneRecord[]> => {
      const { records, failed } = await runSweep({
        model: flags.model,
        engine: flags.engine as "auto",
        methods: [{ id: "mask-prune" }],
        sparsity: levels,
        seeds,
        calibration: { corpus },
        training: { steps: Number(flags.steps), batch: 2, tokens: 128 },
        perplexity: [{ corpus, windowTokens: 128, maxWindows: 128 }],
        keepWeights: false,
        ladder,
        ...flags.data !== undefined && { data: flags.data },
        out: join(folder, ladder ? "ladder" : "independent"),
      }, { onEvent: createProgress() });
      if (failed > 0) throw new Error(`${failed} cells failed: the messages are above`);
      return records.filter((record) => record.state === "done" && record.cell.method !== null) as DoneRecord[];
    };
    const sides = { independent: await sweep(false), ladder: await sweep(true) };
    console.log("level   independent perplexity (tokens)   ladder perplexity (tokens so far)   ratio");
    const ofLevel = (records: DoneRecord[], level: number) => records.filter(({ cell }) => cell.sparsity === level);
    for (const level of levels) {
      const [own, shared] = [ofLevel(sides.independent, level), ofLevel(sides.ladder, level)];
      const perplexity = (records: DoneRecord[]) => mean(records.map((record) => at(record.perplexity, 0).perplexity));
      const tokens = (records: DoneRecord[]) => at(records, 0).training!.reduce((sum, stage) => sum + stage.tokens, 0);
      const [a, b] = [perplexity(own), perplexity(shared)];
      console.log(
        `${level}   ${a.toFixed(3)} (${tokens(own)})   ${b.toFixed(3)} (${tokens(shared)})   ${(b / a).toFixed(3)}`,
      );
    }
    const last = costOf(ofLevel(sides.independent, levels.at(-1)!));
    for (const [name, records] of Object.entries(sides)) {
      const cost = costOf(records);
      const [tokens, seconds] = [cost.tokens / last.tokens, cost.seconds / last.seconds];
      console.log(`${name}: ${tokens.toFixed(2)} x the tokens, ${seconds.toFixed(2)} x the seconds of the last level`);
    }
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

if (import.meta.main) await runTool(main);
