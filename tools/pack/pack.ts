/** Packs an archive that runs without a network and without Deno installed: this Deno, the project, the npm packages of
 * one engine and the bundled model.
 *
 * The packages are those of deno.json that the engine needs, with all that they depend on, as `node_modules/.deno` has
 * them. Of them only files that Deno runs are packed: no source maps, types, or bundles for browsers.
 *
 * @module
 */
import { basename, dirname, join, relative, resolve } from "node:path";
import { parse } from "yaml";
import { choiceOf, withTempFolder } from "../../benchmarks/commands/command.ts";
import { UsageError } from "../../core/util/errors.ts";
import { isThere } from "../../core/util/paths.ts";
import { ROOT } from "../../core/util/user_folder.ts";
import { runTool, type ToolArgs } from "../run_tool.ts";
import { packageFolder, runCommand } from "../setup/setup_common.ts";

const FLAGS = ["out", "engine", "model", "data"] as const;
type Flags = ToolArgs<typeof FLAGS[number], never>;
const HELP = `deno task pack --out FILE.tar.xz [options]

In the unpacked archive, ./bench is \`deno task bench\`, and ./bench check-gpu is \`deno task check:gpu\`.

  --out FILE      archive to write
  --engine NAME   wasm (the default), webgpu, or tensorflow as installed here
  --model PATH    also packs a model, into models/
  --data DIR      also packs a data folder, as data/`;

const ENGINES = ["wasm", "webgpu", "tensorflow"] as const;
type PackedEngine = typeof ENGINES[number];

/** Largest archive of an engine without models or data of the user's. */
const MOST_BYTES = 60e6;

/** Packages that only tests or set-up import. */
const UNUSED = ["fast-check", "node-api-headers"];
const ENGINE_PACKAGES: Record<string, PackedEngine> = {
  "@tensorflow/tfjs-backend-wasm": "wasm",
  "@tensorflow/tfjs-backend-webgpu": "webgpu",
  "@tensorflow/tfjs-node-gpu": "tensorflow",
};

/** Files of the repository that no run needs. */
const LEFT_OUT = /^(results|tests\/(?!backend|conformance|gemma3|golden|smollm2|support)|\.)/;
/** Files of packages that Deno does not run; TensorFlow.js's entry under Deno is `dist/NAME.node.js`. */
const NOT_RUN =
  /\.(map|html|tsbuildinfo|md|flow|[cm]?ts)$|_test\.js$|\.min\.js$|\/dist\/tf[\w-]*(\.(es2017|fesm))?\.js$/;
/** Optional binaries of other systems' C libraries: Deno itself needs glibc. */
const OTHER_SYSTEM = /-musl$/;

/** Each start has the rights of its task. The packed Deno is first on the path, for the processes that it starts. */
const LAUNCHER = `#!/bin/sh
# \`./bench\` is \`deno task bench\`, \`./bench check-gpu\` is \`deno task check:gpu\`.
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
PATH=$here/bin:$PATH DENO_DIR=\${DENO_DIR:-$here/.cache} DENO_NO_UPDATE_CHECK=1
export PATH DENO_DIR DENO_NO_UPDATE_CHECK
task=bench
if [ "$1" = check-gpu ]; then task=check:gpu; shift; fi
exec deno task --quiet --config "$here/deno.json" "$task" "$@"
`;

/** npm packages of deno.json that a run on `engine` needs. */
function wantedPackages(engine: PackedEngine): string[] {
  // JSON with comments is no JSON; without its comment lines it is YAML.
  const text = Deno.readTextFileSync(join(ROOT, "deno.json")).replace(/^\s*\/\/.*$/gm, "");
  const { imports } = parse(text) as { imports: Record<string, string> };
  return Object.keys(imports).filter((name) =>
    imports[name]!.startsWith("npm:") && !UNUSED.includes(name) && (ENGINE_PACKAGES[name] ?? engine) === engine
  );
}

/** Folders in `node_modules/.deno` of `names` and of all that they depend on. */
function packageFolders(names: string[]): Set<string> {
  const store = join(ROOT, "node_modules/.deno");
  const folders = new Set<string>();
  const visit = (folder: string) => {
    const own = join(store, relative(store, folder).split("/")[0]!);
    const { dependencies = {}, optionalDependencies = {} } = JSON.parse(
      Deno.readTextFileSync(join(folder, "package.json")),
    );
    if (folders.has(own)) return;
    folders.add(own);
    for (const name of Object.keys({ ...dependencies, ...optionalDependencies })) {
      const link = join(own, "node_modules", name);
      if (isThere(link) && !OTHER_SYSTEM.test(name)) visit(Deno.realPathSync(link));
    }
  };
  for (const name of names) visit(packageFolder(name));
  return folders;
}

