/** The resource that a budget counts: a cost of each decoder layer, and their sum.
 *
 * @module
 */
import type { Budget } from "../core/schema/schema.ts";
import type { DecoderConfig } from "./config.ts";
import { layerMacs, layerParameters } from "./count.ts";
import type { LayerShape } from "./units.ts";

/** A cost of layers. The rest of the model costs the same in every pruned model and is not counted. */
export interface Resource {
  /** Its name on the command line. */
  name: Budget;
  /** What is counted, for messages: `prunable parameters`. */
  words: string;
  /** Cost of one layer of `config` with the widths `shape`; it never rises where a width falls. */
  ofLayer(config: DecoderConfig, shape: LayerShape): number;
}

/** Weights of the linear maps. */
export const PARAMETERS: Resource = { name: "parameters", words: "prunable parameters", ofLayer: layerParameters };

/** Multiply-accumulates on a sequence of 64 tokens, as in records: see {@linkcode layerMacs}. */
export const MACS: Resource = {
  name: "macs",
  words: "multiply-accumulates of the layers",
  ofLayer: (config, shape) => layerMacs(config, shape, 64),
};

/** Cost of layers with the widths `shapes`; of all layers of `config` when absent. */
export function costOf(
  { ofLayer }: Resource,
  config: DecoderConfig,
  shapes: readonly LayerShape[] = config.layers,
): number {
  return shapes.reduce((sum, shape) => sum + ofLayer(config, shape), 0);
}
