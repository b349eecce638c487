import { assertEquals, assertMatch, assertStringIncludes, assertThrows } from "@std/assert";
import { join } from "node:path";
import { main } from "../../benchmarks/cli.ts";
import { COMMANDS } from "../../benchmarks/commands/mod.ts";
import { configSources, run } from "../../benchmarks/commands/run.ts";
import { parseStrictly } from "../../benchmarks/configuration/flags.ts";
import { resolveConfig } from "../../benchmarks/configuration/resolve.ts";
import { createProgress, formatSeconds, type SweepEvent } from "../../benchmarks/sweep/progress.ts";
import {
  classifyError,
  classifyExit,
  isOutOfMemory,
  lastPhase,
  parseRetry,
  phaseWords,
  timeoutFailure,
} from "../../core/schema/failure.ts";
import { FAILURE_KINDS, trainingSchema } from "../../core/schema/schema.ts";
import { EngineError, MissingDataError, NumericError, UsageError } from "../../core/util/errors.ts";
import { ROOT } from "../../core/util/user_folder.ts";
import { printed } from "../support/printed.ts";
import { folderTest } from "../support/weights_fixture.ts";

const bench = (...args: string[]) => printed(() => main(args));

/** Each line of arguments must end with code 2 and one line that holds its reason. */
async function assertRefused(cases: [args: string[], reason: string][]): Promise<void> {
  for (const [args, reason] of cases) {
    const { code, stdout, stderr } = await bench(...args);
    assertEquals([code, stdout, stderr.trimEnd().split("\n").length], [2, "", 1], `${args.join(" ")}: ${stderr}`);
    assertStringIncludes(stderr, reason);
  }
}

Deno.test("bench --help and --version go to standard output with exit code 0", async () => {
  for (const args of ["--help", "-h", "report -h"]) {
    const { code, stdout, stderr } = await bench(...args.split(" "));
    assertEquals([code, stderr], [0, ""]);
    assertStringIncludes(stdout, "Usage: deno task bench");
  }
  assertMatch((await bench("--version")).stdout, /^\d+\.\d+\.\d+\n$/);
  const { code, stderr } = await bench("help", "reprot");
  assertEquals(code, 2);
  assertStringIncludes(stderr, 'Did you mean "report"?');
});

Deno.test("parseStrictly() takes no word for a flag whose name it ends in", () => {
  const { name, _ } = parseStrictly(["oh", "--name", "gh"], { string: ["name"], positional: 1 });
  assertEquals([_, name], [["oh"], "gh"]);
  assertThrows(() => parseStrictly([""], { positional: 1 }), UsageError, "An argument is empty");
  assertEquals(parseStrictly(["about", "--name", "x"], { string: ["name", "out"], positional: 1 })._, ["about"]);
});

Deno.test("bench help COMMAND and COMMAND --help print that command's own help", async () => {
  const general = (await bench("--help")).stdout;
  for (const [name, { summary }] of COMMANDS) {
    const { code, stdout } = await bench("help", name);
    assertEquals([code, stdout], [0, (await bench(name, "--help")).stdout]);
    assertStringIncludes(stdout, `Usage: deno task bench ${name}`);
    assertStringIncludes(general.replace(/\s+/g, " "), summary);
    for (const flag of COMMANDS.get(name)?.flags.string ?? []) assertStringIncludes(stdout, `--${flag}`);
  }
});

folderTest("bench compare names the records of a folder that its run does not ask for", async (folder) => {
  const published = join(ROOT, "results/ablations");
  Deno.mkdirSync(join(folder, "records"));
  for (const { name } of Deno.readDirSync(join(published, "records"))) {
    Deno.copyFileSync(join(published, "records", name), join(folder, "records", name));
  }
  const run = JSON.parse(Deno.readTextFileSync(join(published, "run.json")));
  run.cells.pop();
  Deno.writeTextFileSync(join(folder, "run.json"), JSON.stringify(run));
  const { code, stderr } = await bench("compare", published, folder);
  assertEquals(code, 0);
  const expected = `1 record belongs to a cell that the run in "${folder}" does not include: left out of the report\n`;
  assertEquals(stderr, expected);
  run.cells = [];
  Deno.writeTextFileSync(join(folder, "run.json"), JSON.stringify(run));
  const none = await bench("report", folder);
  assertEquals(none.code, 2);
  assertStringIncludes(none.stderr, "19 records belong to cells");
});

