/** A small model, a plan of it, and what a run would keep of a cell that learned it. */
import { type Cell, cellSchema } from "../../core/schema/schema.ts";
import { type DecoderConfig, type HostTensor, LINEAR_NAMES, linearShape } from "../../models/config.ts";
import { plannedConfig } from "../../models/plan.ts";
import { adapterName } from "../../models/training/lora.ts";
import type { Rebuild, TrainedParts } from "../../models/training/rebuild.ts";
import { PLANS } from "./export_fixture.ts";
import { toyConfig } from "./toy.ts";

/** A cell with an id. */
export const REBUILT: { id: string; cell: Cell } = {
  id: "a1b2c3d4e5f60718",
  cell: cellSchema.parse({
    model: "toy",
    engine: "wasm",
    method: { id: "mask-prune", options: {} },
    sparsity: 0.5,
    seed: 0,
    units: ["ffn"],
    ffnMultiple: 1,
    calibration: { corpus: "c", sequences: 2, tokens: 3 },
    perplexity: [],
    tasks: [],
  }),
};

/** The model that `PLANS` are for. */
export const REBUILT_FROM: DecoderConfig = toyConfig({
  vocabSize: 300,
  layers: [1, 2].map(() => ({ kvGroups: 3, queryHeadsPerGroup: 2, ffnChannels: 24 })),
  tiedHead: false,
});

/** A tensor of waves. */
export const waves = (...shape: number[]): HostTensor => ({
  shape,
  data: Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => Math.sin(i)),
});

/** Adapters on every linear map of `config`. */
export function adaptersOf(config: DecoderConfig, rank: number): TrainedParts {
  const adapters: TrainedParts["adapters"] = {};
  for (const [l, shape] of config.layers.entries()) {
    for (const name of LINEAR_NAMES) {
      const [output, input] = linearShape(config, shape, name);
      adapters[adapterName(l, name, "down")] = waves(input, rank);
      adapters[adapterName(l, name, "up")] = waves(rank, output);
    }
  }
  return { scale: 2, adapters };
}

const compact = plannedConfig(REBUILT_FROM, PLANS.uniform);

/** Adapters and masks on `PLANS.uniform`, after least squares. */
export const REBUILD: Rebuild = {
  plan: PLANS.uniform,
  replaced: {},
  trained: {
    ...adaptersOf(compact, 2),
    masks: compact.layers.map(({ ffnChannels }) => ({ ffn: waves(ffnChannels).data })),
  },
  windows: [Int32Array.of(1, 2, 3), Int32Array.of(0, 299, 7)],
};
