/** Builds the native engine.
 *
 * `@tensorflow/tfjs-node-gpu` cannot install as published: its script downloads a TensorFlow of 2022. The sources of
 * its addon compile unchanged against a current TensorFlow, whose libraries and headers are in the Python wheel:
 * 1. TensorFlow: the one of `--python`, or the wheel that pip puts into the cache folder;
 * 2. N-API headers: the npm package `node-api-headers`;
 * 3. the addon: `g++`, a few seconds, into the npm package's own folder;
 * 4. the decoder's own operations for the CPU (`core/engine/native/`), compiled for this processor, beside it;
 * 5. a matrix product, a softmax and a gradient, compared with values worked out by hand.
 *
 * With `--cuda` a GPU is looked for first, and the engine must run on it at the end.
 *
 * @module
 */
import { whyNoGpu } from "../../core/engine/cuda.ts";
import { DECODER_OPS } from "../../core/engine/engine.ts";
import { join } from "node:path";
import { UsageError } from "../../core/util/errors.ts";
import { isFile } from "../../core/util/paths.ts";
import { ROOT } from "../../core/util/user_folder.ts";
import { cacheFolder, findPython, packageFolder, runCommand } from "./setup_common.ts";
import { runTool, type ToolArgs } from "../run_tool.ts";

const HELP = `deno task setup:tensorflow [--cuda] [--python PATH]

  --cuda         TensorFlow with CUDA (Linux, about 3 GB of wheels)
  --python PATH  use this Python's TensorFlow instead of downloading a wheel`;

const TENSORFLOW_VERSION = "2.21.0";
const LIBRARIES = ["libtensorflow_cc.so.2", "libtensorflow_framework.so.2"];

/** Installs the TensorFlow wheel into the cache folder, unless it is there, and returns its `tensorflow` folder. */
async function installWheel(python: string, cuda: boolean): Promise<string> {
  const target = `${cacheFolder()}/tensorflow-${TENSORFLOW_VERSION}-${cuda ? "cuda" : "cpu"}`;
  const folder = `${target}/tensorflow`;
  if (isFile(`${folder}/${LIBRARIES[0]}`)) {
    console.error(`TensorFlow ${TENSORFLOW_VERSION}: found in ${target}`);
    return folder;
  }
  const requirement = cuda ? `tensorflow[and-cuda]==${TENSORFLOW_VERSION}` : `tensorflow-cpu==${TENSORFLOW_VERSION}`;
  console.error(`TensorFlow ${TENSORFLOW_VERSION}: pip installs ${requirement} into ${target} (once for this machine)`);
  // Only the library and its headers are used: of the CPU wheel's Python dependencies none is needed. The CUDA wheel
  // finds its libraries in the `nvidia` folders beside it.
  const partial = `${target}.partial`;
  await runCommand(
    python,
    ["-m", "pip", "install", "--quiet", "--target", partial, ...cuda ? [] : ["--no-deps"], requirement],
    `pip could not install ${requirement}: check the network, or name a Python that has TensorFlow with --python`,
  );
  await Deno.rename(partial, target);
  return folder;
}

/** The `tensorflow` folder of a Python that has it. */
async function installedTensorflow(python: string): Promise<string> {
  const { stdout } = await runCommand(
    python,
    ["-c", "import importlib.util as u; print(u.find_spec('tensorflow').submodule_search_locations[0])"],
    `${python} has no TensorFlow: leave out --python to let pip fetch it`,
  );
  return stdout.trim();
}

// The libraries may also lie beside what is linked, as in a packed program.
const linked = (tensorflow: string) => [
  ...LIBRARIES.map((library) => `${tensorflow}/${library}`),
  `-Wl,-rpath,$ORIGIN,-rpath,${tensorflow}`,
];

/** Compiles a shared library into place, and replaces one that a running program holds rather than writing into it. */
async function compile(output: string, flags: string[]): Promise<void> {
  const partial = `${output}.partial`;
  const name = output.split("/").at(-1);
  await runCommand(
    Deno.env.get("CXX") ?? "g++",
    ["-fPIC", "-shared", "-std=c++17", ...flags, "-o", partial],
    `${name} did not compile: a C++17 compiler is needed (Debian: \`apt-get install g++\`; or name one in CXX)`,
  );
  await Deno.rename(partial, output);
}

async function compileAddon(tensorflow: string): Promise<void> {
  const addon = packageFolder("@tensorflow/tfjs-node-gpu");
  const headers = `${packageFolder("node-api-headers")}/include`;
  await Deno.mkdir(`${addon}/lib/napi-v8`, { recursive: true });
  console.error(`Addon: g++ compiles it against ${tensorflow}`);
  await compile(`${addon}/lib/napi-v8/tfjs_binding.node`, [
    ...["-O2", "-DNAPI_VERSION=8", "-I", headers, "-I", `${tensorflow}/include`, "-I", addon],
    ...[`${addon}/binding/tfjs_backend.cc`, `${addon}/binding/tfjs_binding.cc`, ...linked(tensorflow)],
  ]);
}

async function compileDecoderOps(tensorflow: string): Promise<void> {
  console.error("Decoder operations: g++ compiles core/engine/native for this processor");
  const source = join(ROOT, "core/engine/native/decoder_ops.cc");
  const flags = ["-O3", "-march=native", "-pthread", "-I", `${tensorflow}/include`];
  await compile(DECODER_OPS, [...flags, source, ...linked(tensorflow)]);
}

/** Starts the engine in a process of its own, so that a crash while loading is reported rather than shared. */
async function check(cuda: boolean): Promise<string> {
  const engine = new URL("../../core/engine/engine.ts", import.meta.url).href;
  const program = `const { startEngine } = await import(${JSON.stringify(engine)});` +
    `const { library, device } = await startEngine("tensorflow", ${cuda ? '{ device: "cuda" }' : "{}"});` +
    "console.log(`${library} on ${device}`);";
  const { stdout } = await runCommand(
    "deno",
    ["eval", `--config=${join(ROOT, "deno.json")}`, program],
    "The addon was built but the engine does not start",
  );
  return stdout.trim();
}

async function main({ cuda, python }: ToolArgs<"python", "cuda">): Promise<void> {
  if (Deno.build.os === "windows") {
    throw new UsageError("The native engine is built on Linux and macOS only: use --engine webgpu or wasm on Windows");
  }
  const missing = cuda ? whyNoGpu() : null;
  if (missing !== null) {
    throw new UsageError(
      `The native engine cannot be set up for CUDA here: ${missing}. Leave --cuda out for the CPU; nothing was changed`,
    );
  }
  const tensorflow = python ? await installedTensorflow(python) : await installWheel(await findPython(), cuda);
  await compileAddon(tensorflow);
  await compileDecoderOps(tensorflow);
  console.log(`Engine "tensorflow" is ready: ${await check(cuda)}`);
}

if (import.meta.main) await runTool({ help: HELP, string: ["python"], boolean: ["cuda"] }, main);