Deno.test("bench answers wrong use with one message and exit code 2", async () => {
  await assertRefused([
    [["runn"], 'Unknown command "runn". Did you mean "run"?'],
    [["--sparsity", "0.5"], "No command before"],
    [["run", "--config", "/no/such/file.yaml"], "readfile '/no/such/file.yaml'"],
    [["run", "--preset", "smok"], 'Unknown preset "smok". Did you mean "smoke"?'],
    [["run", "--preset", "smoke", "--config", "x"], "exclude each other"],
    [["run", "--jobs", "0", "--preset", "smoke"], "jobs must be more than 0"],
    [["report"], "No run given"],
    [["report", "/no/such/run"], '"/no/such/run" holds no run'],
    [["validate", "/no/such/run"], '"/no/such/run" holds no run'],
    [["validate", "a", "b"], 'Unexpected argument "b"'],
    [["throughput"], "Nothing to time: give the folder of a run"],
    [["throughput", "a"], "--engine must be llama.cpp: none given"],
    [["throughput", "a", "--engine", "vllm"], '--engine must be llama.cpp: current "vllm"'],
    [["throughput", "/no/such/run", "--engine", "llama.cpp"], '"/no/such/run" holds no run'],
    [["compare"], "No run given: bench compare DIR [OTHER ...]"],
    [["compare", "/no/such/run", "b"], '"/no/such/run" holds no run'],
    [["ls"], "Nothing to list given: methods, training, tasks, presets, engines"],
    [["ls", "method"], 'Unknown list "method". Did you mean "methods"?'],
    [["reproduce", ROOT], ": give the file of a record"],
    [["eval", join(ROOT, "deno.json")], "Give another one"],
    [["site", join(ROOT, "results/ablations"), "--out", join(ROOT, "deno.json")], "Give another one"],
    [["report", "x".repeat(300)], "Give another one"],
  ]);
});

Deno.test("bench ls training names every key of --training with its default and meaning", async () => {
  const { code, stdout } = await bench("ls", "training");
  assertEquals(code, 0);
  for (const [key, { description }] of Object.entries(trainingSchema.shape)) {
    assertMatch(stdout, new RegExp(`^  ${key}[= ]`, "m"));
    assertStringIncludes(stdout, description!);
  }
  assertStringIncludes(stdout, "  steps=100  optimiser steps");
  assertStringIncludes((await bench("help", "run")).stdout.replace(/\s+/g, " "), "see `bench ls training`");
});

Deno.test("configSources() measures throughput by default only where no file says what to measure", () => {
  const flags = ["--methods", "random", "--sparsity", "0.5", "--out", "x"];
  const throughput = (...args: string[]) =>
    resolveConfig(configSources(parseStrictly(args, run.flags)).sources).throughput;
  assertEquals(throughput(...flags)?.prefillTokens, 512);
  assertEquals(throughput(...flags, "--no-throughput"), undefined);
  assertEquals(throughput("--preset", "smoke", "--no-throughput"), undefined);
  assertEquals(throughput("--preset", "smoke")?.prefillTokens, 64);
});

Deno.test("classifyError() tells usage, numbers, engines and memory apart", () => {
  const fault = new WebAssembly.RuntimeError("memory access out of bounds");
  const cases: [error: unknown, kind: string, words: string][] = [
    [new UsageError("a"), "usage", "a"],
    [new NumericError("a"), "numeric", "a: check the scores, remove less, or lower the learning rate"],
    [new EngineError("a"), "engine", "a"],
    [new MissingDataError("a"), "missing-data", "a"],
    [new TypeError("a"), "error", "TypeError: a"],
    ["a", "error", "a"],
    [fault, "crash", "use another --engine"],
    [new EngineError("OOM when allocating tensor"), "out-of-memory", "memory"],
    // As memory and disks really give them.
    [assertThrows(() => new ArrayBuffer(2 ** 52)), "out-of-memory", "memory"],
    [Object.assign(new Error("No space left on device (os error 28)"), { code: "ENOSPC" }), "disk-full", "free some"],
  ];
  for (const [error, kind, words] of cases) {
    const found = classifyError(error);
    assertEquals([found.kind, found.message.includes(words)], [kind, true], found.message);
  }
  assertEquals(isOutOfMemory(fault), false);
});

