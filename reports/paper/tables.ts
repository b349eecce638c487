/** The published tables, of `tables.yaml`.
 *
 * @module
 */
import { parse } from "yaml";
import type { PaperTableId } from "../../core/schema/schema.ts";

/** What a published table is of. */
export interface PaperTable {
  title: string;
  /** Parameters of its dense model, by which another model is told apart. */
  parameters: number;
  model: string;
  /** What differs even when the preset is run as it is, without a full stop. */
  differences: string[];
}

/** Every published table by its id. */
export const PAPER_TABLE: Record<PaperTableId, PaperTable> = parse(
  Deno.readTextFileSync(new URL("tables.yaml", import.meta.url)),
);
