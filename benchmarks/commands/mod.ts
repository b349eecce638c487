/** The commands of `bench`.
 *
 * @module
 */
import type { Command } from "./command.ts";
import { compare } from "./compare.ts";
import { evaluate } from "./eval.ts";
import { exportCommand } from "./export.ts";
import { fetchCommand } from "./fetch.ts";
import { ls } from "./ls.ts";
import { merge } from "./merge.ts";
import { report } from "./report.ts";
import { reproduce } from "./reproduce.ts";
import { run } from "./run.ts";
import { site } from "./site.ts";
import { throughput } from "./throughput.ts";
import { validate } from "./validate.ts";

/** Every command, in the order of the general help. */
export const COMMANDS: ReadonlyMap<string, Command> = new Map(Object.entries({
  run,
  eval: evaluate,
  report,
  compare,
  site,
  merge,
  ls,
  validate,
  reproduce,
  export: exportCommand,
  throughput,
  fetch: fetchCommand,
}));
