/** A report's numbers as CSV (RFC 4180): full precision, fractions not percents.
 *
 * @module
 */
import type { ReportDocument } from "./document.ts";
import { type Estimate } from "./estimates.ts";
import { hasRuns, type Row, type Section } from "./sections.ts";
import { SETTINGS, settingText, trainingDone } from "./settings.ts";
import { deviceHours, meanOf } from "./result_tables.ts";

type Value = string | number | boolean | null | undefined;
type Line = Record<string, Value>;

function field(value: Value): string {
  const text = value === null || value === undefined || Number.isNaN(value) ? "" : String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** Lines with the names of the first one as header. */
const table = ([first = {}, ...others]: Line[]): string =>
  [Object.keys(first), ...[first, ...others].map((line) => Object.values(line))]
    .map((line) => line.map(field).join(",") + "\r\n").join("");

const head = (row: Row, { model, weightsSha256, engine }: Section): Line => ({
  model,
  weights_sha256: weightsSha256,
  engine,
  method: row.methodId ?? "dense",
  label: row.label,
  options: JSON.stringify(row.cell.method?.options ?? {}),
  state: hasRuns(row) ? "done" : "failed",
  seeds: row.seeds.join(" "),
  failed_cells: row.failures.length,
  failure: row.failures.map(({ failure }) => `${failure.kind}: ${failure.message}`).join("; "),
  asked_sparsity: row.cell.checkpoint ? null : row.asked,
});

const protocolOf = (row: Row): Line => ({
  ...Object.fromEntries(SETTINGS.map((setting) => [setting.name.replaceAll(" ", "_"), settingText(setting, row)])),
  training_steps: row.runs[0]?.training && trainingDone(row.runs[0].training).steps,
  training_tokens: row.runs[0]?.training && trainingDone(row.runs[0].training).tokens,
  library: row.runs[0]?.environment.library,
  device: row.runs[0]?.environment.device,
  threads: row.runs[0]?.environment.threads,
});

function sizeAndCost(row: Row): Line {
  const mean = (pick: (run: Row["runs"][number]) => number) => hasRuns(row) ? meanOf(row, pick) : null;
  const all = (pick: (run: Row["runs"][number]) => boolean) => hasRuns(row) ? row.runs.every(pick) : null;
  return {
    sparsity_of_prunable: mean(({ size }) => size.sparsityOfPrunable),
    sparsity_of_model: mean(({ size }) => size.sparsityOfModel),
    parameters: mean(({ size }) => size.parameters),
    prunable_parameters: mean(({ size }) => size.prunableParameters),
    macs64: mean(({ size }) => size.macs64),
    weight_bytes: mean(({ size }) => size.weightBytes),
    kv_bytes_per_token: mean(({ size }) => size.kvBytesPerToken),
    after_load_bytes: mean(({ memory }) => memory.afterLoadBytes),
    peak_bytes: mean(({ memory }) => memory.peakBytes),
    memory_measure: row.runs[0]?.memory.measure,
    load_s: mean(({ timings }) => timings.loadS),
    prune_s: mean(({ timings }) => timings.pruneS),
    learn_s: mean(({ timings }) => timings.learnS),
    evaluate_s: mean(({ timings }) => timings.evaluateS),
    device_hours: deviceHours(row),
    layerwise_uniform: all(({ size }) => size.layerwiseUniform),
    plain_llama: all(({ size }) => size.plainLlama),
  };
}

/** A measured quantity: name of its columns, key of the section's column, and estimate of a row. */
interface Measured {
  slug: string;
  key: string;
  /** Whether it may have a 95 % interval. */
  hasInterval: boolean;
  pick(row: Row): Estimate | undefined;
}

function measuredColumns(sections: readonly Section[]): Measured[] {
  const columns = new Map(sections.flatMap(({ columns }) => columns.map((column) => [column.key, column] as const)));
  const all = [...columns.values()].flatMap(({ key, kind, slug }): Measured[] =>
    kind === "throughput"
      ? [
        { slug: `${slug}_tokens_per_s`, key, hasInterval: false, pick: (row) => row.values.get(key) },
        { slug: `${slug}_speed_up`, key, hasInterval: true, pick: (row) => row.speedUps.get(key) },
      ]
      : [{ slug, key, hasInterval: false, pick: (row) => row.values.get(key) }]
  );
  const taken = new Map<string, number>();
  return all.map((own) => {
    const before = taken.get(own.slug) ?? 0;
    taken.set(own.slug, before + 1);
    return before === 0 ? own : { ...own, slug: `${own.slug}_${before + 1}` };
  });
}

function estimated({ slug, hasInterval, pick }: Measured, row: Row): Line {
  const { value, spread, interval, spreadOf, n } = pick(row) ?? {};
  return {
    [slug]: value,
    [`${slug}_spread`]: spread,
    ...hasInterval && { [`${slug}_low`]: interval?.[0], [`${slug}_high`]: interval?.[1] },
    [`${slug}_spread_of`]: spreadOf,
    [`${slug}_n`]: n,
  };
}

/** One line per row of all sections; columns that a section lacks are empty there.
 *
 * `_spread` is the sample standard deviation or the standard error; `_spread_of` says which: `seeds` or `repeats`,
 * or `stderr` of one run. `_low` and `_high` are the ends of a 95 % interval (`interval`). `_n` counts seeds or
 * repeats. */
export function toCsv(document: ReportDocument): string {
  const sections = document.sections.map(({ results }) => results);
  const measured = measuredColumns(sections);
  return table(sections.flatMap((section) =>
    section.rows.map((row) => ({
      ...head(row, section),
      ...protocolOf(row),
      ...sizeAndCost(row),
      ...Object.assign({}, ...measured.map((own) => estimated(own, row))),
    }))
  ));
}

/** One line per finished row and seed, with the value of each column. */
export function toSeedCsv(document: ReportDocument): string {
  const sections = document.sections.map(({ results }) => results);
  const measured = measuredColumns(sections).filter(({ hasInterval }) => !hasInterval);
  return table(sections.flatMap((section) =>
    section.rows.flatMap((row) => {
      const { model, engine, method, label, options, asked_sparsity } = head(row, section);
      const { recovery, compensation, training, calibration } = protocolOf(row);
      return row.runs.map(({ cell: { seed }, id, size }) => ({
        ...{ model, engine, method, label, options, asked_sparsity, seed, cell: id },
        ...{ recovery, compensation, training, calibration },
        sparsity_of_prunable: size.sparsityOfPrunable,
        parameters: size.parameters,
        ...Object.fromEntries(measured.map(({ slug, key }) => [slug, row.bySeed.get(key)?.get(seed)])),
      }));
    })
  ));
}
