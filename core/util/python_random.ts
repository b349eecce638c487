/** Python's generator of random numbers.
 *
 * @module
 */
import { mersenneFromState } from "pure-rand/generator/mersenne";
import { at } from "./indexing.ts";

const N = 624;

interface PythonRandom {
  /** `getrandbits(bits)` for 1 to 32 bits. */
  bits(bits: number): number;
  /** `sample(range(size), count)`.
   * @throws {RangeError} when `count` exceeds `size`. */
  sample(size: number, count: number): number[];
}

/** State of the Mersenne Twister MT19937 for an integer seed below 2^32 (Matsumoto and Nishimura 1998, `init_by_array`
 * with one word, as CPython seeds it). */
function seededState(seed: number): Uint32Array {
  const state = new Uint32Array(N);
  state[0] = 19_650_218;
  const mixed = (i: number, factor: number) => {
    const before = at(state, i - 1);
    return Math.imul(before ^ (before >>> 30), factor);
  };
  for (let i = 1; i < N; i++) state[i] = mixed(i, 1_812_433_253) + i;
  let i = 1;
  const advance = () => {
    if (++i < N) return;
    state[0] = at(state, N - 1);
    i = 1;
  };
  for (let k = 0; k < N; k++) {
    state[i] = (at(state, i) ^ mixed(i, 1_664_525)) + seed;
    advance();
  }
  for (let k = 0; k < N - 1; k++) {
    state[i] = (at(state, i) ^ mixed(i, 1_566_083_941)) - i;
    advance();
  }
  state[0] = 0x8000_0000;
  return state;
}

/** Python's `random.Random(seed)`. Published few-shot results were drawn with it, and only the same draws give the same
 * prompts. */
export function createPythonRandom(seed: number): PythonRandom {
  const generator = mersenneFromState([0, ...seededState(seed)]);
  // The library updates a word after using it, CPython before.
  for (let i = 0; i < N; i++) generator.next();
  const bits = (count: number) => (generator.next() >>> 0) >>> (32 - count);
  /** A number below `limit`, as `_randbelow`. */
  const below = (limit: number) => {
    const width = 32 - Math.clz32(limit);
    for (;;) {
      const value = bits(width);
      if (value < limit) return value;
    }
  };
  const sample = (size: number, count: number) => {
    if (count > size) throw new RangeError(`A sample of ${count} cannot be drawn from ${size}`);
    // As in CPython: small pools by moving the rest, large ones by drawing again.
    const poolLimit = 21 + (count > 5 ? 4 ** Math.ceil(Math.log(count * 3) / Math.log(4)) : 0);
    if (size <= poolLimit) {
      const pool = Array.from({ length: size }, (_, i) => i);
      return Array.from({ length: count }, (_, i) => {
        const j = below(size - i);
        const value = at(pool, j);
        pool[j] = at(pool, size - i - 1);
        return value;
      });
    }
    const drawn = new Set<number>();
    while (drawn.size < count) drawn.add(below(size));
    return [...drawn];
  };
  return { bits, sample };
}