Deno.test("failures say what was going on, and advise what makes that smaller", () => {
  const killed = (phase?: string) => classifyExit({ code: 137, signal: "SIGKILL" }, "", phase);
  assertEquals(killed("learning: step 41 of 60, loss 3.1").phase, "learning: step 41 of 60, loss 3.1");
  assertEquals(phaseWords("learning: step 41 of 60, loss 3.1"), "during learning, step 41 of 60");
  assertEquals(phaseWords("perplexity wikitext2 30 %"), "during perplexity wikitext2 30 %");
  const advice: [phase: string | undefined, memory: RegExp, time: RegExp][] = [
    ["loading", /--weights stored/, /a longer --timeout$/],
    ["pruning: calibration statistics, batch 3 of 9", /fewer or shorter windows/, /fewer windows$/],
    ["learning: step 41 of 60", /microBatch=1/, /fewer `training` steps/],
    ["recovery: step 41 of 60", /microBatch=1/, /fewer `training` steps/],
    ["throughput", /time fewer tokens/, /time fewer tokens/],
    ["arc_easy 30 %", /score shorter windows/, /--limit/],
    [undefined, /microBatch=1/, /--limit/],
  ];
  for (const [phase, memory, time] of advice) {
    assertMatch(killed(phase).message, memory);
    assertMatch(classifyError(new Error("OOM when allocating tensor"), { phase }).message, memory);
    assertMatch(timeoutFailure(60, phase).message, time);
  }
  const log = "2026-01-02T03:04:05.678Z loading\nnoise\n2026-01-02T03:04:06.000Z recovery: step 2 of 9\nTypeError: x\n";
  assertEquals([lastPhase(log), lastPhase("noise")], ["recovery: step 2 of 9", undefined]);
});

Deno.test("parseRetry() takes classes, oom, all and none, and refuses others by name", () => {
  assertEquals(parseRetry("oom,timeout"), ["out-of-memory", "timeout"]);
  assertEquals(parseRetry("all"), FAILURE_KINDS);
  assertEquals(parseRetry("none"), []);
  assertThrows(() => parseRetry("tiemout"), UsageError, 'Did you mean "timeout"?');
  assertThrows(() => parseRetry("none,oom"), UsageError, '"none" must be the only class: current "none,oom"');
});

Deno.test("failures quote one line: of an error the first, of a process the last that is no phase and no place", () => {
  const { message } = classifyError(new TypeError(`no luck${"!".repeat(99)}\nand\nmore`));
  assertEquals(message, `TypeError: no luck${"!".repeat(99)}`);
  const said = (stderr: string) => classifyExit({ code: 1, signal: null }, stderr).message.split("it said: ")[1];
  assertEquals(said("2026-01-02T03:04:05.678Z loading\nError: no\n  at f (a.ts:1:2)\nI0000 oneDNN\n"), "Error: no");
  assertEquals(said("x".repeat(1000)), "x".repeat(300));
  const full = classifyExit({ code: 1, signal: null }, "Error: ENOSPC: no space\n    at a\nnoise\n");
  assertEquals(full.message, "The disk of the run's folder is full: free some space (Error: ENOSPC: no space)");
});

Deno.test("classifyExit() names signal or exit code and quotes the end of standard error", () => {
  const killed = classifyExit({ code: 137, signal: "SIGKILL" }, "");
  assertEquals([killed.kind, killed.exitCode], ["out-of-memory", 137]);
  assertStringIncludes(killed.message, "SIGKILL");
  assertEquals(classifyExit({ code: 139, signal: "SIGSEGV" }, "  last words\n"), {
    kind: "crash",
    message: "The cell's process was ended by SIGSEGV: run it again with --retry crash, or with another --engine; " +
      "it said: last words",
    exitCode: 139,
  });
  assertEquals(classifyExit({ code: 133, signal: null }, "Fatal JavaScript out of memory").kind, "out-of-memory");
});

/** What `events` print; `at` gives the seconds at which each comes. */
function shown(events: SweepEvent[], { json = false, terminal = false, at = (_: number): number => 0 } = {}): string {
  let [text, i] = ["", 0];
  const writeSync = (bytes: Uint8Array) => (text += new TextDecoder().decode(bytes)).length;
  const options = { json, columns: () => 40, now: () => 1000 * at(i) };
  const progress = createProgress({ writeSync, isTerminal: () => terminal }, options);
  for (i of events.keys()) progress(events[i]!);
  return text;
}

