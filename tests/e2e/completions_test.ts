import { assertEquals } from "@std/assert";
import { join } from "node:path";
import { bench, finish } from "../support/bench_process.ts";

Deno.test("bench completions bash gives a script by which bash completes commands, flags and values", async () => {
  const folder = Deno.makeTempDirSync();
  try {
    const { stdout, code } = await finish(bench("completions", "bash"));
    assertEquals(code, 0);
    Deno.writeTextFileSync(join(folder, "bench.bash"), stdout);
    const shell = async (script: string, env: Record<string, string> = {}) => {
      // Through `sh`, the only shell that tests may run.
      const args = ["-c", 'exec bash -c "$SCRIPT"'];
      const output = await new Deno.Command("sh", { args, cwd: folder, env: { SCRIPT: script, ...env } }).output();
      const decoder = new TextDecoder();
      assertEquals([output.code, decoder.decode(output.stderr)], [0, ""]);
      return decoder.decode(output.stdout).trim().split("\n");
    };
    await shell("bash -n bench.bash");
    const complete = (...words: string[]) =>
      shell(
        `source ./bench.bash
         COMP_WORDS=($LINE "$LAST"); COMP_CWORD=$((\${#COMP_WORDS[@]} - 1))
         $(complete -p deno | sed 's/.*-F \\([^ ]*\\).*/\\1/')
         printf '%s\\n' "\${COMPREPLY[@]}"`,
        { LINE: words.slice(0, -1).join(" "), LAST: words.at(-1) ?? "" },
      );
    assertEquals(await complete("deno", "task", "bench", "ex"), ["export"]);
    assertEquals(await complete("deno", "task", "-q", "bench", "run", "--eng"), ["--engine"]);
    assertEquals(await complete("deno", "task", "bench", "run", "--engine", "w"), ["wasm", "webgpu"]);
    assertEquals(await complete("deno", "task", "bench", "run", "--methods", "random,fl"), ["random,flap"]);
    assertEquals(await complete("deno", "task", "bench", "ls", "tr"), ["training"]);
    // Files are the shell's own matter, and other commands of Deno that of others.
    assertEquals(await complete("deno", "task", "bench", "run", "--model", ""), [""]);
    assertEquals(await complete("deno", "run", "be"), [""]);
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
});
