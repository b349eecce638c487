/** `bench site`: one page over many runs.
 *
 * @module
 */
import { basename, join, relative, resolve } from "node:path";
import { FileFormatError, UsageError } from "../../core/util/errors.ts";
import { isThere } from "../../core/util/paths.ts";
import type { CellRecord } from "../../core/schema/schema.ts";
import type { LmEvalSample } from "../records/lm_eval_samples.ts";
import { samplesFile } from "../records/lm_eval_files.ts";
import { runPaths } from "../records/store.ts";
import { type Command, textFlag } from "./command.ts";
import { recordsToReport } from "./report.ts";

const HELP = `Writes one page over several runs: filters, charts, paired differences, and the commands of every cell.
It opens from a file or any web server.

Usage: deno task bench site DIR... --out FOLDER

Flags:
  --out FOLDER   folder for the page (default: site)

The page can compare examples that runs logged (--log-samples).`;

/** What the page shows of a logged example. */
function exampleOf({ arguments: requests, filtered_resps, target, ...sample }: LmEvalSample) {
  const asked = Object.values(requests);
  const answers = filtered_resps.map((answer) => Number(typeof answer === "string" ? answer : answer[0]));
  const right = Number(sample.acc ?? sample[sample.metrics[0] ?? ""]) === 1;
  const gold = /^\d+$/.test(target) ? Number(target) : null;
  return {
    context: asked[0]?.arg_0 ?? "",
    choices: asked.map(({ arg_0 = "", arg_1 }, i) =>
      i > 0 && arg_0 !== asked[0]?.arg_0 ? `${arg_0}${arg_1}` : arg_1 ?? ""
    ),
    logLikelihoods: answers,
    gold,
    right,
  };
}

/** The examples in a samples file.
 * @throws {FileFormatError} on a line that is none. */
function readExamples(path: string) {
  const lines = Deno.readTextFileSync(path).trimEnd().split("\n");
  return lines.map((line, i) => {
    try {
      return exampleOf(JSON.parse(line));
    } catch {
      throw new FileFormatError(`${path}:${i + 1}`, "is not an example of lm-evaluation-harness: remove the file");
    }
  });
}

/** Files of logged examples, by cell and task. */
function loggedOf(dir: string, records: readonly CellRecord[]) {
  const { lmEval } = runPaths(dir);
  return records.flatMap((record) =>
    record.state === "failed" ? [] : record.tasks.flatMap(({ task }) => {
      const path = samplesFile(lmEval, record, task);
      return path === undefined ? [] : [{ id: record.id, task, path }];
    })
  );
}

/** Names of folders as short as tells them apart. */
function namesOf(dirs: readonly string[]): string[] {
  const parts = dirs.map((dir) => resolve(dir).split(/[/\\]/));
  const short = (n: number) => parts.map((own) => own.slice(-n).join("/"));
  const enough = [1, 2, 3, 4].find((n) => new Set(short(n)).size === dirs.length);
  return enough === undefined ? [...dirs] : short(enough);
}

/** Writes the page of the runs in `dirs` into `out`, and prints the path of its first file. */
async function writePage(dirs: readonly string[], out: string): Promise<void> {
  const { sectionsOf } = await import("./reports.ts");
  const { writeSite } = await import("../../reports/site/write_site.ts");
  if (isThere(join(out, "index.html")) && !isThere(join(out, "data.js"))) {
    throw new UsageError(`"${join(out, "index.html")}" does not belong to an earlier page: choose another --out`);
  }
  const names = namesOf(dirs);
  const found = dirs.map((dir, i) => {
    const records = recordsToReport(dir);
    const logged = loggedOf(dir, records).map((one, k) => ({ ...one, file: `${i}-${k}.js` }));
    return { dir, name: names[i] ?? basename(dir), records, logged };
  });
  const runs = found.map(({ dir, name, records, logged }) => ({
    name,
    folder: dir.replace(/\/+$/, ""),
    address: relative(out, dir).split(/[/\\]/).map(encodeURIComponent).join("/") + "/",
    sections: sectionsOf(records),
    samples: Map.groupBy(logged, ({ id }) => id),
  }));
  const samples = found.flatMap(({ logged }) => logged.map((one) => ({ ...one, read: () => readExamples(one.path) })));
  console.log(writeSite(out, runs, samples));
}

/** `bench site`. */
export const site: Command = {
  usage: "DIR... [--out FOLDER]",
  summary: "write one page over several runs",
  help: () => HELP,
  flags: { string: ["out"], positional: Infinity },
  run: async (flags) => {
    const dirs = [...new Map(flags._.map((dir) => [resolve(dir), dir])).values()];
    if (dirs.length === 0) throw new UsageError("No run given: bench site DIR... --out FOLDER");
    await writePage(dirs, textFlag(flags, "out") ?? "site");
    return 0;
  },
};
