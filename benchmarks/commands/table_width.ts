/** Width of tables on standard output.
 *
 * @module
 */
import { countFlag } from "./command.ts";

/** Width if standard output is not a terminal. */
const DEFAULT_WIDTH = 120;
/** Room for a label and a number, and more than any table needs. */
const [LEAST_WIDTH, MOST_WIDTH] = [40, 10_000];

/** Width in characters: that of `--width`, else of the variable COLUMNS, else of the terminal.
 * @throws {UsageError} when `--width` is not a whole number of at least 40. */
export function tableWidth(
  flags: Record<string, unknown>,
  columns: string | undefined = Deno.env.get("COLUMNS"),
  terminal: number | undefined = Deno.stdout.isTerminal() ? Deno.consoleSize().columns : undefined,
): number {
  const asked = countFlag(flags, "width", LEAST_WIDTH);
  const set = Number(columns);
  const width = asked ?? (Number.isInteger(set) && set > 0 ? set : terminal ?? DEFAULT_WIDTH);
  return Math.min(MOST_WIDTH, Math.max(LEAST_WIDTH, width));
}
