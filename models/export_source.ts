/** Checkpoints derived from other checkpoints for export: pruned, or padded with zeros. Tensors are made one at a time,
 * in host memory, when they are read.
 *
 * @module
 */
import { at } from "../core/util/indexing.ts";
import { spread, takeColumns, takeRows } from "./host_matrix.ts";
import {
  type DecoderConfig,
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
import { BIAS_KEYS, isBiasKey } from "./families/family.ts";
import { hfFamilyOf } from "./families/mod.ts";
import { keptIndices, keptOfLinear } from "./surgery.ts";
import { type LayerShape, layerShape, queryHeads, widthOf } from "./units.ts";

/** `source` with another configuration, and with `changed` tensors by their Hugging Face names. */
function derived(source: WeightSource, config: DecoderConfig, changed: Map<string, () => HostTensor>): WeightSource {
  const { origin } = source;
  return {
    config,
    origin,
    read: (name) => changed.get(name)?.() ?? source.read(name),
    close: () => source.close(),
  };
}

const rows = (x: HostTensor, kept?: readonly number[]): HostTensor =>
  kept && kept.length < at(x.shape, 0)
    ? { shape: [kept.length, ...x.shape.slice(1)], data: takeRows(x.data, x.shape[1] ?? 1, kept) }
    : x;
const columns = (x: HostTensor, kept?: readonly number[]): HostTensor =>
  kept && kept.length < at(x.shape, 1)
    ? { shape: [at(x.shape, 0), kept.length], data: takeColumns(x.data, at(x.shape, 1), kept) }
    : x;

/** The checkpoint with the units of `plan`: the weights of `pruneModel`, without a device.
 * @throws {RangeError} when the plan does not fit the model. */
export function prunedSource(source: WeightSource, plan: PrunePlan): WeightSource {
  const config = plannedConfig(source.config, plan);
  const { hidden } = plan;
  const changed = new Map<string, () => HostTensor>();
  for (const name of [tensorNames.embedding, tensorNames.head]) {
    changed.set(name, () => columns(source.read(name), hidden));
  }
  changed.set(tensorNames.finalNorm, () => rows(source.read(tensorNames.finalNorm), hidden));
  keptLayers(plan).forEach((from, to) => {
    for (const [name] of layerNorms(config)) {
      const kept = isHeadNorm(name) ? undefined : hidden;
      changed.set(tensorNames.norm(to, name), () => rows(source.read(tensorNames.norm(from, name)), kept));
    }
    for (const name of LINEAR_NAMES) {
      const { inputs, outputs } = keptOfLinear(plan, from, name, config.headSize);
      const read = (stored: string) => rows(source.read(stored), outputs);
      changed.set(tensorNames.weight(to, name), () => columns(read(tensorNames.weight(from, name)), inputs));
      changed.set(tensorNames.bias(to, name), () => read(tensorNames.bias(from, name)));
    }
  });
  return derived(source, config, changed);
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
  const { layers, headSize } = source.config;
  const wide = layerShape((type) => Math.max(...layers.map((shape) => widthOf(shape, type))));
  const config: DecoderConfig = { ...source.config, layers: layers.map(() => wide) };
  const changed = new Map<string, () => HostTensor>();
  for (const [l, shape] of layers.entries()) {
    for (const name of LINEAR_NAMES) {
      const places = placesIn(shape, wide, name, headSize);
      const [out, input] = linearShape(config, wide, name);
      const [rows, columns] = writesResidual(name) ? [undefined, places] : [places, undefined];
      const [weight, bias] = [tensorNames.weight(l, name), tensorNames.bias(l, name)];
      changed.set(weight, () => ({
        shape: [out, input],
        data: spread(source.read(weight).data, [out, input], rows, columns),
      }));
      changed.set(bias, () => ({ shape: [out], data: spread(source.read(bias).data, [out, 1], rows) }));
    }
  }
  return derived(source, config, changed);
}

/** Adds zero biases if only some maps of a block have one, and the family's `config.json` has one key for all maps of
 * the attention or the FFN. */
export function completedBiases(source: WeightSource): WeightSource {
  const { config } = source;
  const { hf } = hfFamilyOf(config).family;
  const completed = hf.biases.filter(isBiasKey).map((key): readonly LinearName[] => BIAS_KEYS[key])
    .filter((block) => block.some((name) => config.biases.includes(name))).flat();
  const biases = LINEAR_NAMES.filter((name) => config.biases.includes(name) || completed.includes(name));
  const added = biases.filter((name) => !config.biases.includes(name));
  if (added.length === 0) return source;
  const zeros = config.layers.flatMap((layer, l) =>
    added.map((name): [string, () => HostTensor] => {
      const [out] = linearShape(config, layer, name);
      return [tensorNames.bias(l, name), () => ({ shape: [out], data: new Float32Array(out) })];
    })
  );
  return derived(source, { ...config, biases }, new Map(zeros));
}
