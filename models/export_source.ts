/** Checkpoints derived from other checkpoints for export: pruned, or padded with zeros. Tensors are made one at a time,
 * in host memory, when they are read.
 *
 * @module
 */
import { at } from "../core/util/indexing.ts";
import { spread, takeColumns, takeRows } from "./host_matrix.ts";
import {
  type DecoderConfig,
  expectedTensors,
  type HostTensor,
  isHeadNorm,
  layerNorms,
  LINEAR_NAMES,
  type LinearName,
  linearShape,
  tensorNames,
  type WeightSource,
  writesResidual,
} from "./config.ts";
import { keptLayers, plannedConfig, type PrunePlan } from "./plan.ts";
import { BIAS_KEYS } from "./families/family.ts";
import { hfFamilyOf } from "./families/mod.ts";
import { keptIndices, keptOfLinear } from "./surgery.ts";
import { type LayerShape, layerShape, queryHeads, widthOf } from "./units.ts";

/** A linear map's weight or bias, which an export changes. */
interface LinearTensor {
  layer: number;
  linear: LinearName;
  isBias: boolean;
}

/** Every weight and bias of the linear maps, by Hugging Face name. */
function linearTensors(config: DecoderConfig): Map<string, LinearTensor> {
  const found = new Map<string, LinearTensor>();
  config.layers.forEach((_, layer) => {
    for (const linear of LINEAR_NAMES) {
      found.set(tensorNames.weight(layer, linear), { layer, linear, isBias: false });
      found.set(tensorNames.bias(layer, linear), { layer, linear, isBias: true });
    }
  });
  return found;
}

/** The checkpoint with the units of `plan`: the weights of `pruneModel`, without a device.
 * @throws {RangeError} when the plan does not fit the model. */
export function prunedSource(source: WeightSource, plan: PrunePlan): WeightSource {
  const config = plannedConfig(source.config, plan);
  const linears = linearTensors(config);
  const dense = keptLayers(plan);
  const norms = new Map(
    dense.flatMap((from, to) =>
      layerNorms(config).map(([name]) =>
        [
          tensorNames.norm(to, name),
          { stored: tensorNames.norm(from, name), kept: isHeadNorm(name) ? undefined : plan.hidden },
        ] as const
      )
    ),
  );
  const rows = (x: HostTensor, kept?: readonly number[]) =>
    kept && kept.length < at(x.shape, 0)
      ? { shape: [kept.length, ...x.shape.slice(1)], data: takeRows(x.data, x.shape[1] ?? 1, kept) }
      : x;
  const columns = (x: HostTensor, kept?: readonly number[]) =>
    kept && kept.length < at(x.shape, 1)
      ? { shape: [at(x.shape, 0), kept.length], data: takeColumns(x.data, at(x.shape, 1), kept) }
      : x;
  return {
    config,
    origin: source.origin,
    read: (name) => {
      const found = linears.get(name);
      if (!found) {
        const norm = norms.get(name);
        if (norm) return rows(source.read(norm.stored), norm.kept);
        const tensor = source.read(name);
        return tensor.shape.length === 1 ? rows(tensor, plan.hidden) : columns(tensor, plan.hidden);
      }
      const from = at(dense, found.layer);
      const { inputs, outputs } = keptOfLinear(plan, from, found.linear, config.headSize);
      if (found.isBias) return rows(source.read(tensorNames.bias(from, found.linear)), outputs);
      return columns(rows(source.read(tensorNames.weight(from, found.linear)), outputs), inputs);
    },
    close: () => source.close(),
  };
}

function widestLayer({ layers }: DecoderConfig): LayerShape {
  return layerShape((type) => layers.reduce((max, shape) => Math.max(max, widthOf(shape, type)), 0));
}

/** Place of each row of a layer's units in a wider layer: query heads stay with their group. */
function placesIn(shape: LayerShape, wide: LayerShape, linear: LinearName, headSize: number): number[] {
  const perGroup = shape.queryHeadsPerGroup;
  const head = (head: number) => Math.floor(head / perGroup) * wide.queryHeadsPerGroup + head % perGroup;
  return keptIndices(
    {
      kvGroups: [...Array(shape.kvGroups).keys()],
      queryHeads: Array.from({ length: queryHeads(shape) }, (_, h) => head(h)),
      ffnChannels: [...Array(shape.ffnChannels).keys()],
    },
    linear,
    headSize,
  );
}

/** Pads every layer to the widest one with zero units, which do not change the output: a zero channel meets zero
 * columns of the down map, a zero head zero columns of the output map. The result is layer-wise uniform. */
export function paddedSource(source: WeightSource): WeightSource {
  const wide = widestLayer(source.config);
  const config: DecoderConfig = { ...source.config, layers: source.config.layers.map(() => wide) };
  const linears = linearTensors(config);
  return {
    config,
    origin: source.origin,
    read: (name) => {
      const tensor = source.read(name);
      const found = linears.get(name);
      if (!found || found.isBias && writesResidual(found.linear)) return tensor;
      const places = placesIn(at(source.config.layers, found.layer), wide, found.linear, config.headSize);
      const [out, input] = linearShape(config, wide, found.linear);
      if (found.isBias) return { shape: [out], data: spread(tensor.data, [out, 1], places) };
      const [rows, columns] = writesResidual(found.linear) ? [undefined, places] : [places, undefined];
      return { shape: [out, input], data: spread(tensor.data, [out, input], rows, columns) };
    },
    close: () => source.close(),
  };
}

/** Adds zero biases if only some maps of a block have one, and the family's `config.json` has one key for all maps of
 * the attention or the FFN. */
export function completedBiases(source: WeightSource): WeightSource {
  const { config } = source;
  const { hf } = hfFamilyOf(config).family;
  const blocks = Object.entries(BIAS_KEYS).flatMap(([key, block]): (readonly LinearName[])[] =>
    hf.biases.some((name) => name === key) ? [block] : []
  );
  const biases = LINEAR_NAMES.filter((name) =>
    config.biases.includes(name) ||
    blocks.some((block) => block.includes(name) && block.some((other) => config.biases.includes(other)))
  );
  if (biases.length === config.biases.length) return source;
  const completed = { ...config, biases };
  const shapes = expectedTensors(completed);
  const linears = linearTensors(completed);
  return {
    config: completed,
    origin: source.origin,
    read: (name) => {
      const found = linears.get(name);
      if (!found?.isBias || config.biases.includes(found.linear)) return source.read(name);
      const shape = shapes.get(name) ?? [];
      return { shape, data: new Float32Array(shape[0] ?? 0) };
    },
    close: () => source.close(),
  };
}
