import { assertEquals, assertRejects } from "@std/assert";
import { join } from "node:path";
import { restoring } from "../../tools/setup/setup_common.ts";
import { folderTest } from "../support/weights_fixture.ts";

folderTest("restoring() gives files back that work which fails has replaced, and removes new ones", async (folder) => {
  const [old, fresh] = [join(folder, "old"), join(folder, "fresh")];
  Deno.writeTextFileSync(old, "before");
  const build = (end: () => void) =>
    restoring([old, fresh], async () => {
      await Deno.writeTextFile(old, "after");
      await Deno.writeTextFile(fresh, "new");
      end();
    });
  await assertRejects(() =>
    build(() => {
      throw new Error("it does not start");
    })
  );
  assertEquals([...Deno.readDirSync(folder)].map(({ name }) => name), ["old"]);
  assertEquals(Deno.readTextFileSync(old), "before");
  await build(() => {});
  assertEquals([...Deno.readDirSync(folder)].map(({ name }) => name).sort(), ["fresh", "old"]);
  assertEquals(Deno.readTextFileSync(old), "after");
});
