/** What units cost, counted from the layer's formulas alone.
 *
 * @module
 */
import { at } from "../../core/util/indexing.ts";
import type { DecoderConfig } from "../../models/config.ts";
import { layerParameters } from "../../models/count.ts";
import { UNITS, widened } from "../../models/units.ts";
import type { UnitType } from "../../core/schema/schema.ts";

/** Weights of one unit of `type` in layer `layer`. A `query-heads` unit is one query head; a `kv-groups` unit is a
 * key/value head with all its query heads. */
export function unitCost(config: DecoderConfig, layer: number, type: UnitType): number {
  const shape = at(config.layers, layer);
  const lost = layerParameters(config, shape) - layerParameters(config, widened(shape, type, -1));
  return lost / UNITS[type].runs(shape);
}
