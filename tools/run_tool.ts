/** How every tool reads its flags and ends.
 *
 * @module
 */
import { HelpRequest, parseStrictly } from "../benchmarks/configuration/flags.ts";
import { explainEnd } from "../benchmarks/commands/command.ts";
import { UsageError } from "../core/util/errors.ts";
import { goToUserFolder } from "../core/util/user_folder.ts";

/** Flags of a tool: names of those with a value, names of switches, and the text of `--help`. */
export interface ToolFlags<Valued extends string, Switch extends string> {
  help: string;
  string?: readonly Valued[];
  boolean?: readonly Switch[];
}

/** Parsed flags: a value's text where it was given, whether a switch was. */
export type ToolArgs<Valued extends string, Switch extends string> =
  & { [name in Valued]?: string }
  & { [name in Switch]: boolean };

/** Runs a tool in the user's folder. The process ends with the code that `main` returns; without a code, open work
 * finishes first. An unknown flag, an empty value and other errors end it as {@linkcode explainEnd} says. */
export async function runTool<Valued extends string = never, Switch extends string = never>(
  { help, string = [], boolean = [] }: ToolFlags<Valued, Switch>,
  main: (args: ToolArgs<Valued, Switch>) => void | number | Promise<void | number>,
): Promise<void> {
  try {
    goToUserFolder();
    const args = parseStrictly(Deno.args, { string, boolean });
    for (const name of string) if (args[name] === "") throw new UsageError(`--${name} needs a value`);
    const code = await main(args as unknown as ToolArgs<Valued, Switch>);
    if (code !== undefined) Deno.exit(code);
  } catch (error) {
    if (error instanceof HelpRequest) return console.log(help);
    Deno.exit(explainEnd(error));
  }
}
