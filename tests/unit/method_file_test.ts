import { assert, assertEquals, assertMatch, assertNotEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { join } from "node:path";
import { take } from "../support/values.ts";
import { at } from "../../core/util/indexing.ts";
import { expandCells, type ReadyConfig } from "../../benchmarks/configuration/expand.ts";
import { prepareRun } from "../../benchmarks/configuration/prepare.ts";
import { loadMethodFile, reloadMethodFile } from "../../benchmarks/configuration/method_file.ts";
import { UsageError } from "../../core/util/errors.ts";
import { runConfigSchema } from "../../core/schema/schema.ts";
import { getMethod } from "../../methods/mod.ts";
import { folderTest as inFolder } from "../support/weights_fixture.ts";

const ROOT = join(import.meta.dirname!, "../..");

/** A method with the id `id` that keeps nothing, as text; `before` comes first. */
const methodText = (id: string, before = "") =>
  `${before}
import { defineMethod } from "@maskprune/bench/method";
import { z } from "zod";
export const mine = defineMethod({
  id: "${id}", summary: "a sample", source: "none", kind: "one-shot",
  needs: { calibration: false }, options: z.strictObject({}),
  uniformLayers: () => true, prune: () => Promise.resolve({ plan: { layers: [] } }),
});`;

function folderTest(name: string, test: (write: (name: string, text: string) => string) => Promise<void>): void {
  inFolder(name, (folder) =>
    test((name, text) => {
      Deno.writeTextFileSync(join(folder, name), text);
      return join(folder, name);
    }));
}

folderTest("loadMethodFile() registers what a file exports, once, and hashes what it imports", async (write) => {
  write("helper.ts", "export const a = 1;");
  const path = write("mine.ts", methodText("sample-a", `import "./helper.ts";`));
  const first = await loadMethodFile(path);
  assertEquals(first.ids, ["sample-a"]);
  assertEquals(first.file.imports, ["helper.ts"]);
  assertMatch(first.file.sha256, /^[0-9a-f]{64}$/);
  assertEquals(getMethod("sample-a").summary, "a sample");
  assertEquals(await loadMethodFile(path), first);
  await reloadMethodFile(first.file);
  write("helper.ts", "export const a = 2;");
  await assertRejects(() => reloadMethodFile(first.file), UsageError, "changed: its SHA-256");
  assertNotEquals((await loadMethodFile(path)).file.sha256, first.file.sha256);
});

folderTest("loadMethodFile() says what is wrong with a file", async (write) => {
  const refused = (path: string, message: string) => assertRejects(() => loadMethodFile(path), UsageError, message);
  await refused("/no/such/mine.ts", 'There is no method file "/no/such/mine.ts"');
  await refused(ROOT, "is not a file");
  await refused(write("empty.ts", "export const x = { id: 3 };"), "exports no method");
  await refused(write("none.ts", ""), "exports no method");
  const fields = `version: 1, kind: "one-shot", needs: { calibration: false }, uniformLayers: () => true`;
  await refused(
    write("plain.ts", `export default { id: "plain-a", ${fields}, options: {} };`),
    "must have the field options",
  );
  await refused(write("syntax.ts", "export const = ;"), "syntax.ts");
  await refused(write("throws.ts", "throw new Error('no luck');"), ": no luck");
  await refused(write("lost.ts", `import "./no_such.ts";`), "no_such.ts");
  await refused(write("taken.ts", methodText("flap")), 'exports a method "flap", but this id is taken');
  const twice = methodText("twin-a").replace("export const mine", "export const other").replace(/import .*/g, "");
  await refused(write("twice.ts", methodText("twin-a") + twice), 'exports a method "twin-a", but this id is taken');
  await refused(write("wrong.ts", methodText("Not Kebab")), 'kebab-case: current "Not Kebab"');
});

folderTest("prepareRun() takes all methods of a file, or those that the run names", async (write) => {
  const second = methodText("pair-b").replace(/import .*/g, "").replace("export const mine", "export const other");
  const pair = write("pair.ts", methodText("pair-a") + second);
  const methodsOf = async (methods: string[], path = pair) => {
    const asked = runConfigSchema.parse({
      methods: methods.map((id) => ({ id })),
      methodFile: [path],
      sparsity: [0.5],
      tasks: ["tiny-facts"],
      engine: "wasm",
      out: join(path, "../out"),
    });
    return (await prepareRun(asked, () => {})).config.methods.map(({ id }) => id);
  };
  assertEquals(await methodsOf(["random"]), ["random", "pair-a", "pair-b"]);
  assertEquals(await methodsOf(["pair-b", "random"]), ["pair-b", "random"]);
  const check = "check: () => { throw new TypeError('no luck'); }, needs:";
  const odd = write("odd.ts", methodText("odd").replace("needs:", check));
  await assertRejects(() => methodsOf([], odd), UsageError, 'Method "odd": no luck');
});

Deno.test("expandCells() names the file of a method; its contents decide the id, its path does not", () => {
  const config = runConfigSchema.parse({
    methods: [{ id: "random" }, { id: "magnitude" }],
    sparsity: [0.5],
    calibration: { corpus: "c4" },
    out: "x",
  }) as ReadyConfig;
  const cells = (path: string, sha256: string) =>
    expandCells(config, {
      engine: "wasm",
      fingerprint: { weights: "aa", tokenizer: "bb", data: {} },
      fileOf: new Map([["magnitude", { path, sha256, imports: [] }]]),
    });
  const [dense, random, mine] = take(cells("a.ts", "11"), 3);
  assertEquals([dense, random].map(({ cell }) => cell.methodFile), [undefined, undefined]);
  assertEquals(mine.cell.methodFile, { path: "a.ts", sha256: "11", imports: [] });
  assertEquals(at(cells("b.ts", "11"), 2).id, mine.id);
  assert(at(cells("a.ts", "22"), 2).id !== mine.id);
  assertEquals(at(cells("a.ts", "22"), 1).id, random.id);
});

Deno.test("docs/adding-a-method.md shows the example as it is tested", () => {
  const guide = Deno.readTextFileSync(join(ROOT, "docs/adding-a-method.md"));
  const example = Deno.readTextFileSync(join(ROOT, "docs/examples/contribution.ts"));
  assertStringIncludes(guide, "```ts\n" + example + "```");
});
