/** `deno task bench:gemm [--model PATH] [--rows 512] [--threads N] [--repeats 15]`: which library multiplies matrices
 * fastest on this machine, on the shapes of a model's linear maps and of its output projection.
 *
 * TensorFlow as the engine calls it, the engine's own operation for weights in 16 bits, given f32, and OpenBLAS and MKL
 * (wheels from PyPI, in a private environment, called through their C interface) take turns in one process:
 * `x [rows, in]` times `w [in, out]`, for the output projection `w [out, in]` transposed, f32, the mean of four products
 * after three untimed ones in each turn. Before a rate is printed the products are compared.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import { parseArgs } from "@std/cli/parse-args";
import { wholeNumber } from "../../benchmarks/commands/command.ts";
import { timeInTurns } from "../../benchmarks/timing/throughput.ts";
import { startEngine } from "../../core/engine/engine.ts";
import { at } from "../../core/util/indexing.ts";
import { storedProduct } from "../../core/engine/matrix.ts";
import { createRng } from "../../core/util/rng.ts";
import { mean, median } from "../../core/util/stats.ts";
import { inProject } from "../../core/util/user_folder.ts";
import { type DecoderConfig, LINEAR_NAMES, linearShape } from "../../models/config.ts";
import { openModel } from "../../models/load.ts";
import { privatePython, runCommand } from "../setup/setup_common.ts";
import { runTool } from "../run_tool.ts";

const HELP = "deno task bench:gemm [--model PATH] [--rows 512] [--threads N] [--repeats 15]";

const PACKAGES = [["scipy-openblas32==0.3.34.481.3"], ["mkl==2026.2.0"]];

/** Prints the folder of the packages, then that of MKL's libraries. */
const WHERE = "import sys, sysconfig; print(sysconfig.get_paths()['purelib']); print(sys.prefix + '/lib')";

/** Enums of the CBLAS interface: row-major order, no transposition, transposition. */
const [ROW_MAJOR, PLAIN, TRANSPOSED] = [101, 111, 112];

/** A library's way to a product. */
interface Side {
  name: string;
  /** Milliseconds of one product, and the product [m, n], row-major. */
  multiply(operands: Operands): { ms: number; product: Float32Array };
}

/** `x w`, or `x wᵀ`. */
interface Operands {
  m: number;
  n: number;
  k: number;
  /** [m, k], row-major. */
  x: Float32Array;
  /** [k, n], or [n, k] when `transposed`, row-major. */
  w: Float32Array;
  transposed: boolean;
}

/** A library with the CBLAS interface. */
function blasSide(name: string, path: string, symbol: string): Side {
  const [int, float, array] = ["i32", "f32", "buffer"] as const;
  const { symbols } = Deno.dlopen(path, {
    [symbol]: {
      parameters: [int, int, int, int, int, int, float, array, int, array, int, float, array, int],
      result: "void",
    },
  });
  const gemm = symbols[symbol] as (...values: unknown[]) => void;
  return {
    name,
    multiply: ({ m, n, k, x, w, transposed }) => {
      const out = new Float32Array(m * n);
      const start = performance.now();
      gemm(ROW_MAJOR, PLAIN, transposed ? TRANSPOSED : PLAIN, m, n, k, 1, x, k, w, transposed ? k : n, 0, out, n);
      return { ms: performance.now() - start, product: out };
    },
  };
}

/** A side whose operands are on the device. */
function deviceSide(name: string, product: (x: tf.Tensor2D, w: tf.Tensor2D, transposed: boolean) => tf.Tensor): Side {
  const uploaded = new Map<Float32Array, tf.Tensor2D>();
  const upload = (values: Float32Array, shape: [number, number]) => {
    const known = uploaded.get(values) ?? tf.tensor2d(values, shape);
    uploaded.set(values, known);
    return known;
  };
  return {
    name,
    multiply: ({ m, n, k, x, w, transposed }) => {
      const [a, b] = [upload(x, [m, k]), upload(w, transposed ? [n, k] : [k, n])];
      const start = performance.now();
      // On the CPU the product is there when the call returns.
      const result = product(a, b, transposed);
      const ms = performance.now() - start;
      const values = result.dataSync() as Float32Array;
      result.dispose();
      return { ms, product: values };
    },
  };
}

/** OpenBLAS and MKL from their wheels, on so many threads.
 * @throws {UsageError} when they cannot be installed. */
