import { assertEquals, assertStringIncludes } from "@std/assert";
import { join } from "node:path";
import { fromFolder, movePaths } from "../../benchmarks/configuration/paths.ts";
import { storedPath } from "../../benchmarks/records/run_file.ts";
import { writeRecord } from "../../benchmarks/records/store.ts";
import { goToUserFolder, ROOT } from "../../core/util/user_folder.ts";
import { benchWith, finish } from "../support/bench_process.ts";
import { doneRecord } from "../support/reports_fixture.ts";
import { folderTest, setting } from "../support/weights_fixture.ts";
import { atEnd } from "../support/values.ts";

Deno.test("movePaths() moves every path of a configuration, and nothing else", () => {
  const values = {
    ...{ name: "a/b", model: "m.gguf", methodFile: ["mine.ts", "/abs/other.ts"], taskFile: "tasks", data: "../data" },
    ...{ perplexity: [{ corpus: "file:t.txt#body" }, { corpus: "wikitext2" }], out: "results" },
    ...{ calibration: { corpus: "file:c.txt", tokens: 8 }, training: { steps: 2, corpus: "file:d.txt" } },
    tasks: ["arc_easy"],
  };
  assertEquals(movePaths(values, fromFolder("sub")), {
    ...{ name: "a/b", model: "sub/m.gguf", methodFile: ["sub/mine.ts", "/abs/other.ts"], taskFile: "sub/tasks" },
    ...{ perplexity: [{ corpus: "file:sub/t.txt#body" }, { corpus: "wikitext2" }], data: "data", out: "sub/results" },
    ...{ calibration: { corpus: "file:sub/c.txt", tokens: 8 }, training: { steps: 2, corpus: "file:sub/d.txt" } },
    tasks: ["arc_easy"],
  });
  assertEquals(movePaths({ model: "tiny", sparsity: 0.5 }, fromFolder("sub")), { model: "tiny", sparsity: 0.5 });
});

folderTest("storedPath() finds a run's paths from where it was started, else from the project", (temp) => {
  const folder = Deno.realPathSync(temp);
  Deno.mkdirSync(join(folder, "results/mine"), { recursive: true });
  Deno.writeTextFileSync(join(folder, "model.gguf"), "");
  const out = join(folder, "results/mine");
  const config = { methods: ["random"].map((id) => ({ id, options: {} })), sparsity: [0.5], out };
  const fingerprint = { weights: "w", tokenizer: "t", data: {} };
  const run = { schemaVersion: 5, config, engine: "wasm", fingerprint, startedIn: "../..", cells: [] };
  Deno.writeTextFileSync(join(out, "run.json"), JSON.stringify(run));
  const found = (path: string) => join(Deno.cwd(), storedPath(out, path));
  assertEquals(found("model.gguf"), join(folder, "model.gguf"));
  assertEquals(["missing.gguf", "tiny"].map((path) => storedPath(out, path)), ["missing.gguf", "tiny"]);
  Deno.removeSync(join(out, "run.json"));
  const before = Deno.cwd();
  using _end = atEnd(() => Deno.chdir(before));
  Deno.chdir(folder);
  assertEquals(found("README.md"), join(ROOT, "README.md"));
});

folderTest("bench takes paths from the user's folder, those in a file from its folder", async (folder) => {
  writeRecord(join(folder, "run"), doneRecord());
  Deno.mkdirSync(join(folder, "here/sub"), { recursive: true });
  const yaml = "model: nowhere.gguf\nmethods: random\nsparsity: 0.5\ntasks: piqa\n";
  Deno.writeTextFileSync(join(folder, "here/sub/mine.yaml"), yaml);
  const bench = (...args: string[]) => finish(benchWith({ folder: join(folder, "here") }, ...args));
  const report = await bench("report", "../run");
  assertEquals(report.code, 0, report.stderr);
  assertStringIncludes(report.stdout, "\n../run/report/comparison.md\n");
  assertEquals(Deno.statSync(join(folder, "here", "../run/report/comparison.md")).isFile, true);
  const run = await bench("run", "--config", "sub/mine.yaml", "--engine", "wasm", "--out", "out");
  assertEquals(run.code, 2);
  assertStringIncludes(run.stderr, "sub/nowhere.gguf: there is no such model");
});

Deno.test("goToUserFolder() stays where it is if INIT_CWD is no folder", () => {
  const before = Deno.cwd();
  for (const path of [join(ROOT, "deno.json"), "/no/such/folder", ""]) {
    using _folder = setting("INIT_CWD", path);
    goToUserFolder();
    assertEquals(Deno.cwd(), before);
  }
});
