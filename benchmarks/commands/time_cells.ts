/** The models of a run in another engine. Does the speed-up survive there?
 *
 * @module
 */
import { join } from "node:path";
import { UsageError } from "../../core/errors.ts";
import { at } from "../../core/indexing.ts";
import { STORED_TYPES, type StoredType } from "../../core/quantize.ts";
import { type DoneRecord, throughputChoiceSchema, type ThroughputResult } from "../../core/schema.ts";
import { cellLabels } from "../../core/cell_names.ts";
import { choiceOf, countFlag, type Flags, textFlag } from "./command.ts";
import { exportCell } from "./export_cell.ts";
import { startLlamaCpp } from "../peers/llama_cpp.ts";
import type { Peer } from "../peers/peer_process.ts";
import { writeAtomically } from "../../core/write_file.ts";
import { readRecords, runPaths, toJson } from "../records/store.ts";
import { summarise, type ThroughputChoice } from "../evaluation/throughput.ts";

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
  const names = at(cells, 0).results.map(({ name }) => name);
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

function timingOf(flags: Flags, records: readonly DoneRecord[]): Timing {
  const type = choiceOf("dtype", textFlag(flags, "dtype") ?? "F32", STORED_TYPES);
  const model = textFlag(flags, "model");
  const asRun = throughputChoiceSchema.parse(at(records, 0).cell.throughput ?? {});
  return {
    ...asRun,
    prefillTokens: countFlag(flags, "prefill-tokens") ?? asRun.prefillTokens,
    decodeTokens: countFlag(flags, "decode-tokens") ?? asRun.decodeTokens,
    repeats: countFlag(flags, "repeats", 2) ?? asRun.repeats,
    type,
    threads: at(records, 0).environment.threads,
    ...model === undefined ? {} : { model },
  };
}

/** Times every finished cell of the run in `dir`, and prints the table.
 * @throws {UsageError} when nothing can be timed. */
export async function timeCells(dir: string, flags: Flags): Promise<number> {
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
  writeAtomically(runPaths(dir).llamaCpp, toJson({ engine: peer.versions, ...settings, cells: stored }));
  console.log(`${throughputTable(cells)}\n`);
  console.log(
    `tokens/s, mean ± sample sd of ${timing.repeats} repeats; ${peer.versions}, ${timing.type}, ${timing.threads} threads`,
  );
  return 0;
}
