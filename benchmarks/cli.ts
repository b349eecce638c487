/** The command line: `deno task bench`. Results go to standard output, progress to standard error.
 *
 * @module
 */
import { join } from "node:path";
import { EngineError, unknownName, UsageError } from "../core/errors.ts";
import { helpText } from "./commands/help.ts";
import { listText, presetPath } from "./commands/ls.ts";
import { type ConfigSource, HelpRequest, parseFlags, parseStrictly } from "./configuration/flags.ts";
import { resolveConfig, yamlSource } from "./configuration/resolve.ts";
import { isDiskFull } from "../core/failure.ts";
import { createProgress } from "./sweep/progress.ts";
import { RUN_FLAGS, RUN_SWITCHES, type RunManner, runManner } from "./commands/run_flags.ts";
import { readRecords, runPaths } from "./records/store.ts";

/** Exit code of a run that Ctrl-C stopped: 128 + SIGINT. */
const INTERRUPTED = 130;
/** Files of figures, which are too many to name. */
const FIGURE = /\.(svg|png|vl\.json)$/;
/** Width of tables where standard output is not a terminal. */
const DEFAULT_WIDTH = 120;

const COMMANDS: Record<string, (args: string[]) => Promise<number>> = {
  run,
  report,
  compare,
  ls,
  validate,
  reproduce: async (args) => (await import("./commands/reproduce.ts")).reproduceCommand(args),
  export: async (args) => (await import("./commands/export.ts")).exportCommand(args),
  throughput: async (args) => (await import("./commands/throughput.ts")).throughputCommand(args),
  serve: async (args) => (await import("./commands/serve.ts")).serveCommand(args),
  fetch: async (args) => (await import("./commands/fetch.ts")).fetchCommand(args),
};

function readText(path: string): string {
  try {
    return Deno.readTextFileSync(path);
  } catch (error) {
    throw new UsageError(`"${path}" cannot be read: ${(error as Error).message}`);
  }
}

/** Configuration of `bench run` from its arguments, and how its cells are run. */
export function configSources(args: string[]): { sources: ConfigSource[] } & RunManner {
  const { source, extra } = parseFlags(args, {
    string: ["preset", "config", ...RUN_FLAGS],
    boolean: RUN_SWITCHES,
  });
  const { preset, config, ...manner } = extra;
  if (preset !== undefined && config !== undefined) {
    throw new UsageError("--preset and --config exclude each other: give one of them");
  }
  const path = preset !== undefined ? presetPath(String(preset)) : config?.toString();
  const base: ConfigSource = path === undefined
    ? { values: { throughput: {} }, where: () => "--throughput" }
    : yamlSource(readText(path), path);
  return { sources: [base, source], ...runManner(manner) };
}

async function run(args: string[]): Promise<number> {
  const { sources, json, slurm, dryRun, ...options } = configSources(args);
  const config = resolveConfig(sources);
  const { runSweep } = await import("./sweep/sweep.ts");
  const controller = new AbortController();
  const stop = () => {
    if (controller.signal.aborted) Deno.exit(INTERRUPTED);
    controller.abort();
  };
  Deno.addSignalListener("SIGINT", stop);
  Deno.addSignalListener("SIGTERM", stop);
  const onEvent = createProgress(Deno.stderr, { json });
  const executor = slurm &&
    (await import("./executors/slurm_executor.ts")).slurmExecutor(slurm, dryRun ? console.log : undefined);
  const result = await runSweep(config, { ...options, executor, onEvent, signal: controller.signal });
  if (result.interrupted) return INTERRUPTED;
  if (dryRun) return 0;
  await showReport(config.out, { title: config.name, to: runPaths(config.out).report });
  return result.failed + result.kept > 0 ? 1 : 0;
}

async function showReport(dir: string, { title, to }: { title: string; to: string }): Promise<void> {
  const { records, problems } = readRecords(dir);
  for (const { message } of problems) console.error(message);
  if (records.length === 0) throw new UsageError(`"${dir}" holds no finished cell yet`);
  const [{ renderTable }, { writeReport }] = await Promise.all([
    import("../reports/terminal.ts"),
    import("../reports/write_report.ts"),
  ]);
  const width = Deno.stdout.isTerminal() ? Deno.consoleSize().columns : DEFAULT_WIDTH;
  console.log(renderTable(records, { width }));
  const written = await writeReport(records, to, { title });
  const figures = written.filter((path) => FIGURE.test(path));
  for (const path of written) if (!figures.includes(path)) console.log(path);
  console.log(`${figures.length} figure files in ${to}`);
}

