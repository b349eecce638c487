/** What units cost, counted from the layer's formulas alone.
 *
 * @module
 */
import { at } from "../../core/util/indexing.ts";
import type { DecoderConfig } from "../../models/config.ts";
import { layerMacs, layerParameters } from "../../models/count.ts";
import { type LayerShape, UNITS, widened } from "../../models/units.ts";
import type { UnitType } from "../../core/schema/schema.ts";

/** What one unit of `type` in layer `layer` costs: weights, and multiply-accumulates of a 64-token sequence. A
 * `query-heads` unit is one query head; a `kv-groups` unit is a key/value head with all its query heads. */
export function unitCost(config: DecoderConfig, layer: number, type: UnitType): { parameters: number; macs64: number } {
  const shape = at(config.layers, layer);
  const without = widened(shape, type, -1);
  const cost = (of: (shape: LayerShape) => number) => (of(shape) - of(without)) / UNITS[type].runs(shape);
  return { parameters: cost((s) => layerParameters(config, s)), macs64: cost((s) => layerMacs(config, s, 64)) };
}
