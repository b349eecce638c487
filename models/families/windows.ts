/** Attention windows, for families with windows.
 *
 * @module
 */
import { type DecoderConfig, layerAttention } from "../config.ts";
import type { FamilyConfig } from "./family.ts";

/** The configuration with a window on the layers with `has(layer)`; none if there are no such layers, or if the window
 * contains all positions of the model. */
export function windowed(
  config: DecoderConfig,
  window: number,
  has: (layer: number) => boolean = () => true,
): FamilyConfig {
  if (window >= config.maxPositions || !config.layers.some((_, l) => has(l))) return {};
  return {
    attention: config.layers.map((_, l) => ({
      ...layerAttention(config, l),
      window: has(l) ? Math.max(2, window) : null,
    })),
  };
}

/** The common window of all layers; undefined if they have none, or different ones. */
export function oneWindow({ attention }: DecoderConfig): number | undefined {
  const windows = new Set(attention?.map(({ window }) => window));
  const [window] = windows;
  return windows.size === 1 && window !== null ? window : undefined;
}
