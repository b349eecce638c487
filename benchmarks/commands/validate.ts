/** `bench validate`: checks the files of a run.
 *
 * @module
 */
import { basename, join } from "node:path";
import { UsageError } from "../../core/util/errors.ts";
import { sha256OfFiles } from "../../core/formats/ranged_file.ts";
import type { StoredWeights } from "../../core/schema/schema.ts";
import { isThere } from "../../core/util/paths.ts";
import { counted } from "../../core/util/words.ts";
import { missingCells, readRunFile } from "../records/run_file.ts";
import { readRecords, runPaths } from "../records/store.ts";
import type { Command } from "./command.ts";

/** The content of a folder. */
export interface Validation {
  /** Sound records, and how many of them are of failed cells. */
  records: number;
  failed: number;
  weights: number;
  /** Cells whose model cannot be rebuilt, because the folder has no weights. */
  withoutModel: number;
  /** Labels of the run's cells that have no record. */
  missing: string[];
  problems: string[];
}

/** Checks records (schema, name, checksum), `run.json` and stored weights of the folder `out`.
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
  const kept = records.map((record) =>
    record.state === "done" ? [record.rebuild, record.storedWeights].filter((stored) => stored !== undefined) : []
  ).filter(({ length }) => length > 0);
  // Results may be passed on without weights.
  const hasWeights = isThere(runPaths(out).weights);
  const damaged = (hasWeights ? kept.flat() : []).map((stored) => weightsProblem(out, stored));
  problems.push(...damaged.filter((problem) => problem !== null));
  return {
    records: records.length,
    failed: records.filter(({ state }) => state === "failed").length,
    weights: damaged.filter((problem) => problem === null).length,
    withoutModel: hasWeights ? 0 : kept.length,
    missing,
    problems,
  };
}

function weightsProblem(out: string, { file, sha256 }: Pick<StoredWeights, "file" | "sha256">): string | null {
  const path = join(runPaths(out).weights, basename(file));
  try {
    const found = sha256OfFiles([path]);
    return found === sha256 ? null : `${path}: its SHA-256 is ${found}, not ${sha256} as in its record`;
  } catch (error) {
    if (error instanceof UsageError) return error.message;
    throw error;
  }
}

const HELP = `Checks the files of a run: records against the schema and their checksums, run.json, and stored weights.

Usage: deno task bench validate DIR

Exit codes: 0 all files are sound, 1 some are damaged, 2 DIR holds no run`;

/** `bench validate`. */
export const validate: Command = {
  usage: "DIR",
  summary: "check the files of a run",
  help: () => HELP,
  flags: { positional: 1 },
  // deno-lint-ignore require-await
  run: async ({ _: [dir] }) => {
    if (dir === undefined) throw new UsageError("No run given: bench validate DIR");
    const { records, failed, weights, withoutModel, missing, problems } = validateFolder(dir);
    for (const problem of problems) console.log(problem);
    if (missing.length > 0) console.log(`${counted(missing.length, "cell")} not finished yet`);
    if (withoutModel > 0) {
      console.log(`${counted(withoutModel, "cell")} cannot be exported: "${dir}" has no folder "weights"`);
    }
    const sound = `${counted(records, "sound record")} (${failed} of failed cells)`;
    const files = `${counted(weights, "sound file")} of weights`;
    console.log(`${sound}, ${files}, ${counted(problems.length, "damaged file")}`);
    return problems.length > 0 ? 1 : 0;
  },
};
