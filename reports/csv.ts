/** The comparison as CSV (RFC 4180): one line per row of the table, full precision, fractions not percents.
 *
 * @module
 */
import type { ReportDocument } from "./document.ts";
import { protocolCaption, protocolColumns } from "./protocol.ts";
import { reproduction } from "./reproduction.ts";
import { type Estimate, hasRuns, type Row, type Section } from "./rows.ts";
import { deviceHours, meanOf } from "./table.ts";

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
  ["options", ({ cell }) => JSON.stringify(cell.method?.options ?? {})],
  ["state", (row) => hasRuns(row) ? "done" : "failed"],
  ["seeds", ({ seeds }) => seeds.join(" ")],
  ["failed_cells", ({ failures }) => failures.length],
  ["failure", ({ failures }) => failures.map(({ failure }) => `${failure.kind}: ${failure.message}`).join("; ")],
  ["asked_sparsity", ({ asked, cell }) => cell.checkpoint ? null : asked],
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
  ["load_s", ({ timings }) => timings.loadS],
  ["prune_s", ({ timings }) => timings.pruneS],
  ["learn_s", ({ timings }) => timings.learnS],
  ["evaluate_s", ({ timings }) => timings.evaluateS],
];

const SHAPE: [string, (run: Row["runs"][number]) => boolean][] = [
  ["layerwise_uniform", ({ size }) => size.layerwiseUniform],
  ["plain_llama", ({ size }) => size.plainLlama],
];

/** A measured column: header and estimate of a row. */
interface Measured {
  slug: string;
  /** Whether it may have a 95 % interval. */
  hasInterval: boolean;
  pick(row: Row): Estimate | undefined;
}

function measuredColumns(sections: Section[]): Measured[] {
  const columns = new Map(sections.flatMap(({ columns }) => columns.map((column) => [column.key, column] as const)));
  const taken = new Map<string, number>();
  const unique = (slug: string) => {
    const before = taken.get(slug) ?? 0;
    taken.set(slug, before + 1);
    return before === 0 ? slug : `${slug}_${before + 1}`;
  };
  return [...columns.values()].flatMap(({ key, kind, slug }) => {
    const rate = kind === "throughput";
    const name = unique(rate ? `${slug}_tokens_per_s` : slug);
    const own: Measured = { slug: name, hasInterval: false, pick: (row) => row.values.get(key) };
    if (!rate) return [own];
    return [own, { slug: unique(`${slug}_speed_up`), hasInterval: true, pick: (row) => row.speedUps.get(key) }];
  });
}

/** All sections in one file; columns that a section lacks are empty there. `_spread` is the sample standard deviation
 * (`_spread_of` seeds or repeats) or the standard error of one run (stderr); `_low` and `_high` are the ends of a 95 %
 * interval (interval); `_n` counts seeds or repeats. */
export function toCsv(document: ReportDocument): string {
  const sections = document.sections.map(({ results }) => results);
  const measured = measuredColumns(sections);
  const values = (row: Row, section: Section): [string, Value][] => [
    ...HEAD.map(([name, pick]): [string, Value] => [name, pick(row, section)]),
    ...protocolColumns(row),
    ...SIZE.map(([name, pick]): [string, Value] => [name, hasRuns(row) ? meanOf(row, pick) : null]),
    ["device_hours", deviceHours(row)],
    ["memory_measure", row.runs[0]?.memory.measure],
    ...SHAPE.map(([name, pick]): [string, Value] => [name, hasRuns(row) ? row.runs.every(pick) : null]),
    ...measured.flatMap(({ slug, hasInterval, pick }): [string, Value][] => {
      const estimate = pick(row);
      return [
        [slug, estimate?.value],
        [`${slug}_spread`, estimate?.spread],
        ...hasInterval
          ? [[`${slug}_low`, estimate?.interval?.[0]], [`${slug}_high`, estimate?.interval?.[1]]] as [string, Value][]
          : [],
        [`${slug}_spread_of`, estimate?.spreadOf],
        [`${slug}_n`, estimate?.n],
      ];
    }),
  ];
  const lines = sections.flatMap((section) => section.rows.map((row) => values(row, section)));
  return table(lines);
}

/** Lines of named values, with the names of the first line as header. */
function table(lines: [string, Value][][]): string {
  const [first = []] = lines;
  return [first.map(([name]) => name), ...lines.map((line) => line.map(([, value]) => value))]
    .map((line) => line.map(field).join(",") + "\r\n").join("");
}

/** A published table beside ours, one line per number; empty where a side is not known. Null where no section is set
 * beside one. */
export function reproductionCsv(document: ReportDocument): string | null {
  const lines = document.sections.flatMap(({ results: section }) => {
    const found = reproduction(section);
    return (found?.rows ?? []).flatMap(({ label, published, row, values }) =>
      values.map(({ measure, ours, theirs }): [string, Value][] => [
        ["model", section.model],
        ["paper", found?.title],
        ["label", label],
        ["ours_label", row.label],
        ["asked_sparsity", row.asked],
        ["measure", measure],
        ["ours", ours?.value],
        ["ours_spread", ours?.spread],
        ["theirs", theirs],
        ["difference", ours === null || theirs === null ? null : ours.value - theirs],
        ["source", published.source],
        ["protocol", protocolCaption(section)],
      ])
    );
  });
  return lines.length === 0 ? null : table(lines);
}
