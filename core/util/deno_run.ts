/** Processes of Deno.
 *
 * @module
 */
import { join } from "node:path";

/** Arguments of `deno` that run `script`. It may read files, the environment and system information, write in `write`,
 * load native code if `ffi`, and run `program`. It has no network; packages must be installed. */
export function denoRun(
  { script, args, ffi, write, program }: {
    script: string;
    args: string[];
    ffi: boolean;
    write?: string;
    program?: string;
  },
): [string, ...string[]] {
  return [
    "run",
    "--quiet",
    "--no-prompt",
    "--cached-only",
    `--config=${join(import.meta.dirname!, "../../deno.json")}`,
    // `deno install` alone decides which packages there are; a file of the user's must not add to the lock file.
    "--no-lock",
    "--allow-read",
    "--allow-env",
    "--allow-sys",
    // A comma separates paths: callers refuse folders that hold one.
    ...write === undefined ? [] : [`--allow-write=${write}`],
    ...ffi ? ["--allow-ffi"] : [],
    ...program === undefined ? [] : [`--allow-run=${program}`],
    script,
    ...args,
  ];
}

/** The lines of what a process writes, each when it is complete. */
export async function* linesOf(stream: ReadableStream<Uint8Array>): AsyncGenerator<string, void> {
  let rest = "";
  for await (const chunk of stream.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + chunk).split("\n");
    rest = lines.pop()!;
    yield* lines;
  }
}

/** Runs a program of {@linkcode denoRun} to its end.
 * @returns the last line of its output (the libraries print others), the end of its errors, and how it ended */
export async function denoOutput(
  program: Parameters<typeof denoRun>[0],
  env: Record<string, string> = {},
): Promise<{ line: string; errors: string; how: string; success: boolean }> {
  const { stdout, stderr, code, signal, success } = await new Deno.Command("deno", { args: denoRun(program), env })
    .output();
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes).trim();
  const how = signal ?? `exit code ${code}`;
  return { line: text(stdout).split("\n").at(-1)!, errors: text(stderr).slice(-1000), how, success };
}
