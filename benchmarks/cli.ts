/** The harness, which is all of `benchmarks/`, begins here: the command line behind `deno task bench`. Results go to
 * standard output, progress to standard error.
 *
 * @module
 */
import { join } from "node:path";
import { unknownName, UsageError } from "../core/util/errors.ts";
import { usage } from "./commands/help.ts";
import { type Command, explainEnd } from "./commands/command.ts";
import { COMMANDS } from "./commands/mod.ts";
import { HelpRequest, parseStrictly } from "./configuration/flags.ts";

function version(): string {
  const text = Deno.readTextFileSync(join(import.meta.dirname!, "..", "deno.json"));
  return /"version":\s*"([^"]+)"/.exec(text)?.[1] ?? "unknown";
}

/** @throws {UsageError} when no command has that name. */
function commandOf(name: string): Command {
  const command = COMMANDS.get(name);
  if (command) return command;
  throw name.startsWith("-")
    ? new UsageError(`No command before "${name}": write \`bench run ${name}\`, or see \`bench --help\``)
    : unknownName("command", name, [...COMMANDS.keys()]);
}

/** Runs a command; returns the exit code. Errors that the user can act on are one message on standard error. */
export async function main(args: string[]): Promise<number> {
  const [first, ...rest] = args;
  if (first === "--version") {
    console.log(version());
    return 0;
  }
  try {
    if (first === "--help" || first === "-h" || first === "help") {
      const [about] = rest;
      console.log(about === undefined ? usage(COMMANDS) : commandOf(about).help());
      return 0;
    }
    const [name, given] = first === undefined ? ["run", ["--preset", "default"]] : [first, rest];
    const command = commandOf(name);
    return await command.run(parseStrictly(given, command.flags), given);
  } catch (error) {
    if (error instanceof HelpRequest) {
      console.log(COMMANDS.get(first ?? "")?.help());
      return 0;
    }
    return explainEnd(error);
  }
}
