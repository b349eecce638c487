/** Tests this machine's GPU in at most half an hour and writes one Markdown and one JSON file. Each step is a process
 * of its own with a time limit, so that none stops the others.
 *
 * @module
 */
import { join, resolve } from "node:path";
import type { EngineName } from "../../core/schema/schema.ts";
import { at } from "../../core/util/indexing.ts";
import { isThere } from "../../core/util/paths.ts";
import { ROOT } from "../../core/util/user_folder.ts";
import { choiceOf } from "../../benchmarks/commands/command.ts";
import { readRecords, runPaths } from "../../benchmarks/records/store.ts";
import { type ProbedEngine, probeEngine } from "../../benchmarks/configuration/engine_probe.ts";
import { getMethod, listMethods } from "../../methods/mod.ts";
import { runTool, type ToolArgs } from "../run_tool.ts";
import { cacheFolder } from "../setup/setup_common.ts";
import { type Finding, MODEL_LIMIT_S, SHAPES } from "./measure.ts";

const FLAGS = ["engine", "size", "out"] as const;
const HELP = `deno task check:gpu [options]

Writes check-gpu.md and check-gpu.json; exits 1 if a step failed. Leave the GPU idle.

  --engine NAME  tensorflow (CUDA), webgpu or wasm (default: tensorflow on CUDA, else webgpu)
  --size SIZE    full (the default, at most 30 minutes) or smallest (two minutes, for a machine without a GPU)
  --out DIR      folder of the two files (default: check-gpu)`;

/** What is checked, and how. */
export interface Check {
  engine: ProbedEngine;
  smallest: boolean;
  /** Whether tensors lie in a GPU's own memory. */
  onGpu: boolean;
  /** For runs and temporary files; removed in the end. */
  folder: string;
}

/** A part of the check. */
export interface Step {
  name: string;
  /** Seconds after which it is stopped. */
  limitS: number;
  /** What it finds, or why it was skipped. */
  run(check: Check, signal: AbortSignal): Promise<Finding[] | string>;
  /** Why it cannot run here. */
  skip?(check: Check): string | false;
}

/** How a step ended. */
export interface Outcome {
  step: string;
  state: "holds" | "failed" | "skipped";
  seconds: number;
  findings: Finding[];
  /** Of a failure or a skip. */
  reason?: string;
}

/** Starts `deno`. It is killed at the end of `signal`: it may hang in a driver. */
function start(args: string[], signal: AbortSignal, env: Record<string, string> = {}): Deno.ChildProcess {
  const own = { NO_COLOR: "1", ...env };
  const child = new Deno.Command("deno", { args, cwd: ROOT, env: own, stdout: "piped", stderr: "piped" }).spawn();
  let over = false;
  child.status.then(() => over = true);
  signal.addEventListener("abort", () => over || child.kill("SIGKILL"));
  return child;
}

/** Runs `deno`, and gives its output.
 * @throws {Error} with the end of its output unless it ends with code 0. */
async function deno(...given: Parameters<typeof start>): Promise<string> {
  const { code, stdout, stderr } = await start(...given).output();
  const [out, err] = [stdout, stderr].map((bytes) => new TextDecoder().decode(bytes));
  if (code !== 0) {
    const said = `${out}\n${err}`.trim();
    throw new Error(`exit code ${code}: ${said.match(/^error: .*/m)?.[0] ?? said.split("\n").slice(-8).join(" | ")}`);
  }
  return out!;
}

const RIGHTS = ["--no-prompt", "--no-lock", "--quiet", "--allow-read", "--allow-write", "--allow-env", "--allow-sys"];

/** A step of `measure.ts`; `torch` adds Python with PyTorch and its device. */
async function measured(
  what: string,
  { engine, smallest, onGpu, folder }: Check,
  signal: AbortSignal,
  torch: string[] = [],
) {
  const rights = [...RIGHTS, "--allow-ffi", `--allow-run=${["nvidia-smi", ...torch.slice(0, 1)]}`];
  // Software Vulkan takes hours for the full size.
  const size = smallest || (engine.name === "webgpu" && !onGpu) ? "smallest" : "full";
  const args = ["run", ...rights, join(ROOT, "tools/gpu/measure.ts"), engine.name, what, size, ...torch];
  // What a killed process leaves lies where the check clears up.
  return JSON.parse((await deno(args, signal, { TMPDIR: folder })).trim().split("\n").at(-1)!) as Finding[] | string;
}