/** Copies a folder with its links as they are, where they lead to something that is packed. */
function copyPackage(from: string, to: string, packed: Set<string>): void {
  for (const { name, isSymlink, isDirectory } of Deno.readDirSync(from)) {
    const [source, target] = [join(from, name), join(to, name)];
    if (isSymlink) {
      const store = join(ROOT, "node_modules/.deno");
      const own = join(store, relative(store, resolve(from, Deno.readLinkSync(source))).split("/")[0]!);
      if (!packed.has(own)) continue;
      Deno.mkdirSync(to, { recursive: true });
      Deno.symlinkSync(Deno.readLinkSync(source), target);
    } else if (isDirectory) copyPackage(source, target, packed);
    else if (!NOT_RUN.test(source)) {
      Deno.mkdirSync(to, { recursive: true });
      Deno.copyFileSync(source, target);
    }
  }
}

function copyPackages(engine: PackedEngine, to: string): void {
  const names = wantedPackages(engine);
  const folders = packageFolders(names);
  for (const folder of folders) copyPackage(folder, join(to, relative(ROOT, folder)), folders);
  // Where packages find what they use without naming it as a dependency.
  copyPackage(join(ROOT, "node_modules/.deno/node_modules"), join(to, "node_modules/.deno/node_modules"), folders);
  for (const name of names) {
    const link = join(to, "node_modules", name);
    Deno.mkdirSync(dirname(link), { recursive: true });
    Deno.symlinkSync(relative(dirname(join(ROOT, "node_modules", name)), packageFolder(name)), link);
  }
}

/** Copies TensorFlow's libraries beside the addon, which looks there, and NVIDIA's where TensorFlow looks. */
async function copyTensorflow(to: string): Promise<void> {
  const addon = relative(ROOT, packageFolder("@tensorflow/tfjs-node-gpu"));
  const binding = join(ROOT, addon, "lib/napi-v8/tfjs_binding.node");
  if (!isThere(binding)) {
    throw new UsageError("Cannot pack tensorflow: it is not set up. Run `deno task setup:tensorflow`.");
  }
  const { stdout } = await runCommand("ldd", [binding], "Cannot find TensorFlow's libraries");
  const libraries = [...stdout.matchAll(/=> (\S*libtensorflow\S*)/g)].map(([, path]) => path!);
  if (libraries.length === 0) throw new UsageError("Cannot pack tensorflow: ldd finds no library. Set it up again");
  for (const path of new Set(libraries)) Deno.copyFileSync(path, join(to, addon, "lib/napi-v8", basename(path)));
  const nvidia = join(dirname(libraries[0]!), "../nvidia");
  if (!isThere(nvidia)) return;
  await runCommand("cp", ["-a", nvidia, join(to, addon, "lib/nvidia")], "Cannot copy NVIDIA's libraries");
}

async function copyProject(to: string): Promise<void> {
  const list = ["-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"];
  const { stdout } = await runCommand("git", list, "Cannot list the project's files: pack from a clone");
  for (const path of stdout.split("\0")) {
    if (path === "" || LEFT_OUT.test(path) || !isThere(join(ROOT, path))) continue;
    Deno.mkdirSync(dirname(join(to, path)), { recursive: true });
    Deno.copyFileSync(join(ROOT, path), join(to, path));
  }
}

async function pack(engine: PackedEngine, out: string, { model, data }: Flags): Promise<void> {
  const missing = [model, data].find((path) => path && !isThere(path));
  if (missing) throw new UsageError(`Cannot pack "${missing}": no such file`);
  Deno.mkdirSync(dirname(resolve(out)), { recursive: true });
  await withTempFolder(async (folder) => {
    const root = join(folder, "maskprune-bench");
    await copyProject(root);
    copyPackages(engine, root);
    if (engine === "tensorflow") await copyTensorflow(root);
    Deno.mkdirSync(join(root, "bin"));
    Deno.copyFileSync(Deno.execPath(), join(root, "bin/deno"));
    Deno.writeTextFileSync(join(root, "bench"), LAUNCHER, { mode: 0o755 });
    const extra: [string, string][] = [];
    if (model) extra.push([model, join(root, "models", basename(resolve(model)))]);
    if (data) extra.push([data, join(root, "data")]);
    for (const [from, target] of extra) {
      if (isThere(target)) throw new UsageError(`Cannot pack "${from}": the project has ${relative(root, target)}`);
      await runCommand("cp", ["-rL", from, target], `Cannot copy "${from}"`);
    }
    // A small dictionary is enough where nothing limits the size.
    const options = { XZ_OPT: engine === "tensorflow" || extra.length > 0 ? "-1 -T0" : "-3 -T0" };
    await runCommand("tar", ["-C", folder, "-cJf", resolve(out), "maskprune-bench"], "Cannot pack", options);
    const { size } = Deno.statSync(out);
    console.log(`${out}: ${(size / 1e6).toFixed(1)} MB, engine ${engine}. Unpack it, then: ./bench run --preset smoke`);
    if (engine !== "tensorflow" && extra.length === 0 && size > MOST_BYTES) {
      throw new Error(`The archive has ${size} bytes and may have ${MOST_BYTES}`);
    }
  });
}

if (import.meta.main) {
  await runTool({ help: HELP, string: FLAGS }, async (flags) => {
    const { out = "", engine = "wasm" } = flags;
    if (!out.endsWith(".tar.xz")) throw new UsageError(`--out must name an archive, FILE.tar.xz: current "${out}"`);
    await pack(choiceOf("engine", engine, ENGINES), out, flags);
  });
}
