/** One fixed colour and place in the order per method, so that figures of different runs can be read side by side.
 * Colours are Okabe and Ito's and two that stay apart from them for the common kinds of colour blindness; methods the list
 * does not know get spare colours, the same as long as the same methods are compared.
 *
 * @module
 */

import { at } from "../core/util/indexing.ts";

const KNOWN: [id: string, colour: string][] = [
  ["random", "#8C6D31"],
  ["magnitude", "#56B4E9"],
  ["wanda-sp", "#009E73"],
  ["llm-pruner", "#0072B2"],
  ["flap", "#E69F00"],
  ["obs", "#C01884"],
  ["block-influence", "#487058"],
  ["sheared", "#CC79A7"],
  ["mask-prune", "#D55E00"],
];
const SPARE = ["#8F6BC1", "#44AA99", "#999933", "#6699CC", "#B5577E", "#5B9A3C", "#A0622D", "#DDCC77"];

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

/** Place of a method in tables and legends: simple baselines first, learned masks last, unknown methods after. */
export function methodRank(id: string): number {
  const known = KNOWN.findIndex(([name]) => name === id);
  return known < 0 ? KNOWN.length : known;
}

/** Colour of every variant of a method, by its key. The first variant of a known method has that method's colour. */
export function colours(variants: readonly { variant: string; methodId: string }[]): Map<string, string> {
  const result = new Map<string, string>();
  const used = new Set<string>();
  let spare = 0;
  for (const { variant, methodId } of variants) {
    if (result.has(variant)) continue;
    const known = KNOWN.find(([id]) => id === methodId)?.[1];
    const own = known !== undefined && !used.has(known) ? known : at(SPARE, spare++ % SPARE.length);
    used.add(own);
    result.set(variant, own);
  }
  return result;
}

/** Colours of a section's pruned rows, by variant. */
export function rowColours(
  { rows }: { rows: readonly { variant: string; methodId: string | null }[] },
): Map<string, string> {
  return colours(rows.flatMap(({ variant, methodId }) => methodId === null ? [] : [{ variant, methodId }]));
}