const measure = (what: string, limitS: number, name: string, skip?: Step["skip"]): Step => ({
  name,
  limitS,
  skip,
  run: (check, signal) => measured(what, check, signal),
});

/** The first Python that has PyTorch and transformers, and a GPU in PyTorch if `onGpu`. */
async function findTorch(onGpu: boolean): Promise<string | undefined> {
  const program = "import torch, transformers; print(torch.cuda.is_available())";
  for (const python of [join(cacheFolder(), "python-torch/bin/python"), "python3"]) {
    try {
      const { success, stdout } = await new Deno.Command(python, { args: ["-c", program] }).output();
      if (success && (!onGpu || new TextDecoder().decode(stdout).includes("True"))) return python;
    } catch {
      // Not on this machine.
    }
  }
}

const besideTorch = (what: string, model: string, skip?: Step["skip"]): Step => ({
  name: `speed beside PyTorch, and the same numbers, ${model}`,
  limitS: MODEL_LIMIT_S,
  skip,
  run: async (check, signal) => {
    const python = await findTorch(check.onGpu);
    if (python) return await measured(what, check, signal, [python, check.onGpu ? "cuda" : "cpu"]);
    return `no python3 has torch${check.onGpu ? " with a GPU" : ""} and transformers: ` +
      "`python3 -m pip install torch transformers`, then check again";
  },
});

