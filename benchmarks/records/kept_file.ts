/** Files of weights that lie beside the records of a run.
 *
 * @module
 */
import { basename, join } from "node:path";
import { FileFormatError } from "../../core/util/errors.ts";
import { sha256OfFiles } from "../../core/formats/ranged_file.ts";
import { runPaths } from "./store.ts";

/** Path of a file in the run's folder of weights, which is the one that a record names.
 * @throws {UsageError} when the file is missing.
 * @throws {FileFormatError} when it is another one. */
export function keptFile(out: string, { file, sha256: named }: { file: string; sha256: string }): string {
  const path = join(runPaths(out).weights, basename(file));
  const sha256 = sha256OfFiles([path]);
  if (sha256 === named) return path;
  throw new FileFormatError(
    path,
    `has the SHA-256 ${sha256}, the record names ${named}: run the cell again in another folder`,
  );
}
