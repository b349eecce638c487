/** How fast the native engine runs a model.
 *
 * Two kinds of work on one sequence: the forward pass with the logits of all positions, and the mean cross entropy with
 * its gradient to a mask per query head and FFN channel. With `--peer torch`, PyTorch and transformers (from PyPI, in a
 * private environment) do the same on the same weights and tokens, in turns with ours. A ratio is printed only for work
 * that gave the same numbers.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import { at } from "../../core/util/indexing.ts";
import { choiceOf, countFlag } from "../../benchmarks/commands/command.ts";
import { type Peer, startPeer } from "../../benchmarks/timing/peer_process.ts";
import { startEngine } from "../../core/engine/engine.ts";
import { createRng } from "../../core/util/rng.ts";
import { writeSafetensors } from "../../core/formats/safetensors.ts";
import { median } from "../../core/util/stats.ts";
import { expectedTensors, type WeightSource } from "../../models/config.ts";
import { queryHeads } from "../../models/units.ts";
import { toHfConfig } from "../../models/hf_config.ts";
import { forward } from "../../models/decoder.ts";
import { type DecoderModel, uploadModel } from "../../models/device.ts";
import { logits } from "../../models/vocabulary.ts";
import { openModel } from "../../models/load.ts";
import { batchGradients } from "../../models/training/gradients.ts";
import { privatePython, TORCH, TRANSFORMERS } from "../setup/setup_common.ts";
import { runTool, type ToolArgs } from "../run_tool.ts";
import { inProject } from "../../core/util/user_folder.ts";

const FLAGS = ["model", "tokens", "repeats", "threads", "peer"] as const;
const HELP = `deno task bench:engine [options]

  --model PATH   model (default: models/SmolLM2-135M.gguf)
  --tokens N     tokens of the sequence (default: 1024)
  --repeats N    timed repeats (default: 5)
  --threads N    threads of both sides (default: all)
  --peer torch   measures PyTorch and transformers in turns with ours`;

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
  run(work: Work): Promise<Outcome>;
}

function ours(model: DecoderModel, tokens: Int32Array, library: string): Side {
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
    name: library,
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

async function torchSide(folder: string, tokens: Int32Array, threads: number): Promise<Side & Pick<Peer, "close">> {
  const python = await privatePython("torch", [TORCH, TRANSFORMERS]);
  const peer = await startPeer("PyTorch", python, [new URL("../peers/torch_engine.py", import.meta.url).pathname]);
  await peer.ask({ model: folder, tokens: [...tokens], threads });
  return { name: peer.versions, run: (work) => peer.ask({ work }), close: peer.close };
}

const close = (a: number, b: number) => Math.abs(a - b) <= 1e-3 * Math.max(1, Math.abs(a), Math.abs(b));

/** Runs the sides in turns and prints one line per kind of work. */
async function compare(sides: Side[], tokens: number, repeats: number): Promise<void> {
  for (const work of ["forward", "gradient"] as Work[]) {
    const outcomes: Outcome[][] = sides.map(() => []);
    for (let repeat = -2; repeat < repeats; repeat++) {
      for (const [i, side] of sides.entries()) {
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
    if (sides.length < 2) continue;
    const [a, b] = [at(outcomes, 0), at(outcomes, 1)];
    if (!close(at(a, 0).value, at(b, 0).value) || !close(at(a, 0).maskGradient, at(b, 0).maskGradient)) {
      throw new Error(`The sides disagree on ${title}: ${JSON.stringify(a[0])} and ${JSON.stringify(b[0])}`);
    }
    const ratios = a.map((outcome, i) => at(b, i).ms / outcome.ms);
    console.log(
      `${title}: ratio ${median(ratios).toFixed(2)} ` +
        `(${Math.min(...ratios).toFixed(2)} to ${Math.max(...ratios).toFixed(2)}, pair by pair)`,
    );
  }
}

async function main(flags: ToolArgs<typeof FLAGS[number], never>): Promise<void> {
  const { model: path = inProject("models/SmolLM2-135M.gguf"), peer: wanted } = flags;
  const [length, repeats] = [countFlag(flags, "tokens") ?? 1024, countFlag(flags, "repeats") ?? 5];
  const threads = countFlag(flags, "threads") ?? navigator.hardwareConcurrency;
  Deno.env.set("TF_NUM_INTRAOP_THREADS", String(threads));
  if (wanted !== undefined) choiceOf("peer", wanted, ["torch"]);
  const engine = await startEngine("tensorflow");
  const { source } = await openModel(path);
  const rng = createRng(0, "bench-engine");
  const tokens = Int32Array.from({ length }, () => rng.integer(source.config.vocabSize));
  const folder = await Deno.makeTempDir({ prefix: "bench-engine-" });
  try {
    const peer = wanted ? (exportFolder(source, folder), await torchSide(folder, tokens, threads)) : undefined;
    const model = await uploadModel(source);
    console.log(`${path}, 1 x ${length} random tokens, ${threads} threads, f32, in turns`);
    await compare([ours(model, tokens, engine.library), ...peer ? [peer] : []], length, repeats);
    await peer?.close();
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

if (import.meta.main) await runTool({ help: HELP, string: FLAGS }, main);
