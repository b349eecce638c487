/** Width of tables on standard output.
 *
 * @module
 */
import { UsageError } from "../../core/util/errors.ts";

/** Width if standard output is not a terminal. */
const DEFAULT_WIDTH = 120;
/** Room for a label and a number. */
const LEAST_WIDTH = 40;
/** More than any table needs. */
const MOST_WIDTH = 10_000;

/** Width in characters: that of `--width`, else of the variable COLUMNS, else of the terminal.
 * @throws {UsageError} when `asked` is no whole number from 40 to 10,000. */
export function tableWidth(
  asked: string | undefined,
  columns: string | undefined = Deno.env.get("COLUMNS"),
  terminal: number | undefined = Deno.stdout.isTerminal() ? Deno.consoleSize().columns : undefined,
): number {
  if (asked !== undefined) {
    const width = Number(asked);
    if (Number.isInteger(width) && width >= LEAST_WIDTH && width <= MOST_WIDTH) return width;
    throw new UsageError(
      `--width must be a whole number of at least ${LEAST_WIDTH} and at most ${MOST_WIDTH}: current "${asked}"`,
    );
  }
  const said = Number(columns);
  if (Number.isInteger(said) && said > 0) return Math.min(MOST_WIDTH, Math.max(LEAST_WIDTH, said));
  return terminal ?? DEFAULT_WIDTH;
}
