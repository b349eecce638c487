/** What holds on this machine's GPU, in at most half an hour: one Markdown and one JSON file. Each step is a process of
 * its own with a time limit, so that none stops the others.
 *
 * @module
 */
import { join, resolve } from "node:path";
import { ENGINE_NAMES, type EngineName } from "../../core/schema/schema.ts";
import { at } from "../../core/util/indexing.ts";
import { ROOT } from "../../core/util/user_folder.ts";
import { choiceOf } from "../../benchmarks/commands/command.ts";
import { readRecords } from "../../benchmarks/records/store.ts";
import { type ProbedEngine, probeEngine } from "../../benchmarks/configuration/engine_probe.ts";
import { listMethods } from "../../methods/mod.ts";
import { runTool, type ToolArgs } from "../run_tool.ts";
import { type Finding, SHAPES } from "./measure.ts";

const FLAGS = ["engine", "size", "out"] as const;
const HELP = `deno task check:gpu [options]

Writes check-gpu.md and check-gpu.json; exits 1 if a step failed. Leave the GPU idle meanwhile.

  --engine NAME  tensorflow (CUDA), webgpu or wasm (default: tensorflow on CUDA, else webgpu)
  --size SIZE    full (the default, at most 30 minutes) or smallest (two minutes, for a machine without a GPU)
  --out DIR      folder of the two files (default: check-gpu)`;

interface Check {
  engine: ProbedEngine;
  smallest: boolean;
  /** Whether tensors lie in a GPU's own memory. */
  onGpu: boolean;
  /** For runs. */
  folder: string;
}

interface Step {
  name: string;
  /** Seconds after which it is stopped. */
  limitS: number;
  run(check: Check, signal: AbortSignal): Promise<Finding[]>;
  /** Why it cannot run here. */
  skip?(check: Check): string | false;
}

interface Outcome {
  step: string;
  state: "holds" | "failed" | "skipped";
  seconds: number;
  findings: Finding[];
  /** Of a failure or a skip. */
  reason?: string;
}

/** Runs `deno`, and gives its output.
 * @throws {Error} with the end of its output unless it ends with code 0. */
async function deno(args: string[], signal: AbortSignal, env: Record<string, string> = {}): Promise<string> {
  const child = new Deno.Command("deno", {
    args,
    cwd: ROOT,
    env: { NO_COLOR: "1", ...env },
    stdout: "piped",
    stderr: "piped",
    signal,
  });
  const { code, stdout, stderr } = await child.output();
  const [out, err] = [stdout, stderr].map((bytes) => new TextDecoder().decode(bytes));
  if (signal.aborted) throw new Error("it was stopped at its time limit");
  if (code !== 0) throw new Error(`exit code ${code}: ${`${out}\n${err}`.trim().split("\n").slice(-8).join(" | ")}`);
  return out!;
}

const RIGHTS = ["--no-prompt", "--no-lock", "--quiet", "--allow-read", "--allow-write", "--allow-env", "--allow-sys"];

const measure = (what: string, limitS: number, name: string, skip?: Step["skip"]): Step => ({
  name,
  limitS,
  skip,
  run: async ({ engine, smallest }, signal) => {
    const program = join(ROOT, "tools/gpu/measure.ts");
    const rights = [...RIGHTS, "--allow-ffi", "--allow-run=nvidia-smi"];
    const size = smallest ? "smallest" : "full";
    return JSON.parse(
      (await deno(["run", ...rights, program, engine.name, what, size], signal)).trim().split("\n").at(-1)!,
    );
  },
});

/** Files of `tests/backend`, on this engine alone. */
const tests = (name: string, files: string[], skip?: Step["skip"]): Step => ({
  name,
  limitS: 240,
  skip,
  run: async ({ engine }, signal) => {
    const paths = files.map((file) => `tests/${file}_test.ts`);
    // The archive has no types of packages.
    const args = ["test", "--no-check", ...RIGHTS, "--allow-ffi", "--allow-run=deno,git,nvidia-smi", ...paths];
    const out = await deno(args, signal, { MASKPRUNE_ENGINES: engine.name });
    const counts = out.match(/(\d+) passed[^|]*\| \d+ failed/)?.[0];
    return [{ what: files.join(", "), value: counts ?? "no summary", holds: counts !== undefined }];
  },
});

const whole = ({ smallest }: Check) => smallest && "of the full size only";

/** Arguments of a run of the bundled model. */
function runArgs(engine: EngineName, out: string, { smallest }: Check): string[] {
  const oneShot = listMethods().filter(({ kind }) => kind === "one-shot").map(({ id }) => id);
  const methods = smallest ? ["magnitude", "wanda-sp"] : oneShot;
  const rights = [...RIGHTS, "--allow-ffi", "--allow-run=deno,git"];
  return [
    ...["run", ...rights, join(ROOT, "benchmarks/start.ts"), "run", "--engine", engine, "--out", out],
    ...["--methods", methods.join(","), "--sparsity", "0.3", "--calibration", "tiny-world:8:64", "--no-throughput"],
    ...["--perplexity", "tiny-world:a:64:4", "--tasks", "tiny-facts", "--limit", "4", "--jobs", "1"],
  ];
}

