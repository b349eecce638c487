/** `bench validate`: whether everything in a run's folder is what it says it is.
 *
 * @module
 */
import { basename, join } from "node:path";
import { UsageError } from "../../core/util/errors.ts";
import { sha256OfFiles } from "../../core/formats/ranged_file.ts";
import type { StoredWeights } from "../../core/schema/schema.ts";
import { isThere } from "../../core/util/paths.ts";
import { counted } from "../../core/util/words.ts";
import type { Command } from "./command.ts";
import { readRecords, runPaths } from "../records/store.ts";
import { missingCells, readRunFile } from "../records/run_file.ts";

/** What a folder holds. */
export interface Validation {
  /** Sound records, and how many of them are of failed cells. */
  records: number;
  failed: number;
  /** Weights beside the records that are as they were written. */
  weights: number;
  /** Cells whose model cannot be made again here, because the folder was passed on without its weights. */
  withoutModel: number;
  /** Labels of the run's cells that have no record. */
  missing: string[];
  /** One sentence for every file that is not what it says. */
  problems: string[];
  /** Left-overs that do no harm: half-written files of killed processes, records that were set aside. */
  leftOver: string[];
}

/** Checks records (schema, name, checksum), `run.json` and stored weights and parts of the folder `out`.
 * @throws {UsageError} when it holds no run.
 * @throws {SchemaVersionError} when a record has a schema version that this program does not know. */
export function validateFolder(out: string): Validation {
  const { records, problems: unsound } = readRecords(out);
  const problems = unsound.map(({ message }) => message);
  let missing: string[] = [];
  try {
    missing = missingCells(readRunFile(out), records);
  } catch (error) {
    if (!(error instanceof UsageError)) throw error;
    problems.push(error.message);
  }
  let weights = 0;
  let withoutModel = 0;
  // Results are passed on without what makes their models again: a folder that has none of it is sound.
  const keepsWeights = isThere(runPaths(out).weights);
  for (const record of records) {
    if (record.state !== "done") continue;
    const kept = [record.rebuild, record.storedWeights].filter((stored) => stored !== undefined);
    if (!keepsWeights && kept.length > 0) {
      withoutModel++;
      continue;
    }
    for (const stored of kept) {
      const problem = weightsProblem(out, stored);
      if (problem === null) weights++;
      else problems.push(problem);
    }
  }
  const failed = records.filter(({ state }) => state === "failed").length;
  return { records: records.length, failed, weights, withoutModel, missing, problems, leftOver: leftOver(out) };
}

function weightsProblem(out: string, { file, sha256 }: Pick<StoredWeights, "file" | "sha256">): string | null {
  const path = join(runPaths(out).weights, basename(file));
  try {
    const found = sha256OfFiles([path]);
    return found === sha256 ? null : `${path}: has the SHA-256 ${found}, its record names ${sha256}`;
  } catch (error) {
    if (error instanceof UsageError) return error.message;
    throw error;
  }
}

function leftOver(out: string): string[] {
  const { records, weights, cache } = runPaths(out);
  return [out, records, weights, cache].flatMap((folder) => {
    try {
      const names = [...Deno.readDirSync(folder)].map(({ name }) => name);
      return names.filter((name) => /\.\d+\.tmp$|\.bad\d*$/.test(name)).map((name) => join(folder, name));
    } catch (error) {
      if (error instanceof Deno.errors.NotFound) return [];
      throw error;
    }
  });
}

const HELP =
  `Checks what DIR holds: every record against the schema and its checksum, run.json, and what makes models again.

Usage: deno task bench validate DIR

Exit codes: 0 all files are sound, 1 some are not, 2 DIR holds no run`;

/** `bench validate`. */
export const validate: Command = {
  usage: "DIR",
  summary: "check the records in DIR",
  help: () => HELP,
  flags: { positional: 1 },
  // deno-lint-ignore require-await
  run: async ({ _: [dir] }) => {
    if (dir === undefined) throw new UsageError("The folder of a run must be given: bench validate DIR");
    const { records, failed, weights, withoutModel, missing, problems, leftOver } = validateFolder(dir);
    for (const problem of problems) console.log(problem);
    for (const path of leftOver) console.log(`${path}: left over, may be removed`);
    if (missing.length > 0) console.log(`${counted(missing.length, "cell")} of the run without a record yet`);
    if (withoutModel > 0) {
      console.log(`${withoutModel} cells can be reported and not exported: ${dir} has no folder weights`);
    }
    console.log(
      `${counted(records, "record")} ${
        records === 1 ? "is" : "are"
      } sound (${failed} of failed cells), ${weights} files of weights; ` +
        `${problems.length} files are not what they should be`,
    );
    return problems.length > 0 ? 1 : 0;
  },
};
