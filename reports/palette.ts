/** Colours and font of figures and tables. A method has the colour of its definition in every run.
 *
 * @module
 */
import { at } from "../core/util/indexing.ts";

/** Colours of methods and variants that have none: the same as long as the same methods are compared. */
const SPARE = "#8F6BC1 #44AA99 #999933 #6699CC #B5577E #5B9A3C #A0622D #DDCC77 #5D3A8F #1B7A6C #61611B #2F5F93 #7D2A4E \
#2F661D #F0A070 #9FB8D8 #D9A0C4 #A9C98F".split(" ");

/** Family of the shipped font; browsers without it take the next ones. */
export const FONT = "Inter, 'Segoe UI', Roboto, Helvetica, Arial, sans-serif";

/** Neutral colours of the figures. The HTML page replaces exactly these in dark mode. */
export const NEUTRAL = {
  paper: "#ffffff",
  ink: "#1f2328",
  muted: "#59636e",
  dense: "#4b535d",
  line: "#c8ced5",
  grid: "#e7eaee",
} as const;

/** Colours of sparsity levels inside one method's panel, from light to heavy pruning. */
export const LEVEL_COLOURS = ["#56B4E9", "#0072B2", "#E69F00", "#D55E00", "#CC79A7", "#8C6D31"] as const;

/** Symbols of points, for what colours do not say. */
export const SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down"] as const;

/** Place of a method in tables and legends, and its colour. */
export interface Display {
  order: number;
  /** A spare one by default. */
  colour?: string;
}

/** Colour of every variant of a method, by its key. The first variant of a method has that method's colour. */
export function colours(
  variants: readonly { variant: string; methodId: string | null }[],
  displays: ReadonlyMap<string, Display>,
): Map<string, string> {
  const result = new Map<string, string>();
  const used = new Set<string>();
  let spare = 0;
  for (const { variant, methodId } of variants) {
    if (result.has(variant) || methodId === null) continue;
    const known = displays.get(methodId)?.colour;
    const own = known !== undefined && !used.has(known) ? known : at(SPARE, spare++ % SPARE.length);
    used.add(own);
    result.set(variant, own);
  }
  return result;
}
