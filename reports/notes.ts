/** Notes under the tables: what signs and columns mean. One sentence is one claim.
 *
 * @module
 */
import { budgetWords, MOST_OFF } from "./budget.ts";
import type { ResultTableId, TableCell, TableRow } from "./document.ts";
import { unique } from "./format.ts";
import { type Section } from "./sections.ts";
import { ALPHA, CLEAR, PAIRED_TESTS } from "./paired_tests.ts";
import { deviceHours, type ResultTable } from "./result_tables.ts";
import { mixedWords } from "./warnings.ts";

/** Meaning of the signs that a table really has. */
export function legend(id: ResultTableId, rows: readonly TableRow[]): string[] {
  const cells = rows.flatMap((row) => row.cells);
  const has = (test: (cell: TableCell) => boolean) => cells.some(test);
  const signs: [shown: boolean, text: string][] = [
    [
      has(({ spread }) => spread.includes("±")),
      `± standard deviation over ${id === "size" ? "timed repeats" : "seeds"}`,
    ],
    [has(({ spread }) => spread.includes("[")), "[…] 95 % interval. The dense row shows the measurement error"],
    [has(({ spread }) => spread.includes("(")), "(…) standard error of one run over windows or examples"],
    [has(({ sign }) => sign === "*"), "* clearly better than every other method of its level"],
    [has(({ sign }) => sign === "≈"), "≈ not clearly worse than the best"],
    [has(({ sign }) => sign === "*" || sign === "≈"), CLEAR.slice(0, -1)],
    [has(({ sign }) => sign === "?"), "? speed-up in doubt: its error interval contains 1, or spans a factor of 4"],
    [
      has(({ sign }) => sign === "≠"),
      `≠ the model's time differs by more than ${100 * MOST_OFF} % from the requested time`,
    ],
  ];
  return signs.flatMap(([shown, text]) => shown ? [`${text}.`] : []);
}

function qualityNotes(section: Section, { columns, rows }: ResultTable): string[] {
  const has = (id: string) => columns.some((column) => column.id === id);
  const seeds = unique(section.runs.map(({ cell }) => cell.seed));
  const means = section.columns.filter(({ kind }) => kind === "mean-accuracy");
  return [
    ...has("met")
      ? [`Met: percent removed of the ${budgetWords(section).long}; times alternate with the dense model's.`]
      : [],
    ...has("equal-accuracy")
      ? [
        "Equal acc.: interpolated speed-up at which accuracy is one point below the dense model's.",
        "Its interval comes from paired tests of accuracy, not corrected.",
      ]
      : [],
    "Removed: percent of the prunable parameters, and of the whole model, as measured.",
    ...seeds.length === 1 ? [`Each cell has one seed (${seeds.join("")}): the spread between seeds is unknown.`] : [],
    "The best of each level is bold, the second best underlined.",
    ...!rows.some(({ cells }) => cells.some(({ sign }) => sign === "*" || sign === "≈")) ? [] : [
      PAIRED_TESTS,
      `Holm's method corrects the tests and intervals of each column together, at ${ALPHA}.`,
      "The choice of the best row is not corrected: with ten equivalent methods, one is flagged as clearly worse " +
      "about once in six levels.",
    ],
    ...mixedWords(section),
    ...means.map(({ protocol }) => `Mean accuracy is the ${protocol}.`),
  ];
}

function throughputNotes({ pruned }: Section): string[] {
  const ups = pruned.flatMap(({ speedUps }) => [...speedUps.values()]);
  const has = (kind: string) => ups.some(({ spreadOf }) => spreadOf === kind);
  return [
    ...has("interval")
      ? [
        "Speed-up: geometric mean of the ratios of neighbouring repeats, which alternate with the dense model's.",
        "Models of one shape share a measurement.",
      ]
      : [],
    ...has("repeats")
      ? [
        `Speed-up${has("interval") ? " of repeats that do not alternate" : ""}: ` +
        "tokens/s over the dense model's on the same machine.",
        "The error of a speed-up is twice the ±.",
      ]
      : [],
  ];
}

function costNotes(section: Section): string[] {
  const hours = section.rows.reduce((sum, row) => sum + deviceHours(row), 0);
  return [
    "Seconds are those of one cell, averaged over seeds.",
    "Pruning includes scores, cut and compensation.",
    "Learning includes recovery.",
    "Device-hours include loading, throughput and failed cells, over all seeds.",
    `The whole run took ${hours.toFixed(3)} device-hours.`,
    ...unique(section.runs.map(({ memory }) => `Peak memory: ${memory.measure}.`)),
  ];
}

/** How to read a table. */
export function tableNotes(id: ResultTableId, section: Section, table: ResultTable): string[] {
  switch (id) {
    case "quality":
      return qualityNotes(section, table);
    case "size":
      return [
        "MACs: multiply-accumulates of one sequence of 64 tokens, counted as by LLM-Pruner.",
        "Weights: as held on the device.",
        ...throughputNotes(section),
      ];
    case "cost":
      return costNotes(section);
  }
}
