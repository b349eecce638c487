import { assertEquals, assertStringIncludes } from "@std/assert";
import { join } from "node:path";
import { sourceFiles } from "../../tools/checks/source_files.ts";
import { ROOT } from "../../core/util/user_folder.ts";

const TOOLS = ["setup", "bench", "checks", "pack", "gpu"].flatMap((room) => sourceFiles(`tools/${room}`))
  .filter((path) => Deno.readTextFileSync(join(ROOT, path)).includes("import.meta.main"))
  // A process of check:gpu.
  .filter((path) => path !== "tools/gpu/measure.ts");

Deno.test("every tool is a task of deno.json and refuses an unknown flag", async () => {
  const config = Deno.readTextFileSync(join(ROOT, "deno.json"));
  for (const path of TOOLS) {
    assertStringIncludes(config, path);
    const command = new Deno.Command("deno", {
      args: ["run", "--allow-read", "--allow-env", "--allow-sys", "--allow-ffi", path, "--bogus", "3"],
      cwd: ROOT,
    });
    const { code, stderr } = await command.output();
    assertEquals(code, 2, path);
    assertStringIncludes(new TextDecoder().decode(stderr), 'Unknown flag "--bogus"');
  }
});
