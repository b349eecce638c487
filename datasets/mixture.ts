/** Training windows from several corpora in fixed parts.
 *
 * @module
 */
import { at } from "../core/util/indexing.ts";
import type { Rng } from "../core/util/rng.ts";

/** Text of one kind. */
export interface Domain {
  /** Unique among the domains. */
  name: string;
  /** Part of the windows that are drawn from it; those of all domains sum to 1. */
  weight: number;
  /** i32 [T] each, read in order and once. */
  windows: Int32Array[];
}

/** `count` windows; each draws its domain by the weights.
 * @throws {RangeError} when a domain has no window left. */
export function mixWindows(domains: readonly Domain[], count: number, rng: Rng): Int32Array[] {
  const used = domains.map(() => 0);
  return Array.from({ length: count }, () => {
    let rest = rng.uniform();
    // Rounding may leave something of the draw; the last domain takes it.
    const found = domains.findIndex(({ weight }) => (rest -= weight) < 0);
    const i = found < 0 ? domains.length - 1 : found;
    const { name, windows } = at(domains, i);
    const window = windows[at(used, i)];
    if (!window) throw new RangeError(`Domain "${name}" has only ${windows.length} windows`);
    used[i] = at(used, i) + 1;
    return window;
  });
}
