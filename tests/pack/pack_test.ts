/** The packed WebGPU program runs, and checks its device, without a network, Deno on the path or files at home. */
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { join } from "node:path";
import { doneCells, finish } from "../support/bench_process.ts";
import { folderTest } from "../support/weights_fixture.ts";
import { ROOT } from "../../core/util/user_folder.ts";

/** The programs that a machine must have: the packed program brings all others. */
const PROGRAMS = ["sh", "dirname"];

folderTest("the archive has at most 60 MB, only its engine's packages, and runs alone", async (folder) => {
  const archive = join(folder, "webgpu.tar.xz");
  const pack = ["task", "--quiet", "pack", "--engine", "webgpu", "--out", archive];
  const piped = { stdout: "piped", stderr: "piped" } as const;
  const packed = await finish(new Deno.Command("deno", { args: pack, cwd: ROOT, ...piped }).spawn());
  assertEquals(packed.code, 0, packed.stderr);
  assert(Deno.statSync(archive).size < 60e6);
  assertEquals((await new Deno.Command("tar", { args: ["-xJf", archive, "-C", folder] }).output()).code, 0);
  const root = join(folder, "maskprune-bench");
  const packages = [...Deno.readDirSync(join(root, "node_modules/.deno"))].map(({ name }) => name).join(" ");
  assertStringIncludes(packages, "tfjs-backend-webgpu@");
  assert(!/tfjs-node-gpu@|tfjs-backend-wasm@|fast-check@/.test(packages), packages);

  const [home, path] = [join(folder, "home"), join(folder, "path")];
  for (const made of [home, path]) Deno.mkdirSync(made);
  for (const name of PROGRAMS) Deno.symlinkSync(join("/usr/bin", name), join(path, name));
  const alone = (...args: string[]) =>
    finish(
      new Deno.Command("/usr/bin/unshare", {
        args: [Deno.uid() === 0 ? "-n" : "-rn", join(root, "bench"), ...args],
        cwd: folder,
        clearEnv: true,
        env: { HOME: home, PATH: `${path}:/nowhere`, XDG_RUNTIME_DIR: home, NO_COLOR: "1" },
        ...piped,
      }).spawn(),
    );
  const { code, stdout, stderr } = await alone("run", "--preset", "smoke", "--engine", "webgpu", "--out", "smoke");
  assertEquals(code, 0, stdout + stderr);
  const cells = doneCells(join(folder, "smoke"));
  assertEquals(cells.length, 3);
  for (const { environment } of cells) assertEquals(environment.engine, "webgpu");
  assert(Deno.statSync(join(folder, "smoke/report/report.html")).size > 0);
  const check = await alone("check-gpu", "--engine", "webgpu", "--size", "smallest", "--out", "check");
  assertEquals(check.code, 0, check.stdout + check.stderr);
  const report = Deno.readTextFileSync(join(folder, "check/check-gpu.md"));
  assertStringIncludes(report, "# Everything that was tried holds");
  assertStringIncludes(report, "This device is a processor");
  const { outcomes } = JSON.parse(Deno.readTextFileSync(join(folder, "check/check-gpu.json")));
  const held = outcomes.filter(({ state }: { state: string }) => state === "holds").length;
  assert(held >= 6, report);
  // What is not packed is refused, and nothing is downloaded instead.
  const other = await alone("run", "--preset", "smoke", "--engine", "wasm", "--out", "other");
  assertEquals(other.code, 2, other.stdout + other.stderr);
  assertEquals([...Deno.readDirSync(home)].length, 0);
});
