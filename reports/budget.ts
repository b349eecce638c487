/** Requested and met budgets: the counted quantity, and whether measured times match.
 *
 * @module
 */
import { mean } from "../core/util/stats.ts";
import type { Budget } from "../core/schema/schema.ts";
import type { Column } from "./columns.ts";
import type { Row, Section } from "./sections.ts";

/** What the sparsity is a part of: in a sentence, and in the second line of a header. */
export const BUDGET_WORDS: Record<Budget, { long: string; short: string }> = {
  "parameters": { long: "prunable parameters", short: "prunable" },
  "macs": { long: "multiply-accumulates of the layers", short: "MACs" },
  "prefill-ms": { long: "prefill time of the layers", short: "prefill time" },
  "decode-ms": { long: "decoding time of the layers", short: "decoding time" },
};

/** The budgets of a section's pruned rows. */
export const budgetsOf = ({ rows }: Pick<Section, "rows">): Budget[] => [
  ...new Set(
    rows.filter(({ methodId, cell }) => methodId !== null && !cell.checkpoint)
      .map(({ cell }): Budget => cell.budget ?? "parameters"),
  ),
];

/** What the levels of a section are parts of, in a header and in a sentence. */
export function budgetWords(section: Pick<Section, "rows">): { short: string; long: string } {
  const [budget = "parameters", ...others] = budgetsOf(section);
  return others.length > 0 ? { short: "the budget", long: "budgets" } : BUDGET_WORDS[budget];
}

/** Part of its budget's resource that a row removed, by count or by the table of times; mean over seeds. */
export const realised = ({ runs }: Pick<Row, "runs">): number =>
  mean(runs.map(({ size, budget }) => budget ? 1 - budget.left / budget.whole : size.sparsityOfPrunable));

/** The timed pass that a budget in time is about. */
const PASS: Partial<Record<Budget, string>> = { "prefill-ms": "pp", "decode-ms": "tg" };

/** Columns of throughput: first the one that the section's budget in time is about. */
export function speedsOf(section: Pick<Section, "rows" | "speeds">): Column[] {
  const passes = budgetsOf(section).map((budget) => PASS[budget]);
  const isAsked = ({ name }: Column) => passes.some((pass) => pass !== undefined && name.startsWith(pass));
  return section.speeds.toSorted((a, b) => Number(isAsked(b)) - Number(isAsked(a)));
}

/** From what share on a time is marked as another than the one asked for. */
export const MOST_OFF = 0.05;

/** The removed part of a row's resource, counted, or timed in turns with the dense model; and by what part the model's
 * time, layers and rest, is `off` the one asked for. Undefined where a budget in time was not timed. */
export function metBudget(
  { cell, runs, speedUps }: Row,
  speeds: readonly Column[],
): { part: number; off: number } | undefined {
  const [budget] = runs.flatMap(({ budget }) => budget ?? []);
  const pass = PASS[cell.budget ?? "parameters"];
  if (budget === undefined || pass === undefined) return { part: realised({ runs }), off: 0 };
  const column = speeds.find(({ name }) => name.startsWith(pass));
  const speedUp = column && speedUps.get(column.key);
  if (speedUp === undefined) return undefined;
  const { whole, rest, asked } = budget;
  const total = (whole + rest) / speedUp.value;
  return { part: 1 - (total - rest) / whole, off: total / (asked + rest) - 1 };
}
