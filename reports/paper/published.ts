/** The published tables, of `tables.yaml`, and their rows, from the files beside this one.
 *
 * @module
 */
import { join } from "node:path";
import { parse } from "yaml";
import type { Cell, PaperTableId } from "../../core/schema/schema.ts";

/** What a published table is of. */
export interface PaperTable {
  title: string;
  /** Parameters of its dense model, which identify the model. */
  parameters: number;
  model: string;
  /** What differs even when the preset is run as it is, without a full stop. */
  differences: string[];
}

/** Every published table by its id. */
export const PAPER_TABLE: Record<PaperTableId, PaperTable> = parse(
  Deno.readTextFileSync(join(import.meta.dirname!, "tables.yaml")),
);

/** One row of a published table. */
export interface PublishedRow {
  label: string;
  /** Our method's id; empty for the dense model. */
  method: string;
  /** Options that a run must have to be this row; `compensate` is the run's own. */
  options: Record<string, string>;
  sparsity: number;
  recover: string;
  /** By measure (`ppl:wikitext2:128`, `acc:boolq`, `mean`): perplexity, or accuracy in percent; null: not given. */
  values: Map<string, number | null>;
  source: string;
}

const fieldsOf = (line: string): string[] =>
  [...line.matchAll(/(?:^|,)(?:"([^"]*)"|([^",]*))/g)].map(([, quoted, plain = ""]) => quoted ?? plain);

/** Reads the published table `id`.
 * @throws {SyntaxError} when its file is not what `README.md` says. */
export function publishedRows(id: PaperTableId): PublishedRow[] {
  const text = Deno.readTextFileSync(join(import.meta.dirname!, `${id}.csv`));
  const [header = [], ...lines] = text.trimEnd().split("\n").map(fieldsOf);
  return lines.map((fields, i) => {
    if (fields.length !== header.length) {
      throw new SyntaxError(`${id}.csv, line ${i + 2}: ${fields.length} fields instead of ${header.length}`);
    }
    const { label = "", method = "", options = "", sparsity, recover = "", source = "", ...measures } = Object
      .fromEntries(header.map((name, j) => [name, fields[j]!]));
    const values = Object.entries(measures).map(([name, field]): [string, number | null] => {
      const value = field === "" ? null : Number(field);
      if (Number.isNaN(value)) throw new SyntaxError(`${id}.csv: ${label}, ${name}: "${field}" is not a number`);
      return [name, value];
    });
    return {
      label,
      method,
      options: Object.fromEntries(options.split(";").filter((pair) => pair !== "").map((pair) => pair.split("="))),
      sparsity: Number(sparsity),
      recover,
      values: new Map(values),
      source,
    };
  });
}

/** Whether a cell of ours is the experiment of a published row. */
export function isSameExperiment(row: PublishedRow, { method, sparsity, recover, compensate }: Cell): boolean {
  if (method === null || row.method !== method.id) return method === null && row.method === "";
  const { compensate: asked, ...options } = row.options;
  return Math.abs(row.sparsity - sparsity) < 1e-9 && row.recover === (recover ?? "") && compensate === asked &&
    Object.entries(options).every(([name, value]) => String(method.options[name]) === value);
}