async function report(args: string[]): Promise<number> {
  const { _: [dir, other], title, to } = parseStrictly(args, { string: ["title", "to"], positional: 2 });
  if (dir === undefined) throw new UsageError("The folder of a run must be given: bench report DIR");
  if (other !== undefined) return await compare([dir, other]);
  await showReport(dir, {
    title: (title as string | undefined) || runName(dir),
    to: (to as string | undefined) || runPaths(dir).report,
  });
  return 0;
}

async function compare(args: string[]): Promise<number> {
  const { _: [dir, other], "fail-if": failIf } = parseStrictly(args, { string: ["fail-if"], positional: 2 });
  if (other === undefined) throw new UsageError("The folders of two runs must be given: bench compare DIR OTHER");
  const [{ compareRuns }, { closedGates, parseConditions }] = await Promise.all([
    import("../reports/compare.ts"),
    import("../reports/gate.ts"),
  ]);
  try {
    const conditions = failIf === undefined ? [] : parseConditions(failIf as string);
    const [before, after] = [dir, other].map((folder) => {
      const { records, problems } = readRecords(folder);
      for (const { message } of problems) console.error(message);
      return records;
    });
    const closed = conditions.length > 0 ? closedGates(before, after, conditions) : [];
    console.log(compareRuns(before, after, { names: [dir, other] }));
    for (const reason of closed) console.error(reason);
    return closed.length > 0 ? 1 : 0;
  } catch (error) {
    throw error instanceof SyntaxError ? new UsageError(error.message) : error;
  }
}

function runName(dir: string): string {
  try {
    return JSON.parse(Deno.readTextFileSync(runPaths(dir).run)).config.name;
  } catch {
    return "run";
  }
}

async function ls(args: string[]): Promise<number> {
  const { _: [what] } = parseStrictly(args, { positional: 1 });
  console.log(await listText(what));
  return 0;
}

async function validate(args: string[]): Promise<number> {
  const { _: [dir] } = parseStrictly(args, { positional: 1 });
  if (dir === undefined) throw new UsageError("The folder of a run must be given: bench validate DIR");
  const { validateFolder } = await import("./commands/validate.ts");
  const { records, failed, weights, problems, leftOver } = validateFolder(dir);
  for (const problem of problems) console.log(problem);
  for (const path of leftOver) console.log(`${path}: left over, may be removed`);
  console.log(
    `${records} records are sound (${failed} of failed cells), ${weights} files of weights; ` +
      `${problems.length} files are not what they should be`,
  );
  return problems.length > 0 ? 1 : 0;
}

function version(): string {
  const text = Deno.readTextFileSync(join(import.meta.dirname!, "..", "deno.json"));
  return /"version":\s*"([^"]+)"/.exec(text)?.[1] ?? "unknown";
}

/** Runs a command; returns the exit code. Errors that the user can act on are one message on standard error. */
export async function main(args: string[]): Promise<number> {
  const [first, ...rest] = args;
  if (first === "--version") {
    console.log(version());
    return 0;
  }
  if (first === "--help" || first === "-h" || first === "help") {
    console.log(helpText(rest[0]));
    return 0;
  }
  try {
    if (first === undefined) return await run(["--preset", "default"]);
    if (!Object.hasOwn(COMMANDS, first)) {
      throw first.startsWith("-")
        ? new UsageError(`A command must come before "${first}", such as \`bench run ${first}\`: see \`bench --help\``)
        : unknownName("command", first, Object.keys(COMMANDS));
    }
    return await COMMANDS[first](rest);
  } catch (error) {
    if (error instanceof HelpRequest) {
      console.log(helpText(first));
      return 0;
    }
    if (isDiskFull(error)) {
      console.error(`The disk is full: free some space, the same command goes on (${(error as Error).message})`);
      return 1;
    }
    if (!(error instanceof UsageError || error instanceof EngineError)) throw error;
    console.error(error.message);
    return 2;
  }
}

if (import.meta.main) Deno.exit(await main(Deno.args));
