/** The README's example of using the project as a library, run as it stands there. */
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { join } from "node:path";
import { finish, ROOT, sweepTest } from "../support/bench_process.ts";

sweepTest("the library example of the README runs and writes a report", async (out) => {
  const section = Deno.readTextFileSync(join(ROOT, "README.md")).split("## As a library")[1];
  const [, example] = /```ts\n(.*?)```/s.exec(section)!;
  const [, rights] = /`deno run (.*) mine\.ts`/.exec(section)!;
  assert(example.includes(`"results/library"`), "the example has another folder");
  const file = join(out, "mine.ts");
  Deno.writeTextFileSync(file, example.replace(`"results/library"`, JSON.stringify(`${out}/run`)));
  const args = ["run", "--no-prompt", "--check", ...rights.split(" "), `--config=${join(ROOT, "deno.json")}`, file];
  const child = new Deno.Command("deno", { args, cwd: ROOT, stdout: "piped", stderr: "piped" }).spawn();
  const { code, stdout, stderr } = await finish(child);
  assertEquals(code, 0, stderr);
  for (const word of ["dense", "random", "flap", "tiny-facts"]) assertStringIncludes(stdout, word);
  assert(Deno.statSync(`${out}/run/report/report.html`).size > 0);
});
