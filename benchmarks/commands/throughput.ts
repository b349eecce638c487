/** `bench throughput`: the models of a run in another engine. Does the speed-up survive there?
 *
 * @module
 */
import { join } from "node:path";
import { UsageError } from "../../core/errors.ts";
import { STORED_TYPES, type StoredType } from "../../core/quantize.ts";
import { type DoneRecord, throughputChoiceSchema, type ThroughputResult } from "../../core/schema.ts";
import { cellLabels } from "../../core/cell_names.ts";
import { HelpRequest, parseStrictly } from "../configuration/flags.ts";
import { exportCell } from "./export.ts";
import { startLlamaCpp } from "../peers/llama_cpp.ts";
import type { Peer } from "../peers/peer_process.ts";
import { writeAtomically } from "../../core/write_file.ts";
import { readRecords, toJson } from "../records/store.ts";
import { summarise, type ThroughputChoice } from "../evaluation/throughput.ts";

/** Name of the file with raw samples in the run's folder. */
const FILE = "throughput-llama.cpp.json";

/** Help of the command. */
export const THROUGHPUT_HELP = `Times the models of a run in llama.cpp, dense and pruned, beside the run's own numbers.

Usage: deno task bench throughput DIR --engine llama.cpp [FLAGS]

Flags:
  --engine NAME      llama.cpp: through node-llama-cpp, which is fetched into Deno's cache the first time
  --model PATH       the dense model, if it lies elsewhere than when the run was made
  --dtype TYPE       type of the weights in llama.cpp: f32, f16, bf16, q8_0 (default: f32, as in our engines)
  --prefill-tokens N tokens of the prompt (default: as in the run, else 512)
  --decode-tokens N  tokens generated one at a time (default: as in the run, else 128)
  --repeats N        timed repeats after one untimed pass (default: as in the run, else 5)

Cells with unequal layers, and cells whose changed weights were not stored, are named and left out. The table goes to
standard output, raw samples to DIR/${FILE}. Exit codes: 0 done, 2 nothing could be timed`;

/** One model in both engines. */
export interface TimedCell {
  label: string;
  record: Pick<DoneRecord, "cell" | "throughput" | "id">;
  /** By llama.cpp. */
  results: ThroughputResult[];
}

interface Timing extends ThroughputChoice {
  type: StoredType;
  threads: number;
  model?: string;
}

