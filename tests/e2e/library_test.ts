/** The documentation's examples of using the project as a library, run as they stand there. */
import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { join } from "node:path";
import { finish } from "../support/bench_process.ts";
import { folderTest } from "../support/weights_fixture.ts";
import { ROOT } from "../../core/util/user_folder.ts";
import { take } from "../support/values.ts";

const guide = Deno.readTextFileSync(join(ROOT, "docs/library.md"));
const [STEPS, SWEEP] = take([...guide.matchAll(/```ts\n(.*?)```/gs)].map(([, text = ""]) => text), 2);

function run(folder: string, args: string[]) {
  return finish(new Deno.Command("deno", { args, cwd: folder, stdout: "piped", stderr: "piped" }).spawn());
}

folderTest("the documentation's sweep runs and writes a report", async (out) => {
  const [, rights] = take(/`deno run (.*) mine\.ts`/.exec(guide) ?? [], 2);
  assert(SWEEP.includes(`"results/library"`), "the example has another folder");
  Deno.writeTextFileSync(join(out, "mine.ts"), SWEEP.replace(`"results/library"`, JSON.stringify(`${out}/run`)));
  const args = ["run", "--no-prompt", "--check", ...rights.split(" "), `--config=${join(ROOT, "deno.json")}`];
  const { code, stdout, stderr } = await run(ROOT, [...args, join(out, "mine.ts")]);
  assertEquals(code, 0, stderr);
  for (const word of ["dense", "random", "flap", "tiny-facts"]) assertStringIncludes(stdout, word);
  assert(Deno.statSync(`${out}/run/report/report.html`).size > 0);
});

folderTest("the documentation's steps run outside the repository and save a model that loads", async (out) => {
  assertEquals(STEPS, Deno.readTextFileSync(join(ROOT, "docs/examples/steps.ts")));
  Deno.writeTextFileSync(join(out, "mine.ts"), STEPS);
  const [, settings] = take(/```json\n(.*?)```/s.exec(guide) ?? [], 2);
  Deno.writeTextFileSync(join(out, "deno.json"), settings.replaceAll("BENCH", ROOT));
  const { code, stdout, stderr } = await run(out, ["run", "-A", "--check", "mine.ts", "smaller"]);
  assertEquals(code, 0, stderr);
  // The bundled model knows the facts; half of it knows fewer.
  assertMatch(stdout, /^dense tiny-world 2\.\d+ tiny-facts 1$/m);
  assertMatch(stdout, /^pruned tiny-world [3-9]\.\d+ tiny-facts 0\.\d+$/m);
  const config = JSON.parse(Deno.readTextFileSync(join(out, "smaller/config.json")));
  const dense = JSON.parse(Deno.readTextFileSync(join(ROOT, "models/tiny/config.json")));
  assert(config.intermediate_size < dense.intermediate_size, `${config.intermediate_size} FFN channels`);
});
