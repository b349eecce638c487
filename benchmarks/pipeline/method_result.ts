/** Checks the result of a method before anything is cut: the plan fits the model and its level, and tensors are finite.
 * Messages name the method and the layer.
 *
 * @module
 */
import { z } from "zod";
import { NumericError, UsageError } from "../../core/util/errors.ts";
import { at } from "../../core/util/indexing.ts";
import { describeIssue } from "../../core/util/issues.ts";
import type { Method, MethodContext, PruneResult } from "../../methods/define.ts";
import type { DecoderConfig } from "../../models/config.ts";
import { costOf } from "../../models/resource.ts";
import { keptLayers, plannedConfig, type PrunePlan } from "../../models/plan.ts";
import { planSchema, UNIT_TYPES } from "../../core/schema/schema.ts";
import type { BudgetTarget } from "../../models/target.ts";
import { widened, widthOf } from "../../models/units.ts";

/** What a method must return; it may be written without types. */
const resultSchema = z.object({
  plan: planSchema,
  replaced: z.record(z.string(), z.object({ shape: z.array(z.number()), data: z.instanceof(Float32Array) })).optional(),
});

/** Runs a method and checks what it returns.
 * @throws {UsageError} that names the method and the layer when the plan is missing, incomplete or does not fit the
 *   model.
 * @throws {NumericError} when a tensor that it replaces has values that are not finite.
 * @throws whatever the method throws, its name before the message. */
export async function runMethod(method: Method, context: MethodContext<unknown>): Promise<PruneResult> {
  let result: PruneResult;
  try {
    result = await method.prune(context);
  } catch (error) {
    throw named(method.id, error);
  }
  checkResult(method.id, result, context.model.config);
  return result;
}

/** The same error with the method's name in its message; an error for what is none. An abort stays as it is. */
function named(id: string, error: unknown): unknown {
  if (!(error instanceof Error)) return new Error(`Method "${id}" threw ${String(error)}, which is not an Error`);
  if (error instanceof DOMException || error.message.includes(`"${id}"`)) return error;
  error.message = `Method "${id}": ${error.message}`;
  return error;
}

function checkResult(id: string, result: PruneResult, config: DecoderConfig): void {
  const parsed = resultSchema.safeParse(result ?? {});
  if (!parsed.success) {
    const problem = describeIssue(at(parsed.error.issues, 0), result ?? {}, () => []);
    throw new UsageError(`Method "${id}" returned an invalid plan or tensors: ${problem}`);
  }
  try {
    plannedConfig(config, parsed.data.plan);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw new UsageError(`Method "${id}" returned a plan that does not fit the model: ${error.message}`);
  }
  for (const [name, { data }] of Object.entries(parsed.data.replaced ?? {})) {
    const bad = data.findIndex((value) => !Number.isFinite(value));
    if (bad < 0) continue;
    throw new NumericError(
      `Method "${id}" returned tensor "${name}" with values that are not finite: value ${bad} is ${data[bad]}`,
    );
  }
}

/** Cost of the cheapest step that would bring something back: one unit more of a type that was narrowed, in every layer
 * that lost some (FFN channels in the run's multiple), or one hidden dimension; where nothing was narrowed, a layer. */
function smallestStep(
  dense: DecoderConfig,
  left: DecoderConfig,
  plan: PrunePlan,
  { ffnMultiple, resource }: BudgetTarget,
): number {
  const kept = keptLayers(plan);
  let units = 0;
  for (const [i, l] of kept.entries()) {
    const [shape, whole] = [at(left.layers, i), at(dense.layers, l)];
    const costs = UNIT_TYPES.filter((type) => widthOf(shape, type) < widthOf(whole, type)).map((type) => {
      const room = widthOf(whole, type) - widthOf(shape, type);
      const more = widened(shape, type, type === "ffn" ? Math.min(ffnMultiple, room) : 1);
      return resource.ofLayer(left, more) - resource.ofLayer(left, shape);
    });
    if (costs.length > 0) units += Math.min(...costs);
  }
  const hidden = left.width < dense.width ? costOf(resource, left) / left.width : 0;
  const steps = [units, hidden].filter((cost) => cost > 0);
  const removed = dense.layers.filter((_, l) => !kept.includes(l));
  return Math.min(...steps.length > 0 ? steps : removed.map((shape) => resource.ofLayer(left, shape)));
}

/** Sums of measured times are rounded. */
const ROUNDING = 1e-9;

/** Refuses a model that exceeds the budget or is a unit or more below it, which would be ranked among larger models.
 * Methods with their own target may remove more.
 * @throws {UsageError} that names the method and both sizes. */
export function checkBudget(
  method: Method,
  options: unknown,
  { dense, left, plan, target }: { dense: DecoderConfig; left: DecoderConfig; plan: PrunePlan; target: BudgetTarget },
): void {
  const { budget, whole, sparsity, resource: { words } } = target;
  const cost = costOf(target.resource, left);
  const slack = budget - cost;
  const rounding = ROUNDING * whole;
  if (slack < -rounding) {
    throw new UsageError(`Method "${method.id}" left ${cost} ${words}: sparsity ${sparsity} allows ${budget}`);
  }
  if (method.ownTarget?.(options) || cost === whole) return;
  const step = smallestStep(dense, left, plan, target);
  if (slack < step + rounding) return;
  const percent = (of: number) => `${(100 * (1 - of / whole)).toFixed(1)} %`;
  throw new UsageError(
    `Method "${method.id}" removed ${percent(cost)} of the ${words} at sparsity ${sparsity}: ` +
      `${slack} of the budget are unused, but another unit costs only ${step}. ` +
      "A method with its own target must define ownTarget()",
  );
}
