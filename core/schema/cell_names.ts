/** What cells are called: in file names, in progress and in tables.
 *
 * @module
 */
import { canonicalJson } from "../util/canonical_json.ts";
import { counted } from "../util/words.ts";
import { UsageError } from "../util/errors.ts";
import { calibrationSchema, type Cell, runConfigSchema, trainingSchema } from "./schema.ts";

/** A cell with its id. */
export interface NamedCell {
  /** 16 hex digits, a hash of everything that decides the cell's model. */
  id: string;
  cell: Cell;
}

/** What people call a corpus: reports do not show where a file of the user's lies on a machine. */
export function corpusLabel(corpus: string): string {
  return corpus.replace(/^file:(.*[/\\])?(?=.)/s, "");
}

/** How a cell's files are called, for people: {@linkcode cellName} makes sure that it can name a file. */
export function filesWords({ id, cell }: NamedCell): string {
  return cell.method === null ? `dense-${id}` : `${cell.method.id}-${cell.sparsity}-s${cell.seed}-${id}`;
}

/** Name of a cell's record and other files: readable first, unique by its id.
 * @throws {UsageError} when it would not be the plain name of a file. */
export function cellName(named: NamedCell): string {
  const name = filesWords(named);
  if (/^\w[^/\\\p{Cc}]*$/u.test(name)) return name;
  throw new UsageError(`${JSON.stringify(name)} cannot name a cell's files: method and id must hold no slash`);
}

/** A setting of a cell that may tell it from others: its value as text, and how people say it. */
interface Setting {
  value: string;
  words: string;
}

