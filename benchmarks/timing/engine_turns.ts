/** The same file in our engine and in llama.cpp, timed in turns.
 *
 * A round times the dense model by ours and by llama.cpp, then the other model by llama.cpp and by ours. The next round
 * reverses the order, so that a drift of the machine affects all four. Engines and models are compared within a round.
 *
 * @module
 */
import type { Engine } from "../../core/engine/engine.ts";
import { at } from "../../core/util/indexing.ts";
import { disposeModel, uploadModel, usualForm } from "../../models/device.ts";
import { openModel } from "../../models/load.ts";
import type { Peer } from "./peer_process.ts";
import { modelPasses, type Passes, type ThroughputChoice, timeInTurns } from "./throughput.ts";

/** A model in an engine. */
export interface Side extends Passes {
  close(): Promise<void>;
}

/** A model in both engines. */
export interface Sides {
  ours: Side;
  llamaCpp: Side;
}

/** Milliseconds of each repeat of one model; repeats of equal index are of one round. */
interface EngineSamples {
  oursMs: number[];
  llamaCppMs: number[];
}

/** One result of one model. */
export interface TurnResult {
  /** `ppN` or `tgN`. */
  name: string;
  tokens: number;
  model: EngineSamples;
  /** The dense model's of the same rounds; absent where the model is the dense one, or stands alone. */
  dense?: EngineSamples;
}

/** Puts the model of a GGUF file on the started engine. */
async function openOurs(file: string, engine: Engine, choice: ThroughputChoice): Promise<Side> {
  const { source } = await openModel(file);
  try {
    const model = await uploadModel(source, usualForm(source, engine));
    const close = () => Promise.resolve(disposeModel(model));
    try {
      return { ...modelPasses(model, choice), close };
    } catch (error) {
      await close();
      throw error;
    }
  } finally {
    source.close();
  }
}

/** Has llama.cpp open a GGUF file. */
async function openInPeer(file: string, peer: Peer, threads: number, choice: ThroughputChoice): Promise<Side> {
  const { prefillTokens, decodeTokens } = choice;
  await peer.ask({ open: file, prefillTokens, decodeTokens, threads });
  const passOf = (pass: keyof Passes) => async () => (await peer.ask<{ ms: number }>({ pass, of: file })).ms;
  return {
    prefill: passOf("prefill"),
    decode: passOf("decode"),
    close: async () => void await peer.ask({ close: file }),
  };
}

/** Opens a GGUF file in the started engine and in llama.cpp, with as many threads. Free it with {@linkcode closeSides}.
 * @throws {UsageError} when one of the two cannot read it, or the lengths exceed the model's positions.
 * @throws {EngineError} when the device reports an error. */
export async function openSides(
  file: string,
  { engine, peer }: { engine: Engine; peer: Peer },
  choice: ThroughputChoice,
): Promise<Sides> {
  const ours = await openOurs(file, engine, choice);
  try {
    return { ours, llamaCpp: await openInPeer(file, peer, engine.threads, choice) };
  } catch (error) {
    await ours.close();
    throw error;
  }
}

/** Frees a model in both engines. */
export async function closeSides({ ours, llamaCpp }: Sides): Promise<void> {
  await ours.close();
  await llamaCpp.close();
}

/** Times prefill, then decode, of `model`, in turns with `dense` if that is given: an untimed round, then `repeats`
 * rounds. */
export async function timeSides(
  model: Sides,
  dense: Sides | undefined,
  { prefillTokens, decodeTokens, repeats }: ThroughputChoice,
): Promise<TurnResult[]> {
  const order = dense ? [dense.ours, dense.llamaCpp, model.llamaCpp, model.ours] : [model.ours, model.llamaCpp];
  const timed = async (name: string, tokens: number, kind: keyof Passes): Promise<TurnResult> => {
    const samplesMs = await timeInTurns(repeats, order.map((side) => side[kind]));
    const of = ({ ours, llamaCpp }: Sides): EngineSamples => ({
      oursMs: at(samplesMs, order.indexOf(ours)),
      llamaCppMs: at(samplesMs, order.indexOf(llamaCpp)),
    });
    return { name, tokens, model: of(model), ...dense && { dense: of(dense) } };
  };
  return [
    await timed(`pp${prefillTokens}`, prefillTokens, "prefill"),
    await timed(`tg${decodeTokens}`, decodeTokens, "decode"),
  ];
}
