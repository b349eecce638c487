/** The command line as another program. */
import { join } from "node:path";

const ROOT = join(import.meta.dirname!, "../..");
const RIGHTS = ["--allow-read", "--allow-write", "--allow-env", "--allow-sys", "--allow-ffi", "--allow-run=deno,git"];

/** Starts `bench` with `args`. */
export function bench(...args: string[]): Deno.ChildProcess {
  return new Deno.Command("deno", {
    args: ["run", "--no-prompt", ...RIGHTS, join(ROOT, "benchmarks/cli.ts"), ...args],
    cwd: ROOT,
    stdout: "piped",
    stderr: "piped",
  }).spawn();
}

/** Waits for a program's end. */
export async function finish(child: Deno.ChildProcess): Promise<{ code: number; stdout: string; stderr: string }> {
  const { code, stdout, stderr } = await child.output();
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  return { code, stdout: text(stdout), stderr: text(stderr) };
}
