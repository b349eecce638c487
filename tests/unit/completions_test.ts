import { assert, assertEquals } from "@std/assert";
import { completed, SHELLS } from "../../benchmarks/commands/completions.ts";
import { COMMANDS } from "../../benchmarks/commands/mod.ts";

Deno.test("completed() has every command, its flags and the values that the schema or the command knows", () => {
  const known = completed(COMMANDS, { methods: ["flap"] });
  assertEquals(known.map(({ name }) => name), [...COMMANDS.keys()]);
  const flag = (command: string, name: string) =>
    known.find((one) => one.name === command)?.flags.find((one) => one.name === name);
  for (const [name, { flags: { string = [], boolean = [] } }] of COMMANDS) {
    for (const text of string) assertEquals(flag(name, `--${text}`)?.takesValue, true);
    for (const text of boolean) assertEquals(flag(name, `--${text}`)?.takesValue, false);
  }
  assertEquals(flag("run", "--compensate")?.values, ["none", "least-squares"]);
  assert(flag("run", "--units")?.values.includes("kv-groups"));
  assertEquals(flag("run", "--methods")?.values, ["flap"]);
  assertEquals(flag("run", "--no-throughput")?.takesValue, false);
  assertEquals(flag("export", "--format")?.values, ["hf", "gguf"]);
  for (const script of Object.values(SHELLS).map((shell) => shell(known))) {
    for (const { flags } of known) {
      for (const { name } of flags) assert(script.includes(name) || script.includes(`-l ${name.slice(2)}`), name);
    }
  }
});