async function blasSides(threads: number): Promise<Side[]> {
  const python = await privatePython("gemm", PACKAGES);
  const { stdout } = await runCommand(python, ["-c", WHERE], "Python did not say where its packages are");
  const [packages, libraries] = stdout.trim().split("\n");
  // They are read when the libraries load.
  Deno.env.set("OPENBLAS_NUM_THREADS", String(threads));
  Deno.env.set("MKL_NUM_THREADS", String(threads));
  Deno.env.set("MKL_DYNAMIC", "FALSE");
  Deno.env.set("KMP_BLOCKTIME", "0");
  // MKL looks for its other libraries by name: the thread layer must be in the process before it.
  Deno.dlopen(`${libraries}/libiomp5.so`, {});
  return [
    blasSide("OpenBLAS", `${packages}/scipy_openblas32/lib/libscipy_openblas.so`, "scipy_cblas_sgemm"),
    blasSide("MKL", `${libraries}/libmkl_rt.so.3`, "cblas_sgemm"),
  ];
}

/** Outputs and inputs of the distinct linear maps, by the names that have them. */
function shapesOf(config: DecoderConfig): Map<string, [number, number]> {
  const maps: [string, [number, number]][] = LINEAR_NAMES.map((name) => [
    name,
    linearShape(config, at(config.layers, 0), name),
  ]);
  maps.push(["head", [config.vocabSize, config.width]]);
  const groups = Map.groupBy(maps, ([, shape]) => shape.join(" x "));
  return new Map([...groups.values()].map((group) => [group.map(([name]) => name).join(", "), at(group, 0)[1]]));
}

/** Idle threads of a library look for work this long before they sleep, and would slow the next one. */
const PAUSE_MS = 50;

/** Products of a turn: the first ones wake the library's threads. */
const WARM_PRODUCTS = 3;
const TIMED_PRODUCTS = 4;

/** Checks that the libraries agree, then gives the mean milliseconds of a product in each turn of each. */
async function compare(sides: readonly Side[], operands: Operands, turns: number): Promise<number[][]> {
  const [first, ...others] = sides.map((side) => side.multiply(operands).product);
  for (const other of others) {
    const most = other.reduce((largest, value, i) => Math.max(largest, Math.abs(value - at(first!, i))), 0);
    if (most > 1e-3) throw new Error(`The libraries disagree by ${most} on ${operands.m} x ${operands.n}`);
  }
  const turn = ({ multiply }: Side) => async () => {
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
    for (let warm = 0; warm < WARM_PRODUCTS; warm++) multiply(operands);
    return mean(Array.from({ length: TIMED_PRODUCTS }, () => multiply(operands).ms));
  };
  return await timeInTurns(turns, sides.map(turn));
}

async function main(): Promise<void> {
  const flags = parseArgs(Deno.args, {
    string: ["model", "rows", "threads", "repeats"],
    boolean: ["help"],
    default: {
      model: inProject("models/SmolLM2-135M.gguf"),
      rows: "512",
      repeats: "15",
      threads: String(navigator.hardwareConcurrency),
    },
  });
  if (flags.help) return console.log(HELP);
  const m = wholeNumber("rows", flags.rows);
  const turns = wholeNumber("repeats", flags.repeats);
  const threads = wholeNumber("threads", flags.threads);
  Deno.env.set("TF_NUM_INTRAOP_THREADS", String(threads));
  const engine = await startEngine("tensorflow", { device: "cpu" });
  const sides = [
    deviceSide("TensorFlow", (x, w, transposed) => tf.matMul(x, w, false, transposed)),
    deviceSide("own", storedProduct),
    ...await blasSides(threads),
  ];
  const { source } = await openModel(String(flags.model));
  source.close();
  console.log(`${flags.model}, ${m} rows, ${engine.device}, f32, ${turns} turns; GFLOP/s`);
  const rng = createRng(0, "bench-gemm");
  const random = (length: number) => Float32Array.from({ length }, () => rng.normal());
  for (const [names, [n, k]] of shapesOf(source.config)) {
    const operands = { m, n, k, x: random(m * k), w: random(n * k), transposed: names === "head" };
    const samplesMs = await compare(sides, operands, turns);
    const rate = (ms: number) => (2 * m * n * k / ms / 1e6).toFixed(0);
    const parts = sides.map(({ name }, i) => {
      const own = at(samplesMs, i);
      return `${name} ${rate(median(own))} (${rate(Math.max(...own))} to ${rate(Math.min(...own))})`;
    });
    console.log(`${`${names}: ${k} to ${n}`.padEnd(34)} ${parts.join("   ")}`);
  }
}

if (import.meta.main) await runTool(main);
