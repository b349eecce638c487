/** Memory and time of pruning a large model with one dense layer at a time.
 *
 * A run with `--layerwise` on a random checkpoint of LLaMA-7B's width in bf16, removed afterwards (13.5 GB with 32
 * layers). The native engine holds the weights as stored. The run is `wanda-sp` at 20 % on two calibration windows of
 * 128 tokens and one window of perplexity: it says nothing of the method. The dense cell holds the whole model.
 *
 * @module
 */
import { wholeNumber } from "../../benchmarks/commands/command.ts";
import { join } from "node:path";
import { bytesWords } from "../../benchmarks/commands/dry_run.ts";
import { runSweep } from "../../benchmarks/sweep/sweep.ts";
import { createRng } from "../../core/util/rng.ts";
import { type DecoderConfig, expectedTensors, memorySource, type WeightSource } from "../../models/config.ts";
import { totalParameters } from "../../models/count.ts";
import { exportHfFolder } from "../../models/export.ts";
import { openModel } from "../../models/load.ts";
import { runTool, type ToolArgs } from "../run_tool.ts";

const HELP = `deno task bench:layerwise [--layers 32] [--dir FOLDER]

  --layers N    layers of LLaMA-7B's shape
  --dir FOLDER  where the checkpoint is written (0.4 GB a layer)`;

/** https://huggingface.co/huggyllama/llama-7b: `config.json`, with so many of its 32 layers. */
const llama7b = (layers: number): DecoderConfig => ({
  vocabSize: 32000,
  width: 4096,
  headSize: 128,
  layers: Array.from({ length: layers }, () => ({ kvGroups: 32, queryHeadsPerGroup: 1, ffnChannels: 11008 })),
  tiedHead: false,
  biases: [],
  ropeBase: 10000,
  normEpsilon: 1e-6,
  maxPositions: 2048,
  bosTokenId: 1,
  eosTokenId: 2,
});

/** A checkpoint of this shape whose tensors repeat a random pattern. */
function randomSource(config: DecoderConfig): WeightSource {
  const rng = createRng(0, "weights");
  const pattern = Float32Array.from({ length: 65_521 }, () => (rng.uniform() - 0.5) / 16);
  const shapes = expectedTensors(config);
  const read = (name: string) => {
    const shape = shapes.get(name)!;
    const data = new Float32Array(shape.reduce((product, size) => product * size, 1));
    for (let at = 0; at < data.length; at += pattern.length) data.set(pattern.subarray(0, data.length - at), at);
    return { shape, data };
  };
  return { ...memorySource(config, new Map()), read };
}

const seconds = (start: number) => `${((performance.now() - start) / 1000).toFixed(0)} s`;

async function measure(folder: string, config: DecoderConfig): Promise<void> {
  const start = performance.now();
  // The bundled model's tokenizer has fewer tokens, as a tokenizer may.
  const { source: tiny, tokenizerDefinition: tokenizer } = await openModel("tiny");
  tiny.close();
  const model = join(folder, "model");
  exportHfFolder(randomSource(config), { to: model, dtype: "BF16", tokenizer, maxShardBytes: 7e9 });
  const parameters = totalParameters(config);
  console.log(
    `${(parameters / 1e9).toFixed(2)} B parameters: ${bytesWords(2 * parameters)}, made in ${seconds(start)}`,
  );
  const before = performance.now();
  const { records } = await runSweep({
    model,
    engine: "tensorflow",
    methods: [{ id: "wanda-sp" }],
    sparsity: 0.2,
    layerwise: true,
    calibration: { corpus: "tiny-world", sequences: 2, tokens: 128 },
    perplexity: [{ corpus: "tiny-world", windowTokens: 128, maxWindows: 1 }],
    out: join(folder, "run"),
  });
  for (const record of records) {
    const name = record.cell.method?.id ?? "dense";
    if (record.state !== "done") throw new Error(`${name}: ${record.failure.message}`);
    const { timings: { loadS, pruneS, evaluateS }, memory, perplexity, environment } = record;
    const times = [
      `loading ${loadS.toFixed(0)} s`,
      `pruning ${pruneS.toFixed(0)} s`,
      `scoring ${evaluateS.toFixed(0)} s`,
    ];
    const [{ perplexity: value } = { perplexity: NaN }] = perplexity;
    console.log(
      `${name}: peak ${bytesWords(memory.peakBytes)} (${memory.measure}); ${times.join(", ")}; perplexity ` +
        `${value.toExponential(2)}; ${environment.device}`,
    );
  }
  console.log(`The run took ${seconds(before)}`);
}

async function main({ layers = "32", dir }: ToolArgs<"layers" | "dir", never>): Promise<void> {
  const config = llama7b(wholeNumber("layers", layers));
  const folder = Deno.makeTempDirSync({ dir });
  try {
    await measure(folder, config);
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
}

if (import.meta.main) await runTool({ help: HELP, string: ["layers", "dir"] }, main);
