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
import { join } from "node:path";
import { at } from "../../core/util/indexing.ts";
import { countFlag, withTempFolder } from "../../benchmarks/commands/command.ts";
import type { Peer } from "../../benchmarks/timing/peer_process.ts";
import { startEngine } from "../../core/engine/engine.ts";
import type { Arithmetic, EngineName } from "../../core/schema/schema.ts";
import { createRng } from "../../core/util/rng.ts";
import { UsageError } from "../../core/util/errors.ts";
import { median } from "../../core/util/stats.ts";
import type { WeightSource } from "../../models/config.ts";
import { queryHeads } from "../../models/units.ts";
import { exportHfFolder } from "../../models/export.ts";
import { forward } from "../../models/decoder.ts";
import { type DecoderModel, uploadModel, usualForm } from "../../models/device.ts";
import { logits } from "../../models/vocabulary.ts";
import { openModel } from "../../models/load.ts";
import { batchGradients } from "../../models/training/gradients.ts";
import { startTorch } from "../setup/setup_common.ts";
import { runTool, type ToolArgs } from "../run_tool.ts";
import { inTurns, ratios, type Side, spread, TORCH_FLAGS, TORCH_HELP, torchFlags } from "./in_turns.ts";

const FLAGS = [...TORCH_FLAGS, "tokens", "repeats"] as const;
const HELP = `deno task bench:engine [options]

  --tokens N     tokens of the sequence (default: 1024, at most the positions of the model)
  --repeats N    timed repeats (default: 5)
${TORCH_HELP}`;

/** One timed piece of work and a number it must agree on with the peer. */
interface Outcome {
  ms: number;
  /** Sum of the last position's logits, or the mean cross entropy. */
  value: number;
  /** Sum of the absolute mask gradients; 0 for the forward pass. */
  maskGradient: number;
}

type Work = "forward" | "gradient";

/** A side, by the kind of its turns. */
interface Worker {
  name: string;
  enter?(): Promise<unknown>;
  run(work: Work): Promise<Outcome>;
}

/** Our side, on the engine `name`. */
export async function ours(
  source: WeightSource,
  tokens: Int32Array,
  arithmetic: Arithmetic,
  name: EngineName = "tensorflow",
): Promise<Worker> {
  const enter = () => startEngine(name, { arithmetic });
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

/** PyTorch's side, on an exported folder `model`; `device`: `cpu` or `cuda`. */
export async function torchSide(
  peer: Peer,
  setup: { model: string; tokens: number[]; threads: number; dtype: string; device: string },
): Promise<Worker> {
  await peer.ask(setup);
  return { name: `${peer.versions}, ${setup.dtype}, ${setup.device}`, run: (work) => peer.ask({ work }) };
}

/** Runs the sides in turns. Gives a line per kind of work and side, and the first side's speed over each other's.
 * @throws {NumericError} when their numbers differ by more than a fraction of `tolerance`. */
export async function compare(
  workers: Worker[],
  { tokens, repeats, tolerance }: { tokens: number; repeats: number; tolerance: number },
): Promise<string[]> {
  const lines: string[] = [];
  for (const work of ["forward", "gradient"] as const) {
    const sides = workers.map(({ run, ...side }): Side<Outcome> => ({ ...side, turn: () => run(work) }));
    const values = ({ value, maskGradient }: Outcome) => [value, maskGradient];
    const outcomes = await inTurns(sides, { untimed: 2, timed: repeats, tolerance, values });
    const title = work === "forward" ? "forward, all logits" : "loss and mask gradient";
    const times = outcomes.map((of) => of.map(({ ms }) => ms));
    for (const [i, { name }] of sides.entries()) {
      const rate = (tokens / median(at(times, i)) * 1000).toFixed(0);
      lines.push(`${title}: ${name}: ${rate} tokens/s, median ${spread(at(times, i), 0, `${repeats} repeats`, " ms")}`);
      if (i > 0) lines.push(`${title}: ratio ${ratios(at(times, i), at(times, 0))} over ${name}`);
    }
  }
  return lines;
}

async function main(flags: ToolArgs<typeof FLAGS[number], never>): Promise<void> {
  const { path, threads, arithmetic, dtype, tolerance } = torchFlags(flags, 1e-3);
  const [given, repeats] = [countFlag(flags, "tokens", 2), countFlag(flags, "repeats") ?? 5];
  const { source, tokenizerDefinition: tokenizer } = await openModel(path);
  const { maxPositions: most, vocabSize } = source.config;
  const length = given ?? Math.min(1024, most);
  if (length > most) throw new UsageError(`--tokens must be at most the model's ${most} positions: current ${length}`);
  const rng = createRng(0, "bench-engine");
  const tokens = Int32Array.from({ length }, () => rng.integer(vocabSize));
  await withTempFolder(async (folder) => {
    const own = await ours(source, tokens, arithmetic);
    const exact = arithmetic === "fast" ? [await ours(source, tokens, "exact")] : [];
    const setup = { model: join(folder, "model"), tokens: [...tokens], threads, dtype, device: "cpu" };
    if (flags.peer) exportHfFolder(source, { to: setup.model, dtype: "F32", tokenizer });
    const peer = flags.peer ? await startTorch("PyTorch", "torch_engine.py") : undefined;
    try {
      console.log(`${path}, 1 x ${length} random tokens, ${threads} threads, ${arithmetic}, in turns`);
      const sides = [own, ...peer ? [await torchSide(peer, setup)] : [], ...exact];
      for (const line of await compare(sides, { tokens: length, repeats, tolerance })) console.log(line);
    } finally {
      await peer?.close();
    }
  });
}

if (import.meta.main) await runTool({ help: HELP, string: FLAGS }, main);