/** Exports the model and times it: prefill from an empty cache, then decode. */
async function timeCell(peer: Peer, record: DoneRecord, dir: string, timing: Timing): Promise<ThroughputResult[]> {
  const { type, threads, model, prefillTokens, decodeTokens, repeats } = timing;
  const folder = Deno.makeTempDirSync();
  try {
    const to = join(folder, "model.gguf");
    await exportCell({ record, out: dir, format: "gguf", to, type, ...model === undefined ? {} : { model } });
    const { prefillMs, decodeMs } = await peer.ask<{ prefillMs: number[]; decodeMs: number[] }>({
      file: to,
      time: { prefillTokens, decodeTokens, repeats, threads },
    });
    return [
      summarise(`pp${prefillTokens}`, 1, prefillTokens, prefillMs),
      summarise(`tg${decodeTokens}`, 1, decodeTokens, decodeMs),
    ];
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
}

/** Mean and sample sd of tokens/s, and the ratio to the dense model's mean. */
function cellText(result: ThroughputResult | undefined, dense: ThroughputResult | undefined): string[] {
  if (result === undefined) return ["–", "–"];
  const { mean, sd } = result.tokensPerS;
  return [
    `${mean.toFixed(mean < 100 ? 1 : 0)} ± ${sd.toFixed(mean < 100 ? 1 : 0)}`,
    dense === undefined ? "–" : `${(mean / dense.tokensPerS.mean).toFixed(2)} ×`,
  ];
}

/** The comparison as a Markdown table: tokens/s and speed-up over dense in our engine and in llama.cpp. */
export function throughputTable(cells: readonly TimedCell[]): string {
  const dense = cells.find(({ record }) => record.cell.method === null);
  const names = cells[0].results.map(({ name }) => name);
  const find = (results: readonly ThroughputResult[] | undefined, name: string) =>
    results?.find((result) => result.name === name && result.batch === 1);
  const header = [
    "model",
    ...names.flatMap((name) => [`${name}, ours`, "over dense", `${name}, llama.cpp`, "over dense"]),
  ];
  const lines = cells.map(({ label, record, results }) => [
    label,
    ...names.flatMap((name) => [
      ...cellText(find(record.throughput, name), find(dense?.record.throughput, name)),
      ...cellText(find(results, name), find(dense?.results, name)),
    ]),
  ]);
  const line = (parts: string[]) => `| ${parts.join(" | ")} |`;
  return [header, header.map((_, i) => i === 0 ? "---" : "---:"), ...lines].map(line).join("\n");
}

function count(flags: Record<string, unknown>, name: string): number | undefined {
  const text = flags[name] as string | undefined;
  if (text === undefined) return undefined;
  const value = Number(text);
  const least = name === "repeats" ? 2 : 1;
  if (!Number.isInteger(value) || value < least) {
    throw new UsageError(`--${name} must be a whole number of at least ${least}: current "${text}"`);
  }
  return value;
}

function timingOf(flags: Record<string, unknown>, records: readonly DoneRecord[]): Timing {
  const dtype = (flags.dtype as string | undefined)?.toUpperCase() ?? "F32";
  const type = STORED_TYPES.find((name) => name === dtype);
  if (type === undefined) {
    throw new UsageError(`--dtype must be one of ${STORED_TYPES.join(", ").toLowerCase()}: current "${flags.dtype}"`);
  }
  const asRun = throughputChoiceSchema.parse(records[0].cell.throughput ?? {});
  return {
    ...asRun,
    prefillTokens: count(flags, "prefill-tokens") ?? asRun.prefillTokens,
    decodeTokens: count(flags, "decode-tokens") ?? asRun.decodeTokens,
    repeats: count(flags, "repeats") ?? asRun.repeats,
    type,
    threads: records[0].environment.threads,
    ...flags.model === undefined ? {} : { model: flags.model as string },
  };
}

/** `bench throughput`. Returns the exit code.
 * @throws {UsageError} when nothing can be timed. */
export async function throughputCommand(args: string[]): Promise<number> {
  const strings = ["engine", "model", "dtype", "prefill-tokens", "decode-tokens", "repeats"];
  let flags: Record<string, unknown> & { _: string[] };
  try {
    flags = parseStrictly(args, { string: strings, positional: 1 });
  } catch (error) {
    if (!(error instanceof HelpRequest)) throw error;
    console.log(THROUGHPUT_HELP);
    return 0;
  }
  const [dir] = flags._;
  if (dir === undefined) {
    throw new UsageError("The folder of a run must be given: bench throughput DIR --engine llama.cpp");
  }
  if (flags.engine !== "llama.cpp") {
    throw new UsageError(
      `--engine must be llama.cpp: current ${flags.engine === undefined ? "missing" : `"${flags.engine}"`}`,
    );
  }
  const { records } = readRecords(dir);
  const done = records.filter((record) => record.state === "done");
  if (done.length === 0) throw new UsageError(`"${dir}" holds no finished cell`);
  const timing = timingOf(flags, done);
  const labels = cellLabels(done);
  const peer = await startLlamaCpp();
  const cells: TimedCell[] = [];
  try {
    for (const record of done) {
      const label = labels.get(record.id)!;
      console.error(`${label} in llama.cpp`);
      try {
        cells.push({ label, record, results: await timeCell(peer, record, dir, timing) });
      } catch (error) {
        if (!(error instanceof UsageError)) throw error;
        console.error(`  left out: ${error.message}`);
      }
    }
  } finally {
    await peer.close();
  }
  if (cells.length === 0) throw new UsageError(`No cell of "${dir}" can be timed in llama.cpp: the reasons are above`);
  const { model: _model, ...settings } = timing;
  const stored = cells.map(({ label, record, results }) => ({ id: record.id, label, results }));
  writeAtomically(join(dir, FILE), toJson({ engine: peer.versions, ...settings, cells: stored }));
  console.log(`${throughputTable(cells)}\n`);
  console.log(
    `tokens/s, mean ± sample sd of ${timing.repeats} repeats; ${peer.versions}, ${timing.type}, ${timing.threads} threads`,
  );
  return 0;
}
