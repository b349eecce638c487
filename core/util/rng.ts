/** Named, seeded random streams, one per purpose: an added draw does not change the other streams.
 *
 * @module
 */
import { at } from "./indexing.ts";
import { xoroshiro128plus } from "pure-rand/generator/xoroshiro128plus";

/** A stream of random numbers. */
export interface Rng {
  /** A number in [0, 1) with 32 random bits. */
  uniform(): number;
  /** An integer in [0, `limit`). */
  integer(limit: number): number;
  /** A draw from the standard normal distribution (Box-Muller). */
  normal(): number;
  /** `items` in random order (Fisher-Yates); a new array. */
  shuffle<T>(items: readonly T[]): T[];
  pick<T>(items: readonly T[]): T;
}

/** The stream `name` of `seed`; the same two always give the same numbers. */
export function createRng(seed: number, name: string): Rng {
  // FNV-1a over UTF-16 code units turns the name into a seed.
  let hash = 0x811c9dc5;
  for (let i = 0; i < name.length; i++) hash = Math.imul(hash ^ name.charCodeAt(i), 0x01000193);
  const generator = xoroshiro128plus((seed ^ hash) | 0);
  for (let i = 0; i < 8; i++) generator.next();
  const uniform = () => (generator.next() >>> 0) / 0x1_0000_0000;
  const integer = (limit: number) => Math.floor(uniform() * limit);
  return {
    uniform,
    integer,
    normal: () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform()),
    shuffle: (items) => {
      const result = [...items];
      for (let i = result.length - 1; i > 0; i--) {
        const j = integer(i + 1);
        [result[i], result[j]] = [at(result, j), at(result, i)];
      }
      return result;
    },
    pick: (items) => at(items, integer(items.length)),
  };
}
