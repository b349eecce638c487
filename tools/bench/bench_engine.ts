/** How fast the native engine runs a model.
 *
 * Two kinds of work on one sequence: the forward pass with the logits of all positions, and the mean cross entropy with
 * its gradient to a mask per query head and FFN channel. With `--peer torch`, PyTorch and transformers (from PyPI, in a
 * private environment) do the same on the same weights and tokens, in turns with ours. A ratio is printed only for work
 * that gave the same numbers. Fast arithmetic is timed in turns with exact, too.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import { at } from "../../core/util/indexing.ts";
import { choiceOf, countFlag } from "../../benchmarks/commands/command.ts";
import { type Peer, startPeer } from "../../benchmarks/timing/peer_process.ts";
import { startEngine } from "../../core/engine/engine.ts";
import { type Arithmetic, ARITHMETICS } from "../../core/schema/schema.ts";
import { createRng } from "../../core/util/rng.ts";
import { writeSafetensors } from "../../core/formats/safetensors.ts";
import { median } from "../../core/util/stats.ts";
import { expectedTensors, type WeightSource } from "../../models/config.ts";
import { queryHeads } from "../../models/units.ts";
import { toHfConfig } from "../../models/hf_config.ts";
import { forward } from "../../models/decoder.ts";
import { type DecoderModel, uploadModel, usualForm } from "../../models/device.ts";
import { logits } from "../../models/vocabulary.ts";
import { openModel } from "../../models/load.ts";
import { batchGradients } from "../../models/training/gradients.ts";
import { privatePython, TORCH, TRANSFORMERS } from "../setup/setup_common.ts";
import { runTool, type ToolArgs } from "../run_tool.ts";
import { inProject } from "../../core/util/user_folder.ts";

const FLAGS = ["model", "tokens", "repeats", "threads", "peer", "arithmetic", "dtype"] as const;
const HELP = `deno task bench:engine [options]

  --model PATH   model (default: models/SmolLM2-135M.gguf)
  --tokens N     tokens of the sequence (default: 1024)
  --repeats N    timed repeats (default: 5)
  --threads N    threads of both sides (default: all)
  --arithmetic A exact (the default) or fast, which is timed in turns with exact
  --peer torch   measures PyTorch and transformers in turns with ours
  --dtype D      PyTorch's: float32 (the default) or bfloat16`;

/** One timed piece of work and a number it must agree on with the peer. */
interface Outcome {
  ms: number;
  /** Sum of the last position's logits, or the mean cross entropy. */
  value: number;
  /** Sum of the absolute mask gradients; 0 for the forward pass. */
  maskGradient: number;
}

type Work = "forward" | "gradient";

interface Side {
  name: string;
  /** Called before each turn, outside the time. */
  enter?(): Promise<unknown>;
  run(work: Work): Promise<Outcome>;
}

async function ours(source: WeightSource, tokens: Int32Array, arithmetic: Arithmetic): Promise<Side> {
  const enter = () => startEngine("tensorflow", { arithmetic });
  const engine = await enter();
  const model: DecoderModel = await uploadModel(source, usualForm(source, engine));
  const { layers } = model.config;
  const masks = layers.map((shape) => ({
    queryHeads: tf.ones([queryHeads(shape)]) as tf.Tensor1D,
    ffn: tf.ones([shape.ffnChannels]) as tf.Tensor1D,
  }));
  const variables = masks.flatMap(({ queryHeads, ffn }) => [queryHeads, ffn]);
  const weights = { crossEntropy: 1, distillation: 0, temperature: 1, hidden: 0 };
  const work = {
    forward: async () => {
      const last = tf.tidy(() => {
        const all = logits(model, forward(model, { tokens, batch: 1, length: tokens.length }));
        return tf.sum(tf.slice(all, [tokens.length - 1, 0], [1, -1]));
      });
      const value = at(await last.data(), 0);
      last.dispose();
      return { value, maskGradient: 0 };
    },
    gradient: async () => {
      const { terms, gradients } = await batchGradients({ model, masks, windows: [tokens], weights, variables });
      const maskGradient = gradients.reduce((sum, g) => g.reduce((s, x) => s + Math.abs(x), sum), 0);
      return { value: terms.crossEntropy, maskGradient };
    },
  };
  return {
    name: `${engine.library}, ${arithmetic}`,
    enter,
    run: async (kind) => {
      const start = performance.now();
      const result = await work[kind]();
      return { ms: performance.now() - start, ...result };
    },
  };
}

/** Writes the checkpoint as a Hugging Face folder in f32, so that both sides have the same weights. */
export function exportFolder(source: WeightSource, folder: string): void {
  Deno.writeTextFileSync(`${folder}/config.json`, JSON.stringify(toHfConfig(source.config)));
  writeSafetensors(`${folder}/model.safetensors`, {
    shapes: expectedTensors(source.config),
    read: (name) => source.read(name).data,
    dtype: "F32",
  });
}