const done = (out: string) => readRecords(out).records.flatMap((record) => record.state === "done" ? [record] : []);

/** Starts a run, kills it when a record is there, and continues it. */
async function killedRun(check: Check, signal: AbortSignal): Promise<Finding[]> {
  const out = join(check.folder, "device");
  const args = runArgs(check.engine.name, out, check);
  const child = new Deno.Command("deno", { args, cwd: ROOT, stdout: "null", stderr: "null", signal }).spawn();
  let over = false;
  child.status.then(() => over = true);
  const count = () => {
    try {
      return done(out).length;
    } catch {
      return 0;
    }
  };
  while (!over && count() === 0) await new Promise((wake) => setTimeout(wake, 100));
  const before = count();
  if (!over) child.kill("SIGKILL");
  await child.status;
  await deno(args, signal);
  const states = readRecords(out).records.map(({ state }) => state);
  const finished = states.filter((state) => state === "done").length;
  return [
    { what: "cells done when it was killed", value: `${before}` },
    { what: "cells done in the end", value: `${finished} of ${states.length}`, holds: finished === states.length },
  ];
}

/** Largest difference of log-likelihoods in nats a token that f32 arithmetic may make on the bundled model. */
const MOST_NATS = 1e-3;

/** The same cells on the CPU engine: kept units and log-likelihoods. */
async function againstCpu(check: Check, signal: AbortSignal): Promise<Finding[]> {
  const out = join(check.folder, "cpu");
  await deno(runArgs("cpu", out, check), signal);
  const own = new Map(done(join(check.folder, "device")).map((record) => [record.cell.method?.id ?? "dense", record]));
  return done(out).flatMap((expected): Finding[] => {
    const name = expected.cell.method?.id ?? "dense";
    const actual = own.get(name);
    if (!actual) return [{ what: name, value: "was not measured on the device", holds: false }];
    const units = (plan: typeof actual.plan) =>
      plan.layers.flatMap((layer, l) =>
        Object.entries(layer).flatMap(([type, kept]) => kept.map((u) => `${l} ${type} ${u}`))
      );
    const [mine, theirs] = [new Set(units(actual.plan)), units(expected.plan)];
    const missing = theirs.filter((unit) => !mine.has(unit)).length;
    const nll = expected.perplexity.flatMap(({ windowNll }, i) =>
      windowNll.map((value, j) => Math.abs(value - at(at(actual.perplexity, i).windowNll, j)))
    );
    const worst = Math.max(...nll);
    return [
      {
        what: `${name}: kept units`,
        value: `${theirs.length - missing} of ${theirs.length} as on the CPU`,
        holds: missing === 0,
      },
      // Other units give other numbers.
      ...missing > 0 ? [] : [{
        what: `${name}: log-likelihood of a window`,
        value: `differs by at most ${worst.toExponential(1)} nats`,
        holds: worst <= MOST_NATS,
      }],
    ];
  });
}

const STEPS: Step[] = [
  measure("device", 60, "device, limits, exact arithmetic"),
  tests("transfers of scoring against their budget", ["backend/traffic"]),
  tests("decoding, and its transfers against their budget", ["backend/step"], whole),
  tests("operations and models against slow references", ["backend/ops", "backend/decoder", "backend/scorer"], whole),
  tests("families, masks, pruning", ["backend/families", "backend/surgery", "backend/vocabulary"], whole),
  tests("gradients against finite differences", ["backend/training"], whole),
  tests("methods against slow references", ["backend/methods_reference", "backend/methods_taylor_reference"], whole),
  { name: "a run, killed and continued", limitS: 300, run: killedRun },
  { name: "kept units and log-likelihoods against the CPU engine", limitS: 300, run: againstCpu },
  measure("bundled", 120, "speed and memory, bundled model"),
  ...Object.keys(SHAPES).map((name) =>
    measure(name, 240, `speed and memory, random model of ${name}`, (check) => {
      // Weights, and as much again for activations and gradients.
      const bytes = 4 * Number.parseFloat(name) * (name.endsWith("M") ? 1e6 : 1e9) * 2;
      if (check.smallest) return "of the full size only";
      const { totalBytes } = check.engine.memory;
      return bytes > totalBytes &&
        `it needs about ${(bytes / 1e9).toFixed(0)} GB and the device has ${(totalBytes / 1e9).toFixed(0)} GB`;
    })
  ),
  measure(
    "memory",
    120,
    "out of memory, provoked and survived",
    ({ onGpu, engine }) =>
      !onGpu && engine.name !== "webgpu" && "tensors lie in the machine's memory, where this would end other programs",
  ),
  {
    name: "two GPUs, one cell each",
    limitS: 120,
    skip: ({ engine }) =>
      engine.name !== "tensorflow"
        ? "cells are given to GPUs on CUDA only"
        : (engine.gpus?.length ?? 0) < 2 && `${engine.gpus?.length ?? 0} found`,
    run: async (check, signal) => {
      const out = join(check.folder, "two");
      await deno([...runArgs("tensorflow", out, { ...check, smallest: true }).slice(0, -1), "2"], signal);
      const devices = new Set(done(out).map(({ environment }) => environment.visibleDevices));
      return [{ what: "GPUs that computed cells", value: `${devices.size}`, holds: devices.size === 2 }];
    },
  },
];

