/** Throughput of a model.
 *
 * @module
 */
import { currentEngine } from "../../core/engine/engine.ts";
import { throughputChoiceSchema, type ThroughputResult } from "../../core/schema/schema.ts";
import { at } from "../../core/util/indexing.ts";
import {
  modelPasses,
  type Passes,
  summarise,
  type ThroughputChoice,
  timeInTurns,
  watchOtherCores,
} from "../timing/throughput.ts";
import type { LoadedModel } from "./load.ts";

/** What to time: 512 tokens of a prompt at once and 128 one at a time, five repeats, unless told otherwise. */
export interface TimeOptions extends Partial<ThroughputChoice> {
  /** The model that this one was cut from. Its repeats alternate with this one's: neighbouring ones give the speed-up.
   * For a dense model the model itself, which shows the error of the measurement. */
  dense?: Pick<LoadedModel, "model">;
  /** Aborts between two steps. */
  signal?: AbortSignal;
}

/** Prefill and decode throughput. Nothing else should run on the machine.
 * @throws {UsageError} when the lengths exceed the model's positions. */
export async function time(
  { model }: Pick<LoadedModel, "model">,
  { dense, signal, ...given }: TimeOptions = {},
): Promise<ThroughputResult[]> {
  const choice = throughputChoiceSchema.parse(given);
  const { prefillTokens, decodeTokens, batch, repeats } = choice;
  const { threads } = currentEngine();
  const own = modelPasses(model, choice, signal);
  const before = dense && modelPasses(dense.model, choice, signal);
  const timed = async (name: string, tokens: number, kind: keyof Passes): Promise<ThroughputResult> => {
    const otherCores = watchOtherCores();
    const samplesMs = await timeInTurns(repeats, [...before ? [before[kind]] : [], own[kind]]);
    return {
      ...summarise(name, batch, tokens, at(samplesMs, samplesMs.length - 1)),
      ...before && { denseSamplesMs: at(samplesMs, 0) },
      threads,
      otherCores: otherCores(),
    };
  };
  return [
    await timed(`pp${prefillTokens}`, prefillTokens, "prefill"),
    await timed(`tg${decodeTokens}`, decodeTokens, "decode"),
  ];
}
