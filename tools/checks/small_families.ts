/** Small configurations of every family of models, as `config.json` says them.
 *
 * @module
 */
import { parse } from "yaml";
import { createRng } from "../../core/util/rng.ts";
import { keepWidths } from "../../methods/_shared/selection.ts";
import type { DecoderConfig } from "../../models/config.ts";
import { fromHfConfig } from "../../models/hf_config.ts";
import type { PrunePlan } from "../../models/plan.ts";
import { UNIT_TYPES, type UnitType } from "../../core/schema/schema.ts";
import { resolveTarget } from "../../models/target.ts";
import { unitCount } from "../../models/units.ts";

const { common: _common, ...configs } = parse(
  Deno.readTextFileSync(new URL("small_families.yaml", import.meta.url)),
  { merge: true },
) as Record<string, Record<string, unknown>>;

/** One small model of each family, and variants, by name. */
export const FAMILY_CONFIGS = configs;

/** The configuration of one of {@linkcode FAMILY_CONFIGS}. */
export function familyConfig(name: string): DecoderConfig {
  const json = FAMILY_CONFIGS[name];
  if (!json) throw new RangeError(`There is no small model "${name}"`);
  return fromHfConfig(JSON.parse(JSON.stringify(json)), name);
}

/** Random units of these types, half of the prunable parameters by default, the same widths in every layer. */
export function randomPlan(
  config: DecoderConfig,
  { units = UNIT_TYPES, sparsity = 0.5 }: { units?: readonly UnitType[]; sparsity?: number } = {},
): PrunePlan {
  const rng = createRng(3, "small families");
  const random = (count: number) => Float64Array.from({ length: count }, () => rng.uniform());
  const scores = config.layers.map((shape) => ({
    ffn: random(unitCount(shape, "ffn")),
    queryHeads: random(unitCount(shape, "query-heads")),
    kvGroups: random(unitCount(shape, "kv-groups")),
  }));
  return keepWidths(scores, resolveTarget(config, { sparsity, units }).uniform);
}
