/** The comparison as CSV (RFC 4180): one line per row of the table, full precision, fractions not percents.
 *
 * @module
 */
import { reproduction } from "./reproduction.ts";
import type { Estimate, Row, Section } from "./rows.ts";
import { meanOf } from "./table.ts";

type Value = string | number | boolean | null | undefined;

function field(value: Value): string {
  const text = value === null || value === undefined || Number.isNaN(value) ? "" : String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

const HEAD: [string, (row: Row, section: Section) => Value][] = [
  ["model", (_, { model }) => model],
  ["weights_sha256", (_, { weightsSha256 }) => weightsSha256],
  ["engine", (_, { engine }) => engine],
  ["method", ({ methodId }) => methodId ?? "dense"],
  ["label", ({ label }) => label],
  ["options", ({ runs, failures }) => JSON.stringify((runs[0] ?? failures[0]).cell.method?.options ?? {})],
  ["state", ({ runs }) => runs.length > 0 ? "done" : "failed"],
  ["seeds", ({ seeds }) => seeds.join(" ")],
  ["failed_cells", ({ failures }) => failures.length],
  ["failure", ({ failures }) => failures.map(({ failure }) => `${failure.kind}: ${failure.message}`).join("; ")],
  ["asked_sparsity", ({ asked }) => asked],
];

const SIZE: [string, (run: Row["runs"][number]) => number][] = [
  ["sparsity_of_prunable", ({ size }) => size.sparsityOfPrunable],
  ["sparsity_of_model", ({ size }) => size.sparsityOfModel],
  ["parameters", ({ size }) => size.parameters],
  ["prunable_parameters", ({ size }) => size.prunableParameters],
  ["macs64", ({ size }) => size.macs64],
  ["weight_bytes", ({ size }) => size.weightBytes],
  ["kv_bytes_per_token", ({ size }) => size.kvBytesPerToken],
  ["after_load_bytes", ({ memory }) => memory.afterLoadBytes],
  ["peak_bytes", ({ memory }) => memory.peakBytes],
];

const SHAPE: [string, (run: Row["runs"][number]) => boolean][] = [
  ["layerwise_uniform", ({ size }) => size.layerwiseUniform],
  ["plain_llama", ({ size }) => size.plainLlama],
];

/** A measured column: header and estimate of a row. */
interface Measured {
  slug: string;
  pick(row: Row): Estimate | undefined;
}

function measuredColumns(sections: Section[]): Measured[] {
  const columns = new Map(sections.flatMap(({ columns }) => columns.map((column) => [column.key, column] as const)));
  const taken = new Map<string, number>();
  return [...columns.values()].flatMap(({ key, kind, slug }) => {
    const before = taken.get(slug) ?? 0;
    taken.set(slug, before + 1);
    const unique = before === 0 ? slug : `${slug}_${before + 1}`;
    const own: Measured = { slug: unique, pick: (row) => row.values.get(key) };
    const up: Measured = { slug: unique.replace("tokens_per_s", "speed_up"), pick: (row) => row.speedUps.get(key) };
    return kind === "throughput" ? [own, up] : [own];
  });
}

/** All sections in one file; columns that a section lacks are empty there. `_spread` is the sample standard deviation
 * (`_spread_of` seeds or repeats) or the standard error of one run (stderr); `_n` counts seeds or repeats. */
export function toCsv(sections: Section[]): string {
  const measured = measuredColumns(sections);
  const header = [
    ...HEAD.map(([name]) => name),
    ...SIZE.map(([name]) => name),
    ...SHAPE.map(([name]) => name),
    ...measured.flatMap(({ slug }) => [slug, `${slug}_spread`, `${slug}_spread_of`, `${slug}_n`]),
  ];
  const lines = sections.flatMap((section) =>
    section.rows.map((row): Value[] => {
      const finished = row.runs.length > 0;
      return [
        ...HEAD.map(([, pick]) => pick(row, section)),
        ...SIZE.map(([, pick]) => finished ? meanOf(row, pick) : null),
        ...SHAPE.map(([, pick]) => finished ? row.runs.every(pick) : null),
        ...measured.flatMap(({ pick }): Value[] => {
          const estimate = pick(row);
          if (estimate === undefined) return [null, null, null, null];
          return [estimate.value, estimate.spread, estimate.spreadOf, estimate.n];
        }),
      ];
    })
  );
  return [header, ...lines].map((line) => line.map(field).join(",") + "\r\n").join("");
}

/** A published table beside ours, one line per number; empty where a side is not known. Null where no section is set
 * beside one. */
export function reproductionCsv(sections: Section[]): string | null {
  const header = ["model", "paper", "label", "ours_label", "asked_sparsity", "measure", "ours", "ours_spread", "theirs"]
    .concat(["difference", "source"]);
  const lines = sections.flatMap((section) => {
    const found = reproduction(section);
    return (found?.rows ?? []).flatMap(({ label, published, row, values }) =>
      values.map(({ measure, ours, theirs }): Value[] => [
        section.model,
        found!.title,
        label,
        row.label,
        row.asked,
        measure,
        ours?.value,
        ours?.spread,
        theirs,
        ours === null || theirs === null ? null : ours.value - theirs,
        published.source,
      ])
    );
  });
  return lines.length === 0 ? null : [header, ...lines].map((line) => line.map(field).join(",") + "\r\n").join("");
}
