/** What tasks may do, and that a run with local files needs no network. */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { join } from "node:path";
import { parse } from "yaml";
import { readRecords } from "../../benchmarks/records/store.ts";
import { benchWith, finish } from "../support/bench_process.ts";
import { folderTest } from "../support/weights_fixture.ts";
import { ROOT } from "../../core/util/user_folder.ts";

/** Commands of `deno.json`, by task. */
function taskCommands(): Map<string, string> {
  // JSON with comments is no JSON; without its comment lines it is YAML.
  const text = Deno.readTextFileSync(join(ROOT, "deno.json")).replace(/^\s*\/\/.*$/gm, "");
  const { tasks } = parse(text) as { tasks: Record<string, string | { command: string }> };
  return new Map(
    Object.entries(tasks).map(([name, task]) => {
      const command = typeof task === "string" ? task : task.command;
      return [name, command.replace(/^deno install --quiet && /, "")];
    }),
  );
}

const flags = (command: string) => command.split(" ").filter((word) => word.startsWith("-"));

Deno.test("every task names its rights, and those of bench hold no network and no unnamed program", () => {
  const commands = taskCommands();
  assert(commands.size > 10);
  for (const [name, command] of commands) {
    if (!/^deno (run|test)/.test(command)) continue;
    const given = flags(command);
    assert(!given.some((flag) => ["-A", "--allow-all", "--allow-net"].includes(flag)), `${name}: ${command}`);
    assert(given.includes("--no-prompt"), `${name} may ask for rights`);
    for (const flag of given) {
      if (flag.startsWith("--allow-net=")) assertMatch(flag, /^--allow-net=(127\.0\.0\.1|localhost|,)+$/);
    }
  }
  const bench = flags(commands.get("bench")!);
  assert(!bench.some((flag) => flag.startsWith("--allow-net")));
  assertEquals(bench.filter((flag) => flag.startsWith("--allow-run")), ["--allow-run=deno,git"]);
});

folderTest("bench run works with the network denied", async (out) => {
  const rights = [...flags(taskCommands().get("bench")!).filter((flag) => flag !== "--no-prompt"), "--deny-net"];
  const { code, stderr } = await finish(
    benchWith({ rights }, "run", "--preset", "smoke", "--engine", "wasm", "--no-throughput", "--out", out),
  );
  assertEquals(code, 0, stderr);
  assertEquals(readRecords(out).records.map(({ state }) => state), ["done", "done", "done"]);
});