/** Files of `tests`, on this engine alone. */
const tests = (name: string, files: string[], skip?: Step["skip"], env: Record<string, string> = {}): Step => ({
  name,
  limitS: 240,
  skip,
  run: async ({ engine }, signal) => {
    const paths = files.map((file) => `tests/${file}_test.ts`);
    // The archive has no types of packages.
    const args = ["test", "--no-check", ...RIGHTS, "--allow-ffi", "--allow-run=deno,git,nvidia-smi", ...paths];
    const out = await deno(args, signal, { ...env, MASKPRUNE_ENGINES: engine.name });
    const counts = out.match(/\d+ passed.*?(?= \(|$)/m)?.[0];
    return [{ what: files.join(", "), value: counts ?? "no summary", holds: counts !== undefined }];
  },
});

/** A real model against its goldens, where its file is. */
function goldens(model: string, folder: string, file: string): Step {
  const variable = `MASKPRUNE_${folder.toUpperCase()}`;
  const path = Deno.env.get(variable) ?? join(ROOT, "models", file);
  const missing = `there is no models/${file}: \`deno task get:${folder}\` fetches it, \`pack --model\` packs it`;
  const skip = () => !isThere(path) && missing;
  return tests(`${model} against transformers`, [`${folder}/goldens`], skip, { [variable]: path });
}

const whole = ({ smallest }: Check) => smallest && "only with --size full";

/** Arguments of a run of the bundled model. */
function runArgs(engine: EngineName, out: string, { smallest }: Check): string[] {
  const methods = smallest ? ["magnitude", "wanda-sp"] : listMethods().map(({ id }) => id);
  const rights = [...RIGHTS, "--allow-ffi", "--allow-run=deno,git"];
  return [
    ...["run", ...rights, join(ROOT, "benchmarks/start.ts"), "run", "--engine", engine, "--out", out],
    ...["--methods", methods.join(","), "--sparsity", "0.3", "--calibration", "tiny-world:8:64", "--no-throughput"],
    ...["--perplexity", "tiny-world:a:64:4", "--tasks", "tiny-facts", "--limit", "4"],
    ...["--training", "steps=6,batch=1,tokens=16", "--jobs", "1"],
  ];
}

const done = (out: string) => readRecords(out).records.flatMap((record) => record.state === "done" ? [record] : []);

/** Starts a run, kills it when a record is there, and continues it. */
async function killedRun(check: Check, signal: AbortSignal): Promise<Finding[]> {
  const out = join(check.folder, "device");
  const args = runArgs(check.engine.name, out, check);
  const child = start(args, signal);
  let over = false;
  const ended = child.output().then(() => over = true);
  const count = () => isThere(runPaths(out).records) ? done(out).length : 0;
  while (!over && count() === 0) await new Promise((wake) => setTimeout(wake, 100));
  const before = count();
  if (!over) child.kill("SIGKILL");
  await ended;
  await deno(args, signal);
  const states = readRecords(out).records.map(({ state }) => state);
  const finished = states.filter((state) => state === "done").length;
  return [
    { what: "cells done when it was killed", value: `${before}` },
    { what: "cells done in the end", value: `${finished} of ${states.length}`, holds: finished === states.length },
  ];
}

/** Part of the units of a learned method that rounding may change: equal gates are ranked by the last bits. */
const MOST_OTHER_UNITS = 0.1;

/** Largest difference of log-likelihoods in nats a token that f32 arithmetic may make on the bundled model. */
const MOST_NATS = 1e-3;

/** The same cells on the processor, on wasm where it is: kept units and log-likelihoods. */
async function againstCpu(check: Check, signal: AbortSignal): Promise<Finding[]> {
  const out = join(check.folder, "cpu");
  const hasWasm = isThere(join(ROOT, "node_modules/@tensorflow/tfjs-backend-wasm"));
  const reference = hasWasm && check.engine.name !== "wasm" ? "wasm" : "cpu";
  await deno(runArgs(reference, out, check), signal);
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
    const isLearned = expected.cell.method !== null && getMethod(name).kind === "learned";
    const nll = expected.perplexity.flatMap(({ windowNll }, i) =>
      windowNll.map((value, j) => Math.abs(value - at(at(actual.perplexity, i).windowNll, j)))
    );
    const worst = Math.max(...nll);
    return [
      {
        what: `${name}: kept units`,
        value: `${theirs.length - missing} of ${theirs.length} as on ${reference}`,
        holds: missing <= (isLearned ? MOST_OTHER_UNITS * theirs.length : 0),
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

/** The most telling first: the last are skipped when time runs out. */
const STEPS: Step[] = [
  measure("device", 60, "device, limits, exact arithmetic"),
  tests("transfers of scoring and training against their budget", ["backend/traffic"]),
  { name: "a run, killed and resumed", limitS: 300, run: killedRun },
  { name: "kept units and log-likelihoods against the processor's", limitS: 300, run: againstCpu },
  measure("bundled", MODEL_LIMIT_S, "speed and memory, bundled model"),
  measure(
    "memory",
    120,
    "out of memory, provoked and survived",
    ({ onGpu, engine }) =>
      !onGpu && engine.name !== "webgpu" && "tensors are in the machine's memory, where this would end other programs",
  ),
  besideTorch("bundled", "bundled model"),
  tests("gradients against finite differences", ["backend/training"], whole),
  tests("decoding, and its transfers against their budget", ["backend/step"], whole),
  goldens("SmolLM2-135M", "smollm2", "SmolLM2-135M.gguf"),
  goldens("Gemma 3 270M", "gemma3", "gemma-3-270m.gguf"),
  ...Object.keys(SHAPES).flatMap((name): Step[] => [
    measure(name, MODEL_LIMIT_S, `speed and memory, random model of ${name}`, whole),
    ...name === "7B" ? [] : [besideTorch(name, `random model of ${name}`, whole)],
  ]),
  {
    name: "two GPUs, one cell each",
    limitS: 120,
    skip: ({ engine }) =>
      engine.name !== "tensorflow"
        ? "cells get their own GPU only on CUDA"
        : (engine.gpus?.length ?? 0) < 2 && `${engine.gpus?.length ?? 0} found`,
    run: async (check, signal) => {
      const out = join(check.folder, "two");
      await deno([...runArgs("tensorflow", out, { ...check, smallest: true }).slice(0, -1), "2"], signal);
      const devices = new Set(done(out).map(({ environment }) => environment.visibleDevices));
      return [{ what: "GPUs that computed cells", value: `${devices.size}`, holds: devices.size === 2 }];
    },
  },
  tests("operations and models against slow references", ["backend/ops", "backend/decoder", "backend/scorer"], whole),
  tests("families, masks, pruning", ["backend/families", "backend/surgery", "backend/vocabulary"], whole),
  tests("methods against slow references", ["backend/methods_reference", "backend/methods_taylor_reference"], whole),
];

/** Seconds that all steps together may take. */
const MOST_SECONDS = 29 * 60;

/** Runs a step, unless it could take longer than what is left. A process that cannot be killed is left behind. */
export async function outcomeOf(step: Step, check: Check, leftS: number): Promise<Outcome> {
  const { name, limitS } = step;
  const start = performance.now();
  const ends = (state: Outcome["state"], findings: Finding[], reason?: string): Outcome => {
    const seconds = Math.round((performance.now() - start) / 100) / 10;
    return { step: name, state, seconds, findings, ...reason !== undefined && { reason } };
  };
  const left = Math.max(0, leftS).toFixed(0);
  const reason = step.skip?.(check) || (limitS > leftS && `it may take ${limitS} s, and ${left} s are left`);
  if (reason) return ends("skipped", [], reason);
  const signal = AbortSignal.timeout(1000 * limitS);
  const stopped = `it was stopped after ${limitS} s`;
  const late = new Promise<string>((end) => signal.addEventListener("abort", () => setTimeout(end, 2000, stopped)));
  try {
    const findings = await Promise.race([step.run(check, signal), late]);
    if (typeof findings === "string") return ends(signal.aborted ? "failed" : "skipped", [], findings);
    const wrong = findings.filter(({ holds }) => holds === false).map(({ what }) => what);
    return wrong.length > 0 ? ends("failed", findings, `does not hold: ${wrong.join("; ")}`) : ends("holds", findings);
  } catch (error) {
    return ends("failed", [], signal.aborted ? stopped : (error as Error).message);
  }
}

/** What only a GPU shows. */
const NOT_SHOWN = "This device is a processor, so the check does not show: speed on a GPU, device memory, TF32, CUDA.";

const cell = (text: string) => text.replaceAll("|", "\\|").replaceAll("\n", " ");

/** The report: verdict, what was found, what was not tried, what to send. */
export function markdown({ engine, onGpu, smallest }: Check, outcomes: Outcome[]): string {
  const of = (state: Outcome["state"]) => outcomes.filter((outcome) => outcome.state === state);
  const list = (some: Outcome[]) => some.map(({ step, reason = "" }) => `- ${step}: ${cell(reason)}`);
  const [failed, skipped] = [of("failed"), of("skipped")];
  const minutes = outcomes.reduce((sum, { seconds }) => sum + seconds, 0) / 60;
  const verdict = failed.length === 0
    ? "Everything that was tried holds"
    : `${failed.length} of ${outcomes.length - skipped.length} steps failed`;
  return [
    `# ${verdict}${onGpu ? "" : ", on a processor"}`,
    "",
    `Device: ${engine.device}. Engine: ${engine.name}, ${engine.library}. ${smallest ? "Smallest" : "Full"} size.`,
    ...onGpu ? [] : [NOT_SHOWN],
    "",
    `${of("holds").length} steps hold, ${failed.length} failed, ${skipped.length} were skipped.`,
    `The check took ${minutes.toFixed(1)} minutes.`,
    "",
    ...failed.length === 0 ? [] : ["## Failed", "", ...list(failed), ""],
    "## Found",
    "",
    "| step, finding | result | value |",
    "| --- | --- | --- |",
    ...outcomes.filter(({ state }) => state !== "skipped").flatMap(({ step, state, seconds, findings }) => [
      `| **${step}** | **${state}** | ${seconds} s |`,
      ...findings.map(({ what, value, holds }) =>
        `| ${cell(what)} | ${holds === undefined ? "" : holds ? "holds" : "**failed**"} | ${cell(value)} |`
      ),
    ]),
    "",
    ...skipped.length === 0 ? [] : ["## Not tried", "", ...list(skipped), ""],
    "## What to send",
    "",
    "Attach this file and `check-gpu.json` to an issue of the project, whatever the verdict. They name the device, its " +
    "driver and versions, and none of your files.",
    "",
  ].join("\n");
}

const chooseEngine = (asked: string | undefined): Promise<ProbedEngine> =>
  asked === undefined
    ? probeEngine("tensorflow", { device: "cuda" }).catch(() => probeEngine("webgpu"))
    : probeEngine(choiceOf("engine", asked, ["tensorflow", "webgpu", "wasm"]));

async function main(
  { engine: asked, size, out = "check-gpu" }: ToolArgs<typeof FLAGS[number], never>,
): Promise<number> {
  const smallest = choiceOf("size", size ?? "full", ["full", "smallest"]) === "smallest";
  const engine = await chooseEngine(asked);
  const onGpu = engine.name === "tensorflow"
    ? engine.device.startsWith("cuda")
    : engine.name === "webgpu" && !/llvmpipe|swiftshader|software|cpu/i.test(engine.device);
  Deno.mkdirSync(resolve(out), { recursive: true });
  const check: Check = { engine, smallest, onGpu, folder: await Deno.makeTempDir({ prefix: "check-gpu-" }) };
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
  console.log(`${join(out, "check-gpu.md")} and check-gpu.json: results, and where to send them`);
  return outcomes.some(({ state }) => state === "failed") ? 1 : 0;
}

if (import.meta.main) await runTool({ help: HELP, string: FLAGS }, main);
