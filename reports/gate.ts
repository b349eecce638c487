/** Conditions on what run B changes against run A, for continuous integration: `perplexity > +2%`, `acc < -1`.
 *
 * @module
 */
import { mean } from "../core/util/stats.ts";
import { listed, pValue } from "./format.ts";
import type { Column } from "./columns.ts";
import { findPairs, type Pair, pairRows, rowName, type RowPair, unpaired } from "./pairs.ts";
import type { Section } from "./sections.ts";

const OPERATORS = [">", "<", ">=", "<="] as const;

/** One condition on a change from A to B. */
export interface Condition {
  /** As written. */
  text: string;
  /** A kind of result (`perplexity`, `acc`, `mean`, `speed`), or the name of a corpus, task or throughput test. */
  name: string;
  operator: typeof OPERATORS[number];
  /** Percent of A's value with `relative`; otherwise perplexity, points of accuracy, or tokens per second. */
  limit: number;
  relative: boolean;
}

const CONDITION = /^([^<>]*[^<>\s])\s*(>=|<=|>|<)\s*([+-]?(?:\d+(?:\.\d*)?|\.\d+))\s*(%?)$/;

/** Parses conditions separated by commas; one before an operator belongs to a name.
 * @throws {SyntaxError} that names the part that is none. */
export function parseConditions(text: string): Condition[] {
  return text.split(/(?<=[<>][^<>,]*),/).map((part) => {
    const [, name, sign, limit, unit] = CONDITION.exec(part.trim()) ?? [];
    const operator = OPERATORS.find((own) => own === sign);
    if (name === undefined || operator === undefined) {
      throw new SyntaxError(
        `"${part.trim()}" is not a condition. Write NAME > CHANGE or NAME < CHANGE: "perplexity > +2%" or "acc < -1".`,
      );
    }
    return {
      text: part.trim(),
      name,
      operator,
      limit: Number(limit),
      relative: unit === "%",
    };
  });
}

/** Kinds of results that a condition may name. */
const KINDS: Record<string, (column: Column) => boolean> = {
  perplexity: ({ kind }) => kind === "perplexity",
  acc: ({ kind, isFraction }) => kind === "task" && isFraction,
  mean: ({ kind }) => kind === "mean-accuracy",
  speed: ({ kind }) => kind === "throughput",
};

const isAbout = ({ name }: Condition, column: Column) =>
  Object.hasOwn(KINDS, name) ? KINDS[name]!(column) : column.name === name;

/** Seeds by which both sides of a pair have its result. */
const sharedSeeds = ({ column, a, b }: Pair): number[] =>
  [...a.bySeed.get(column.key)?.keys() ?? []].filter((seed) => b.bySeed.get(column.key)?.has(seed));

/** B against A by these seeds, by all of each where there is none: percent of A's value, or the plain difference with
 * accuracies in points. */
function changeOf({ column, a, b }: Pair, seeds: readonly number[], relative: boolean): number {
  const [before = NaN, after = NaN] = [a, b].map(({ values, bySeed }) =>
    seeds.length === 0
      ? values.get(column.key)?.value
      : mean(seeds.map((seed) => bySeed.get(column.key)?.get(seed) ?? NaN))
  );
  if (relative) return 100 * (after / before - 1);
  return (column.isFraction ? 100 : 1) * (after - before);
}

function holds({ operator, limit }: Condition, change: number): boolean {
  // A change that is no number, such as that from zero, must not pass silently.
  if (Number.isNaN(change)) return true;
  if (operator === ">") return change > limit;
  if (operator === "<") return change < limit;
  return operator === ">=" ? change >= limit : change <= limit;
}

/** Results of A that conditions are about and that B lacks on the same data, or has of fewer seeds. */
function lostResults(rows: readonly RowPair[], conditions: readonly Condition[]): string[] {
  return rows.flatMap(({ section, a, b }) =>
    section.columns.filter((column) => column.primary && conditions.some((one) => isAbout(one, column)))
      .flatMap((column) => {
        // Models of one shape share a measurement of throughput, whose number is that of its repeats.
        const [before = 0, after = 0] = [a, b].map(({ values, seeds }) =>
          values.has(column.key) && column.kind === "throughput" ? seeds.length : values.get(column.key)?.n
        );
        if (after >= before) return [];
        const what = after === 0
          ? "has no result on the same data any more"
          : `has results of ${after} of ${before} seeds`;
        return [`${rowName(section, a)}: ${column.name} ${column.metric}, ${column.count}, ${what}`];
      })
  );
}

/** Which conditions hold for run B against run A, one sentence for each result; none: the gate is open.
 *
 * Results are compared on the same data only, as means over the seeds that both have. What A has and B lacks closes the
 * gate, too: a cell, or a result or seed that a condition is about.
 * @throws {SyntaxError} when a condition names nothing that both runs have. */
export function closedGates(
  sectionsA: readonly Section[],
  sectionsB: readonly Section[],
  conditions: readonly Condition[],
): string[] {
  const rows = pairRows(sectionsA, sectionsB);
  const pairs = findPairs(rows);
  const found = conditions.flatMap((condition) => {
    const own = pairs.filter(({ column }) => isAbout(condition, column));
    if (own.length === 0) {
      const known = [...Object.keys(KINDS), ...new Set(pairs.map(({ column }) => column.name))];
      throw new SyntaxError(
        `"${condition.text}": both runs have no "${condition.name}" on the same data; known: ${listed(known)}`,
      );
    }
    return own.flatMap((pair) => {
      const seeds = sharedSeeds(pair);
      const change = changeOf(pair, seeds, condition.relative);
      if (!holds(condition, change)) return [];
      // The test takes all seeds of both.
      const isOfAll = seeds.length === 0 ||
        [pair.a, pair.b].every(({ bySeed }) => bySeed.get(pair.column.key)?.size === seeds.length);
      const test = pair.test === null || !isOfAll ? "" : `, ${pValue(pair.test.test)} before Holm's correction`;
      const unit = condition.relative ? " %" : "";
      const amount = `${change > 0 ? "+" : ""}${change.toFixed(2)}${unit}`;
      return [
        `${rowName(pair.section, pair.a)}: ${pair.column.name} changed by ${amount}${test}: "${condition.text}" holds`,
      ];
    });
  });
  const lost = lostResults(rows, conditions);
  return [...found, ...lost, ...unpaired(sectionsA, rows).map((name) => `${name}: has no result in the other run`)];
}