const EVENTS: SweepEvent[] = [
  { event: "start", cells: 3, finished: 1, retried: 1, kept: 0, jobs: 2, out: "x" },
  { event: "cell-start", name: "a", label: "flap 25 %" },
  { event: "cell-phase", name: "a", label: "flap 25 %", phase: "perplexity" },
  { event: "cell-done", name: "a", label: "flap 25 %", seconds: 65 },
  { event: "cell-start", name: "b", label: "flap 50 %" },
  {
    ...{ event: "cell-failed", name: "b", label: "flap 50 %", kind: "crash", message: "gone\n  for good" },
    ...{ phase: "learning: step 41 of 60, loss 3.1", log: "results/x/logs/b.log" },
  },
  { event: "end", done: 1, failed: 1, skipped: 1, kept: 0, seconds: 70, interrupted: false },
];

Deno.test("createProgress() prints one plain line per event where there is no terminal", () => {
  assertEquals(shown(EVENTS).split("\n"), [
    "3 cells into x, 1 finished earlier, 1 failed earlier and are retried, 2 at once",
    "start   flap 25 %",
    "done    flap 25 % in 1 min 05 s [2/3]",
    "start   flap 50 %",
    "failed  flap 50 % (crash, during learning, step 41 of 60): gone for good. Log: results/x/logs/b.log [3/3]",
    "1 cell done, 1 failed, 1 finished earlier in 1 min 10 s",
    "",
  ]);
});

Deno.test("createProgress() with json gives every event back, and goes on where nobody reads it", () => {
  const writeSync = () => {
    throw new Deno.errors.BrokenPipe();
  };
  createProgress({ writeSync, isTerminal: () => false })({ event: "note", message: "x" });
  const lines = shown(EVENTS, { json: true, terminal: true }).trim().split("\n");
  assertEquals(lines.map((line) => JSON.parse(line)), EVENTS);
});

Deno.test("createProgress() on a terminal keeps one live line no wider than it, and clears it at the end", () => {
  const text = shown(EVENTS, { terminal: true });
  const live = text.split("\n").flatMap((line) => line.split("\r\x1b[K").slice(1, -1));
  assertEquals(live.includes("[1/3] flap 25 %: perplexity"), true);
  assertStringIncludes(text, "\n[3/3]\r\x1b[K1 cell done");
  for (const line of live) assertEquals(line.length < 40, true);
  assertEquals(text.endsWith("\r\x1b[K1 cell done, 1 failed, 1 finished earlier in 1 min 10 s\n"), true);
  assertMatch(shown([...EVENTS, { event: "note", message: "of the report" }], { terminal: true }), /of the report\n$/);
});

Deno.test("formatSeconds() rounds before it splits", () => {
  const found = [8.44, 59.4, 59.6, 125, 3599.6, 3720].map(formatSeconds);
  assertEquals(found, ["8.4 s", "59 s", "1 min 00 s", "2 min 05 s", "1 h 00 min", "1 h 02 min"]);
});

Deno.test("createProgress() says every half minute how far a cell is where there is no terminal", () => {
  const times = [0, 10, 29, 30, 45, 61];
  const events = times.map((t): SweepEvent => ({ event: "cell-phase", name: "a", label: "x", phase: `step ${t}` }));
  assertEquals(shown(events, { at: (i) => times[i]! }), "at      x: step 0\nat      x: step 30\nat      x: step 61\n");
});

folderTest("bench refuses flags and values that would have no effect, or fail in every cell", async (empty) => {
  const run = join(ROOT, "results/ablations");
  await assertRefused([
    [["eval", run, "--tasks", "tiny-facts", "--limit", "5"], "add --remeasure"],
    [["eval", run, "--out", empty, "--tasks", "tiny-facts"], `leave --out ${empty} out`],
    [["run", "--preset", "smoke", "--task-file", empty, "--tasks", "x", "--dry-run"], "has no task file"],
    [["run", "--preset", "smoke", "--perplexity", "tiny-world:a:1:4", "--dry-run"], "windowTokens"],
    [["run", "--preset", "smoke", "--calibration", "tiny-world:8:1", "--dry-run"], "calibration"],
    [["run", "--preset", "smoke", "--methods", "block-influence:x=1"], 'Unknown key "x". Known: none'],
    [["compare", run, "--pair", "flap,flap"], "--pair must be two methods of one run"],
    [["report", run, "--columns", "2", "--to", empty], "--columns has no effect without --figures paper"],
    [["report", run, "--figures", "paper", "--methods", "nothing", "--to", empty], "--methods must be mask-prune"],
  ]);
  assertEquals([...Deno.readDirSync(empty)], []);
});
