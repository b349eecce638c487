/** `deno task check:plan [--model FILE]`: the memory that `bench run --dry-run` plans for cells beside what their processes
 * took, on the bundled model (wasm), on FILE, such as SmolLM2-135M, where it is given (tensorflow), and on a random model of
 * LLaMA's shape with 0.22 B parameters (tensorflow): the dense model, one that is cut, one that is recovered, and one whose
 * masks are learned.
 *
 * Exit codes: 0 each is within the limit, 1 one is not, 2 wrong use.
 *
 * @module
 */
import { parseArgs } from "@std/cli/parse-args";
import { join } from "node:path";
import { addTokenizer, llamaConfig, writeCheckpoint } from "./random_checkpoint.ts";
import { processBytes } from "../../benchmarks/cells/cell_plan.ts";
import { bytesWords } from "../../benchmarks/commands/dry_run.ts";
import { resolveConfig } from "../../benchmarks/configuration/resolve.ts";
import { planRun } from "../../benchmarks/sweep/plan_run.ts";
import { type RunConfigInput, runSweep } from "../../benchmarks/sweep/sweep.ts";
import type { EngineName } from "../../core/schema/schema.ts";
import { runTool } from "../run_tool.ts";

/** Largest error of a plan, as a fraction of what was measured. */
const LIMIT = 0.15;

const RANDOM = llamaConfig({
  width: 1024,
  headSize: 64,
  layers: 12,
  layer: { kvGroups: 16, queryHeadsPerGroup: 1, ffnChannels: 2816 },
  maxPositions: 1024,
});

/** A row of the table. */
interface Row {
  model: string;
  label: string;
  plannedBytes: number;
  measuredBytes: number;
}

async function compare(name: string, config: RunConfigInput): Promise<Row[]> {
  const checked = resolveConfig([{ values: config, where: () => "configuration" }]);
  const { cells } = await planRun(checked, () => {}, { elsewhere: false });
  const { records } = await runSweep(config);
  return cells.flatMap(({ named, label, plan }): Row[] => {
    const record = records.find(({ id }) => id === named.id);
    if (record?.state !== "done") throw new Error(`${name}, ${label}: ${record?.failure.message ?? "no record"}`);
    const plannedBytes = processBytes(plan, record.environment.engine);
    return [{ model: name, label, plannedBytes, measuredBytes: record.memory.peakBytes }];
  });
}

async function main(): Promise<number> {
  const model: string | undefined = parseArgs(Deno.args, { string: ["model"] }).model;
  const folder = Deno.makeTempDirSync();
  const rows: Row[] = [];
  try {
    const random = join(folder, "random");
    Deno.mkdirSync(random);
    writeCheckpoint(random, RANDOM);
    addTokenizer(random);
    const models: { name: string; path: string; engine: EngineName }[] = [{
      name: "tiny",
      path: "tiny",
      engine: "wasm",
    }];
    if (model !== undefined) models.push({ name: "given", path: model, engine: "tensorflow" });
    models.push({ name: "random, 0.22 B", path: random, engine: "tensorflow" });
    for (const { name, path, engine } of models) {
      const common = {
        model: path,
        engine,
        sparsity: 0.25,
        calibration: { corpus: "tiny-world", sequences: 16, tokens: 128 },
        perplexity: [{ corpus: "tiny-world", windowTokens: 256, maxWindows: 6 }],
        training: { steps: 4, batch: 2, tokens: 256 },
      };
      rows.push(
        ...await compare(name, { ...common, methods: [{ id: "wanda-sp" }], out: join(folder, `${rows.length}`) }),
      );
      const trained = { methods: [{ id: "wanda-sp" }, { id: "mask-prune" }], recover: "lora" as const };
      rows.push(...(await compare(name, { ...common, ...trained, out: join(folder, `${rows.length}`) })).slice(1));
    }
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
  console.log("| model | cell | planned | measured | planned / measured |\n| --- | --- | ---: | ---: | ---: |");
  let worst = 0;
  for (const { model, label, plannedBytes, measuredBytes } of rows) {
    const ratio = plannedBytes / measuredBytes;
    worst = Math.max(worst, Math.abs(ratio - 1));
    const cells = [model, label, bytesWords(plannedBytes), bytesWords(measuredBytes), ratio.toFixed(2)];
    console.log(`| ${cells.join(" | ")} |`);
  }
  console.log(`\nLargest error ${(100 * worst).toFixed(1)} % of what was measured (limit ${100 * LIMIT} %)`);
  return worst <= LIMIT ? 0 : 1;
}

if (import.meta.main) await runTool(main);
