/** `bench` as a process, for tests of whole runs. */
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { join } from "node:path";
import { ROOT } from "../../core/util/user_folder.ts";
import { askedRecords } from "../../benchmarks/records/run_file.ts";
import { readRecords } from "../../benchmarks/records/store.ts";
import type { DoneRecord } from "../../core/schema/schema.ts";

const RIGHTS = ["--allow-read", "--allow-write", "--allow-env", "--allow-sys", "--allow-ffi", "--allow-run=deno,git"];

/** Starts `bench` with `args`. */
export function bench(...args: string[]): Deno.ChildProcess {
  return benchWith({}, ...args);
}

/** Starts `bench` with other rights of `deno run`, or, `detached`, with its children in a group of their own, whose id is
 * its process id, for a user who stands in `folder`; what it starts is looked for in `programs` first; temporary files
 * go to `temporary`. */
export function benchWith(
  { rights = RIGHTS, detached = false, folder = ROOT, programs, temporary }: {
    rights?: string[];
    detached?: boolean;
    folder?: string;
    programs?: string;
    temporary?: string;
  },
  ...args: string[]
): Deno.ChildProcess {
  const run = ["run", "--no-prompt", ...rights, join(ROOT, "benchmarks/start.ts"), ...args];
  const set = 'deno=$(command -v deno); PATH=$0:$PATH exec "$deno" "$@"';
  return new Deno.Command(programs === undefined ? "deno" : "sh", {
    args: programs === undefined ? run : ["-c", set, programs, ...run],
    cwd: ROOT,
    // As `deno task` starts it.
    env: { INIT_CWD: folder, ...temporary !== undefined && { TMPDIR: temporary } },
    stdout: "piped",
    stderr: "piped",
    detached,
  }).spawn();
}

/** Waits for the end of `child`. */
export async function finish(child: Deno.ChildProcess): Promise<{ code: number; stdout: string; stderr: string }> {
  const { code, stdout, stderr } = await child.output();
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  return { code, stdout: text(stdout), stderr: text(stderr) };
}

/** Runs `bench`, which must end with code 0. */
export async function succeed(...args: string[]): Promise<{ stdout: string; stderr: string }> {
  const { code, stdout, stderr } = await finish(bench(...args));
  assertEquals(code, 0, stdout + stderr);
  return { stdout, stderr };
}

/** Runs `bench`, which must refuse its arguments in one sentence that holds `problem`. */
export async function refused(problem: string, ...args: string[]): Promise<void> {
  const { code, stderr } = await finish(bench(...args));
  assertEquals([code, stderr.trimEnd().split("\n").length], [2, 1], stderr);
  assertStringIncludes(stderr, problem);
}

/** The finished cells that the run in `out` asks for. */
export const doneCells = (out: string): DoneRecord[] =>
  askedRecords(out).records.filter((record): record is DoneRecord => record.state === "done");

/** The state of each cell in `out` that has a record: `done`, or the class of its failure. */
export const statesOf = (out: string): string[] =>
  readRecords(out).records.map((record) => record.state === "failed" ? record.failure.kind : record.state);

/** What was measured of a cell, without times. */
export const scoresOf = ({ perplexity, tasks }: DoneRecord): unknown[] => [
  perplexity.map(({ windowNll }) => windowNll),
  tasks.map(({ task, outcomes }) => [task, outcomes]),
];

/** Runs `bench` with `--json` and shows each event to `onEvent` as it comes. */
export async function watch(
  args: string[],
  onEvent: (event: Record<string, unknown>, child: Deno.ChildProcess) => void,
): Promise<Deno.CommandStatus> {
  const child = bench(...args, "--json");
  let rest = "";
  for await (const chunk of child.stderr.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + chunk).split("\n");
    rest = lines.pop()!;
    for (const line of lines) onEvent(JSON.parse(line), child);
  }
  await child.stdout.cancel();
  return await child.status;
}

/** Sends a signal to the process of the cell that runs in `out`; whether one does. The pattern goes through standard
 * input, so that the search does not find itself. */
export function signalCell(out: string, signal: string): boolean {
  const script = `kill -${signal} $(printf %s "$JOBS" | grep -lsaF -f - /proc/[0-9]*/cmdline | cut -d/ -f3)`;
  return new Deno.Command("sh", { args: ["-c", script], env: { JOBS: join(out, "jobs/") } }).outputSync().success;
}

/** Ends the process of the cell that runs in `out`. */
export const killCell = (out: string, signal: string): void => assert(signalCell(out, signal), "no cell is running");
