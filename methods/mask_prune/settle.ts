/** What MaskPrune's options leave open, decided by what is measured before the first step.
 *
 * Two things tell how to spend the steps of a run. How much of its text the dense model does not know: where nothing is new,
 * a step can only repair, so all units go before the first one, ranked by the cost of removal, which takes it that the others
 * stand in for them. And how far the removal of all units at once throws the model off: the dense model's hidden states lead
 * it back from far, and more steps of fewer windows do; near by, both hold back what the text teaches. The limits were chosen
 * on validation text (`docs/maskprune-trials.md`).
 *
 * @module
 */
import { at } from "../../core/indexing.ts";
import type { DecoderModel } from "../../models/decoder.ts";
import type { MethodContext, Statistics } from "../define.ts";
import { surpriseOf } from "./distance.ts";
import type { Options } from "./options.ts";

/** Nats per token of surprise above which a text has something new for the model. */
const NEW_TEXT = 0.05;

/** Nats of KL per token from the dense model above which hidden states are compared. */
const GENTLE_DAMAGE = 0.5;

/** Nats of KL per token from the dense model above which a model is rebuilt by its training more than it is mended. */
export const HEAVY_DAMAGE = 1;

/** Weight of the hidden-state term where it is in. */
export const HIDDEN_WEIGHT = 5;

/** A number kept with the statistics of a run, so that one that was stopped goes on with the same. */
async function remembered(
  { remember }: Pick<MethodContext<unknown>, "remember">,
  key: string,
  compute: () => Promise<number>,
): Promise<number> {
  const { value } = await remember(key, async (): Promise<Statistics> => ({
    value: { shape: [1], data: Float32Array.of(await compute()) },
  }));
  return at(value!.data, 0);
}

/** The options with what the calibration text decides: on text that holds nothing new, what is open is set to repair. */
export async function settledByText(context: MethodContext<Options>, dense: DecoderModel): Promise<Options> {
  const { options, learning, report } = context;
  const { course, updates, hidden, redundancy } = options;
  if (course && updates && hidden !== undefined && redundancy !== "measured") return options;
  const surprise = await remembered(context, "surprise of the calibration text", async () => {
    const nats = await surpriseOf({ ...context, model: learning?.teacher ?? dense });
    report(`the text surprises the dense model by ${nats.toFixed(3)} nats per token more than it expects`);
    return nats;
  });
  if (surprise > NEW_TEXT) return { ...options, course: course ?? "gradual" };
  return {
    ...options,
    course: course ?? "at-once",
    updates: updates ?? "window",
    hidden: hidden ?? HIDDEN_WEIGHT,
    redundancy: redundancy === "measured" ? "full" : redundancy,
  };
}

/** The weight of the hidden-state term and how often there is a step, by the damage where they are open: `damage` measures
 * it, in nats of KL per token, when it is needed. */
export async function settledByDamage(
  context: MethodContext<Options>,
  damage: () => Promise<number>,
): Promise<Pick<Options, "hidden" | "updates">> {
  const { options, target, learning } = context;
  const hidden = learning?.options.hidden || (options.distillation ? options.hidden : 0);
  if (hidden !== undefined && options.updates) return { hidden, updates: options.updates };
  // What is compensated has another metric.
  const key = JSON.stringify({ options, target, compensated: learning?.compensate !== undefined });
  const nats = await remembered(context, `damage, mask-prune ${key}`, damage);
  return {
    hidden: hidden ?? (nats > GENTLE_DAMAGE ? HIDDEN_WEIGHT : 0),
    updates: options.updates ?? (nats > HEAVY_DAMAGE ? "window" : "batch"),
  };
}