async function torchSide(
  folder: string,
  setup: { tokens: number[]; threads: number; dtype: string },
): Promise<Side & Pick<Peer, "close">> {
  const python = await privatePython("torch", [TORCH, TRANSFORMERS]);
  const peer = await startPeer("PyTorch", python, [new URL("../peers/torch_engine.py", import.meta.url).pathname]);
  await peer.ask({ model: folder, ...setup });
  return { name: `${peer.versions}, ${setup.dtype}`, run: (work) => peer.ask({ work }), close: peer.close };
}

/** Runs the sides in turns and prints one line per kind of work, and the first side's speed over each other's.
 * @throws {Error} when their numbers differ by more than a fraction of `tolerance`. */
async function compare(
  sides: Side[],
  { tokens, repeats, tolerance }: { tokens: number; repeats: number; tolerance: number },
): Promise<void> {
  const close = (a: number, b: number) => Math.abs(a - b) <= tolerance * Math.max(1, Math.abs(a), Math.abs(b));
  for (const work of ["forward", "gradient"] as Work[]) {
    const outcomes: Outcome[][] = sides.map(() => []);
    for (let repeat = -2; repeat < repeats; repeat++) {
      for (const [i, side] of sides.entries()) {
        await side.enter?.();
        const outcome = await side.run(work);
        // The first passes touch memory for the first time and are not counted.
        if (repeat >= 0) at(outcomes, i).push(outcome);
      }
    }
    const title = work === "forward" ? "forward, all logits" : "loss and mask gradient";
    for (const [i, side] of sides.entries()) {
      const times = at(outcomes, i).map(({ ms }) => ms);
      const [low, mid, high] = [Math.min(...times), median(times), Math.max(...times)].map((ms) => ms.toFixed(0));
      const rate = (tokens / median(times) * 1000).toFixed(0);
      console.log(`${title}: ${side.name}: ${rate} tokens/s (median ${mid} ms, ${low} to ${high}, ${repeats} repeats)`);
    }
    const [own = []] = outcomes;
    for (const [i, theirs] of outcomes.entries()) {
      if (i === 0) continue;
      const [a, b] = [at(own, 0), at(theirs, 0)];
      if (!close(a.value, b.value) || !close(a.maskGradient, b.maskGradient)) {
        throw new Error(`The sides disagree on ${title}: ${JSON.stringify(a)} and ${JSON.stringify(b)}`);
      }
      const ratios = own.map(({ ms }, j) => at(theirs, j).ms / ms);
      console.log(
        `${title}: ratio ${median(ratios).toFixed(2)} (${Math.min(...ratios).toFixed(2)} to ` +
          `${Math.max(...ratios).toFixed(2)}, pair by pair) over ${at(sides, i).name}`,
      );
    }
  }
}

async function main(flags: ToolArgs<typeof FLAGS[number], never>): Promise<void> {
  const { model: path = inProject("models/SmolLM2-135M.gguf"), peer: wanted } = flags;
  const [length, repeats] = [countFlag(flags, "tokens") ?? 1024, countFlag(flags, "repeats") ?? 5];
  const threads = countFlag(flags, "threads") ?? navigator.hardwareConcurrency;
  Deno.env.set("TF_NUM_INTRAOP_THREADS", String(threads));
  if (wanted !== undefined) choiceOf("peer", wanted, ["torch"]);
  const arithmetic = choiceOf("arithmetic", flags.arithmetic ?? "exact", ARITHMETICS);
  const dtype = choiceOf("dtype", flags.dtype ?? "float32", ["float32", "bfloat16"]);
  const { source } = await openModel(path);
  const rng = createRng(0, "bench-engine");
  const tokens = Int32Array.from({ length }, () => rng.integer(source.config.vocabSize));
  const folder = await Deno.makeTempDir({ prefix: "bench-engine-" });
  try {
    const own = await ours(source, tokens, arithmetic);
    const exact = arithmetic === "fast" ? [await ours(source, tokens, "exact")] : [];
    const setup = { tokens: [...tokens], threads, dtype };
    const peer = wanted ? (exportFolder(source, folder), await torchSide(folder, setup)) : undefined;
    console.log(`${path}, 1 x ${length} random tokens, ${threads} threads, ${arithmetic}, in turns`);
    const sides = [own, ...peer ? [peer] : [], ...exact];
    // bfloat16 has 8 bits of mantissa, and a sum of absolute gradients grows with their noise.
    const tolerance = arithmetic === "fast" || dtype !== "float32" ? 0.1 : 1e-3;
    await compare(sides, { tokens: length, repeats, tolerance });
    await peer?.close();
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

if (import.meta.main) await runTool({ help: HELP, string: FLAGS }, main);
