/** Throughput of a model.
 *
 * @module
 */
import { currentEngine } from "../../core/engine/engine.ts";
import { throughputChoiceSchema, type ThroughputResult } from "../../core/schema/schema.ts";
import { measureThroughput, type ThroughputChoice } from "../timing/throughput.ts";
import type { LoadedModel } from "./load.ts";

/** What to time: 512 tokens of a prompt at once and 128 one at a time, five repeats, unless told otherwise. */
export interface TimeOptions extends Partial<ThroughputChoice> {
  /** The model that this one was cut from: its repeats alternate with this one's, which gives the speed-up. */
  dense?: Pick<LoadedModel, "model">;
  /** Aborts between two steps. */
  signal?: AbortSignal;
}

/** Prefill and decode throughput. Nothing else should run on the machine.
 * @throws {UsageError} when the lengths exceed the model's positions. */
export async function time(
  { model }: Pick<LoadedModel, "model">,
  { dense, signal, ...choice }: TimeOptions = {},
): Promise<ThroughputResult[]> {
  const { threads } = currentEngine();
  return await measureThroughput(model, throughputChoiceSchema.parse(choice), { dense: dense?.model, threads, signal });
}
