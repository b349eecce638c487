/** What the set-up tools share: the cache folder, a Python with pip, npm package folders, and commands that explain
 * themselves when they fail.
 *
 * @module
 */
import { type Peer, startPeer } from "../../benchmarks/timing/peer_process.ts";
import { join } from "node:path";
import { UsageError } from "../../core/util/errors.ts";
import { ROOT } from "../../core/util/user_folder.ts";

/** Where downloads that outlive a clone are kept: `MASKPRUNE_CACHE`, else the user's cache folder. */
export function cacheFolder(): string {
  const own = Deno.env.get("MASKPRUNE_CACHE");
  if (own) return own;
  const base = Deno.env.get("XDG_CACHE_HOME") ?? `${Deno.env.get("HOME") ?? "."}/.cache`;
  return `${base}/maskprune-bench`;
}

/** Real folder of an installed npm package. */
export function packageFolder(name: string): string {
  return Deno.realPathSync(join(ROOT, "node_modules", name));
}

/** Runs a command to its end.
 * @throws {UsageError} with `problem` and the end of its output when it cannot start or fails. */
export async function runCommand(
  command: string,
  args: string[],
  problem: string,
  env: Record<string, string> = {},
): Promise<{ stdout: string; stderr: string }> {
  let output: Deno.CommandOutput;
  try {
    output = await new Deno.Command(command, { args, env, stdout: "piped", stderr: "piped" }).output();
  } catch (error) {
    throw new UsageError(`${problem} (${command}: ${(error as Error).message})`);
  }
  const stdout = new TextDecoder().decode(output.stdout);
  const stderr = new TextDecoder().decode(output.stderr);
  if (!output.success) {
    throw new UsageError(`${problem}\n${(stderr || stdout).trim().split("\n").slice(-5).join("\n")}`);
  }
  return { stdout, stderr };
}

/** A Python 3 that has pip.
 * @throws {UsageError} when there is none, with what to install. */
export async function findPython(): Promise<string> {
  for (const python of ["python3", "python"]) {
    try {
      const { success } = await new Deno.Command(python, {
        args: ["-m", "pip", "--version"],
        stdout: "null",
        stderr: "null",
      }).output();
      if (success) return python;
    } catch {
      // Not on this machine; the next name may be.
    }
  }
  throw new UsageError(
    "No Python 3 with pip was found: install it (Debian: `apt-get install python3-pip python3-venv`)",
  );
}

/** PyTorch for {@linkcode privatePython}. */
export const TORCH = ["torch==2.15.0"];
/** transformers for {@linkcode privatePython}. */
export const TRANSFORMERS = ["transformers==5.24.0"];

/** The Python of a private environment with `packages` (arguments of pip, one list per call), made in the cache folder
 * the first time. Tools that share a name share the environment; what is missing is added. */
export async function privatePython(name: string, packages: string[][]): Promise<string> {
  const folder = `${cacheFolder()}/python-${name}`;
  const python = `${folder}/bin/python`;
  const marker = `${folder}/ready`;
  let present: string[][] = [];
  try {
    present = JSON.parse(Deno.readTextFileSync(marker));
  } catch {
    // Not made yet.
  }
  const missing = packages.filter((args) => !present.some((other) => other.join(" ") === args.join(" ")));
  if (missing.length === 0) return python;
  console.error(`Private Python environment "${name}": installing ${missing.flat().join(" ")} into ${folder}`);
  if (present.length === 0) {
    await runCommand(await findPython(), ["-m", "venv", folder], "Python could not make a virtual environment");
  }
  for (const args of missing) {
    await runCommand(python, ["-m", "pip", "install", "--quiet", ...args], `pip could not install ${args.join(" ")}`);
  }
  Deno.writeTextFileSync(marker, JSON.stringify([...present, ...missing]));
  return python;
}

/** PyTorch and transformers with a script of `tools/peers`; `name` is for messages. */
export async function startTorch(name: string, script: string): Promise<Peer> {
  const python = await privatePython("torch", [TORCH, TRANSFORMERS]);
  return await startPeer(name, python, [join(ROOT, "tools/peers", script)]);
}