/** `biasCompensation` -> `bias compensation`. */
const spaced = (name: string): string => name.replace(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`);

/** A setting as people say it: `bias compensation off`, `error kfac`. */
export function settingWords(name: string, value: unknown): string {
  if (typeof value === "boolean") return value ? spaced(name) : `${spaced(name)} off`;
  const text = Array.isArray(value) ? value.join("+") : typeof value === "object" ? canonicalJson(value) : value;
  return `${spaced(name)} ${text}`;
}

/** Settings of objects as one list: `calibration.tokens` and so on. */
function nested(outer: string, fields: Record<string, unknown>): [string, Setting][] {
  return Object.entries(fields).filter(([, value]) => value !== undefined).map(([name, value]) => [
    `${outer}.${name}`,
    { value: canonicalJson(value), words: settingWords(`${outer} ${name}`, value) },
  ]);
}

const setting = (value: unknown, words: string): Setting => ({ value: canonicalJson(value), words });

const depthWords = (dropLayers: number | null): string =>
  dropLayers === null
    ? "layers as needed"
    : dropLayers === 0
    ? "all layers"
    : `without ${counted(dropLayers, "layer")}`;

/** Everything that decides how a cell is pruned besides method, level and seed, by name. */
function settingsOf(
  cell: Partial<Cell> & Pick<Cell, "method" | "units" | "ffnMultiple" | "calibration">,
): Map<string, Setting> {
  const { method, methodFile, units, ffnMultiple, calibration, recover, compensate, training, weights } = cell;
  const { budget = "parameters", latency = null, dropLayers = null } = cell;
  const options = Object.entries(method?.options ?? {}).map(([name, value]): [string, Setting] => [
    `option ${name}`,
    setting(value, settingWords(name, value)),
  ]);
  return new Map<string, Setting>([
    ["recover", setting(recover ?? null, recover ? `+ ${recover === "lora" ? "LoRA" : recover}` : "without recovery")],
    ["compensate", setting(compensate ?? null, compensate?.replaceAll("-", " ") ?? "without compensation")],
    ...options,
    ["version", setting(method?.version ?? 1, settingWords("version", method?.version ?? 1))],
    ["units", setting(units, settingWords("units", units))],
    ["dropLayers", setting(dropLayers, depthWords(dropLayers))],
    ["budget", setting(budget, settingWords("budget", budget))],
    ["latency", setting(latency, latency ? `times ${latency.slice(0, 8)}` : "no times")],
    ["ffnMultiple", setting(ffnMultiple, settingWords("ffnMultiple", ffnMultiple))],
    ["weights", setting(weights ?? null, weights ? "weights as stored" : "weights in f32")],
    ...nested("calibration", calibration),
    ...nested("training", training ?? {}),
    ...methodFile ? [["file", setting(methodFile.sha256, `file ${methodFile.sha256.slice(0, 8)}`)] as const] : [],
  ]);
}

/** Values that need no mention wherever they occur: the schema's own defaults. */
const USUAL: ReadonlyMap<string, string> = new Map(
  [
    ...settingsOf({
      method: null,
      units: runConfigSchema.shape.units.parse(undefined),
      ffnMultiple: 1,
      calibration: calibrationSchema.parse({ corpus: "" }),
      training: trainingSchema.parse({}),
    }),
  ].filter(([name]) => name !== "calibration.corpus" && name !== "version").map(([name, { value }]) => [name, value]),
);

/** The value of each setting that needs no mention among `cells` of one method: its default, where that is known. */
function defaultsOf(cells: readonly Cell[]): Map<string, string> {
  const values = new Map(USUAL);
  for (const { method } of cells) {
    const { options = {}, changed } = method ?? {};
    for (const [name, value] of Object.entries(options)) {
      if (changed?.includes(name) === false) values.set(`option ${name}`, canonicalJson(value));
    }
  }
  return values;
}

function labelsOfMethod(id: string, cells: readonly Cell[]): Map<Cell, string> {
  const settings = new Map(cells.map((cell) => [cell, settingsOf(cell)]));
  const variants = [...new Map([...settings.values()].map((one) => [canonicalJson([...one]), one])).values()];
  const usual = defaultsOf(cells);
  const names = new Set(variants.flatMap((variant) => [...variant.keys()]));
  const changed = new Set(cells.flatMap(({ method }) => method?.changed ?? []).map((name) => `option ${name}`));
  const told = [...names].filter((name) => {
    if (changed.has(name)) return true;
    // What trains is told by other settings; how it trains is compared among those that do.
    const having = name.startsWith("training.") ? variants.filter((variant) => variant.has(name)) : variants;
    return new Set(having.map((variant) => variant.get(name)?.value)).size > 1;
  });
  return new Map(cells.map((cell) => {
    const own = settings.get(cell);
    const shown = told.flatMap((name) => {
      const one = own?.get(name);
      return one === undefined || one.value === usual.get(name) ? [] : [one.words];
    });
    return [cell, [id, ...shown].reduce((text, words) => `${text}${words.startsWith("+") ? " " : ", "}${words}`)];
  }));
}

/** What people call the method of each cell: `wanda-sp`, `wanda-sp + LoRA`, `mask-prune, split fixed`. Options away
 * from their defaults are named, other settings only where cells of one method differ in them, level and seed never.
 * Cells of one method get the same label exactly when these settings are equal. The dense model is `dense`. */
export function labelCells(cells: readonly Cell[]): string[] {
  const labels = new Map<Cell, string>();
  for (const [id, own] of Map.groupBy(cells, ({ method }) => method?.id ?? null)) {
    for (const [cell, label] of id === null ? own.map((cell) => [cell, "dense"] as const) : labelsOfMethod(id, own)) {
      labels.set(cell, label);
    }
  }
  return cells.map((cell) => labels.get(cell) ?? "dense");
}

/** Labels for single cells, by id: `flap 25 %`, and the seed where there are several. */
export function cellLabels(named: readonly NamedCell[]): Map<string, string> {
  const seeds = new Set(named.flatMap(({ cell }) => cell.method ? [cell.seed] : []));
  const labels = labelCells(named.map(({ cell }) => cell));
  return new Map(named.map(({ id, cell }, i) => {
    const label = labels[i] ?? id;
    if (cell.method === null) return [id, label];
    const percent = Number((cell.sparsity * 100).toFixed(4));
    return [id, `${label} ${percent} %${seeds.size > 1 ? ` seed ${cell.seed}` : ""}`];
  }));
}
