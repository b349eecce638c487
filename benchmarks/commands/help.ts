/** Help texts of the command line: the list of commands, and flags from the schema.
 *
 * @module
 */
import { at } from "../../core/util/indexing.ts";
import type { RunConfig } from "../../core/schema/schema.ts";
import { wrapped } from "../../reports/format.ts";
import { describeFlag, flagName, FLAGS } from "../configuration/flags.ts";
import type { Command } from "./command.ts";

/** Two columns with the second one wrapped at 118 characters. */
export function columns(rows: readonly (readonly [left: string, right: string])[]): string {
  const indent = 34;
  return rows.flatMap(([left, right]) => {
    const lines = wrapped(right, 118 - indent).map((line) => " ".repeat(indent) + line);
    const head = `  ${left}`;
    if (head.length >= indent) return [head, ...lines];
    return [head + at(lines, 0).slice(head.length), ...lines.slice(1)];
  }).join("\n");
}

/** A row for each key of a run's configuration: its flag, and what the schema says; without defaults if another run
 * gives them. */
export function flagRows(
  keys: readonly (keyof RunConfig)[],
  { withDefaults = true }: { withDefaults?: boolean } = {},
): [string, string][] {
  return keys.map((key) => {
    const { description, fallback } = describeFlag(key);
    const { value } = FLAGS[key];
    const left = value === null ? `--${flagName(key)}, --no-${flagName(key)}` : `--${flagName(key)} ${value}`;
    return [left, fallback === undefined || !withDefaults ? description : `${description} (default: ${fallback})`];
  });
}

/** The general help: every command with its arguments and one line. */
export function usage(commands: ReadonlyMap<string, Pick<Command, "usage" | "summary">>): string {
  const rows = [...commands].map(([name, { usage, summary }]) => [`${name} ${usage}`, summary] as const);
  return `Compares structured pruning methods for LLaMA-family models.

Usage: deno task bench [COMMAND] [FLAGS]

Commands:
${columns([["(none)", "compare methods on the bundled model (preset `default`)"], ...rows])}
  help COMMAND, COMMAND --help    show the flags of a command

Flags:
  -h, --help                      show this
  --version                       show the version

Exit codes: 0 done, 1 a cell failed, a result differs or a file is damaged, 2 usage error, 130 stopped by Ctrl-C`;
}
