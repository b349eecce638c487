import { at } from "../../core/util/indexing.ts";
import type { MethodContext, Statistics } from "../define.ts";

/** One object of named vectors for each layer: those kept under `key`, else what `compute` gives. They are kept in
 * f32. */
export async function rememberLayers<Name extends string>(
  { model, remember }: MethodContext<unknown>,
  key: string,
  compute: () => Promise<Record<Name, ArrayLike<number>>[]>,
): Promise<Record<Name, Float64Array>[]> {
  const stored = await remember(key, async () => {
    const statistics: Statistics = {};
    for (const [l, vectors] of (await compute()).entries()) {
      for (const [name, values] of Object.entries<ArrayLike<number>>(vectors)) {
        const data = Float32Array.from(values);
        statistics[`${l}.${name}`] = { shape: [data.length], data };
      }
    }
    return statistics;
  });
  const layers = model.config.layers.map((): Record<string, Float64Array> => ({}));
  for (const [place, { data }] of Object.entries(stored)) {
    const [l, ...name] = place.split(".");
    at(layers, Number(l))[name.join(".")] = Float64Array.from(data);
  }
  return layers as Record<Name, Float64Array>[];
}