/** Seconds that all steps together may take. */
const MOST_SECONDS = 29 * 60;

async function outcomeOf(step: Step, check: Check, leftS: number): Promise<Outcome> {
  const reason = step.skip?.(check) || (leftS < 10 && "the half hour was over");
  if (reason) return { step: step.name, state: "skipped", seconds: 0, findings: [], reason };
  const start = performance.now();
  const seconds = () => Math.round((performance.now() - start) / 100) / 10;
  try {
    const findings = await step.run(check, AbortSignal.timeout(1000 * Math.min(step.limitS, leftS)));
    const wrong = findings.filter(({ holds }) => holds === false).map(({ what }) => what);
    return {
      ...{ step: step.name, state: wrong.length > 0 ? "failed" : "holds", seconds: seconds(), findings },
      ...wrong.length > 0 && { reason: `does not hold: ${wrong.join("; ")}` },
    };
  } catch (error) {
    return { step: step.name, state: "failed", seconds: seconds(), findings: [], reason: (error as Error).message };
  }
}

/** What only a GPU shows. */
const NOT_SHOWN = "This device is a processor, so the check does not show: speed on a GPU, device memory, TF32, CUDA.";

const cell = (text: string) => text.replaceAll("|", "\\|").replaceAll("\n", " ");

function markdown({ engine, onGpu }: Check, outcomes: Outcome[]): string {
  const count = (state: Outcome["state"]) => outcomes.filter((outcome) => outcome.state === state).length;
  const failed = outcomes.filter(({ state }) => state === "failed").map(({ step }) => step);
  const minutes = outcomes.reduce((sum, { seconds }) => sum + seconds, 0) / 60;
  return [
    `# ${failed.length === 0 ? "Everything that was tried holds" : `Failed: ${failed.join("; ")}`}`,
    "",
    `${count("holds")} steps hold, ${count("failed")} failed, ${count("skipped")} were skipped, in ${
      minutes.toFixed(1)
    } minutes.`,
    `Engine ${engine.name} on ${engine.device}. ${onGpu ? "" : NOT_SHOWN}`,
    "",
    "| step | result | seconds | finding | value |",
    "| --- | --- | --- | --- | --- |",
    ...outcomes.flatMap(({ step, state, seconds, findings, reason }) => [
      `| ${step} | ${state} | ${seconds} | | ${cell(reason ?? "")} |`,
      ...findings.map(({ what, value, holds }) =>
        `| | ${holds === undefined ? "" : holds ? "holds" : "**failed**"} | | ${cell(what)} | ${cell(value)} |`
      ),
    ]),
    "",
    "PyTorch was not timed: `deno task bench:engine --peer torch` compares on the processor.",
    "",
    "Send this file and `check-gpu.json` with an issue of the project. They name the device and no files of yours.",
    "",
  ].join("\n");
}

const chooseEngine = (asked: string | undefined): Promise<ProbedEngine> =>
  asked === undefined
    ? probeEngine("tensorflow", { device: "cuda" }).catch(() => probeEngine("webgpu"))
    : probeEngine(choiceOf("engine", asked, ENGINE_NAMES));

async function main(
  { engine: asked, size, out = "check-gpu" }: ToolArgs<typeof FLAGS[number], never>,
): Promise<number> {
  const smallest = choiceOf("size", size ?? "full", ["full", "smallest"]) === "smallest";
  const engine = await chooseEngine(asked);
  const onGpu = engine.name === "tensorflow"
    ? engine.device.startsWith("cuda")
    : engine.name === "webgpu" && !/llvmpipe|swiftshader|software|cpu/i.test(engine.device);
  const check: Check = { engine, smallest, onGpu, folder: await Deno.makeTempDir({ prefix: "check-gpu-" }) };
  Deno.mkdirSync(resolve(out), { recursive: true });
  const outcomes: Outcome[] = [];
  try {
    for (const step of STEPS) {
      console.error(`${step.name} ...`);
      const outcome = await outcomeOf(step, check, MOST_SECONDS - performance.now() / 1000);
      outcomes.push(outcome);
      console.error(`  ${outcome.state}, ${outcome.seconds} s${outcome.reason ? `: ${outcome.reason}` : ""}`);
      // After every step, for a check that is itself stopped.
      Deno.writeTextFileSync(join(out, "check-gpu.md"), markdown(check, outcomes));
      const found = { engine, onGpu, smallest, outcomes };
      Deno.writeTextFileSync(join(out, "check-gpu.json"), JSON.stringify(found, null, 2));
    }
  } finally {
    await Deno.remove(check.folder, { recursive: true });
  }
  console.log(`${join(out, "check-gpu.md")} and check-gpu.json: what holds, and what to send where`);
  return outcomes.some(({ state }) => state === "failed") ? 1 : 0;
}

if (import.meta.main) await runTool({ help: HELP, string: FLAGS }, main);
