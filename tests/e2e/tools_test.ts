import { assertEquals, assertStringIncludes } from "@std/assert";
import { join } from "node:path";
import { sourceFiles } from "../../tools/checks/source_files.ts";
import { ROOT } from "../../core/util/user_folder.ts";

const textOf = (path: string) => Deno.readTextFileSync(join(ROOT, path));
const TOOLS = ["setup", "bench", "checks", "pack", "gpu"].flatMap((room) => sourceFiles(`tools/${room}`))
  .filter((path) => textOf(path).includes("import.meta.main"))
  .filter((path) => path !== "tools/gpu/measure.ts"); // A process of check:gpu.

/** Runs a tool, which must end with code 2 and one line that holds `problem`. */
async function refused(problem: string, ...args: string[]): Promise<void> {
  const rights = ["--allow-read", "--allow-env", "--allow-sys", "--allow-ffi"];
  const { code, stderr } = await new Deno.Command("deno", { args: ["run", ...rights, ...args], cwd: ROOT }).output();
  const said = new TextDecoder().decode(stderr);
  assertEquals([code, said.trimEnd().split("\n").length], [2, 1], `${args[0]}: ${said}`);
  assertStringIncludes(said, problem);
}

Deno.test("every tool is a task of deno.json and refuses an unknown flag", async () => {
  for (const path of TOOLS) {
    assertStringIncludes(textOf("deno.json"), path);
    await refused('Unknown flag "--bogus"', path, "--bogus", "3");
  }
});

Deno.test("a tool says in one sentence what it cannot do", async () => {
  await refused("Cannot use a path", "tools/setup/get_smollm2.ts", "--out", "/proc/x");
  await refused("--dtype needs --peer torch", "tools/bench/bench_engine.ts", "--dtype", "bfloat16");
  await refused("--peer-batch needs --peer", "tools/bench/bench_eval.ts", "--data", ".", "--peer-batch", "4");
  await refused('Cannot pack "/no/model"', "tools/pack/pack.ts", "--out", "a.tar.xz", "--model", "/no/model");
  await refused("--limit has no effect", "tools/checks/check_lm_eval.ts", "--task-files", "--limit", "1");
  await refused("--tokens must be a whole number of at least 2", "tools/bench/bench_engine.ts", "--tokens", "1");
  await refused("at most the model's 512", "tools/bench/bench_engine.ts", "--tokens", "9999", "--model", "tiny");
  await refused("FILE.tar.xz", "tools/pack/pack.ts", "--out", "a.zip");
});

Deno.test("no path is taken from a URL, in which a blank is %20", () => {
  const code = ["core", "models", "methods", "benchmarks", "datasets", "reports", "tools", "tests"].flatMap(
    sourceFiles,
  );
  assertEquals(code.filter((path) => /import\.meta\.url\)\.pathname/.test(textOf(path))), []);
});
