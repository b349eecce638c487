/** Times the models of a run in our engine and in llama.cpp.
 *
 * @module
 */
import { join } from "node:path";
import { type Engine, startEngine } from "../../core/engine/engine.ts";
import { UsageError } from "../../core/util/errors.ts";
import { at } from "../../core/util/indexing.ts";
import { STORED_TYPES, type StoredType } from "../../core/formats/quantize.ts";
import { type DoneRecord, throughputChoiceSchema } from "../../core/schema/schema.ts";
import { cellLabels } from "../../core/schema/cell_names.ts";
import { ggufTokenizerMetadata } from "../../core/formats/tokenizer_gguf_write.ts";
import { median } from "../../core/util/stats.ts";
import { counted } from "../../core/util/words.ts";
import { writeAtomically } from "../../core/util/write_file.ts";
import { exportGguf } from "../../models/export_gguf.ts";
import { openModel } from "../../models/load.ts";
import { checkSource } from "../cells/rebuild.ts";
import { askedRecords, storedPath } from "../records/run_file.ts";
import { tableLines } from "../../reports/markdown.ts";
import { runPaths, toJson } from "../records/store.ts";
import { closeSides, openSides, type Sides, timeSides, type TurnResult } from "../timing/engine_turns.ts";
import { summarise, type ThroughputChoice } from "../timing/throughput.ts";
import { type Peer, startLlamaCpp } from "../timing/peer_process.ts";
import { choiceOf, type Flags, textFlag, withTempFolder } from "./command.ts";
import { exportCell } from "./export_cell.ts";

/** A model that was timed in both engines. */
interface TimedModel {
  label: string;
  /** Prefill, then decode. */
  results: TurnResult[];
}

const HEADER = [
  ...["model", "result", "ours, tokens/s", "llama.cpp, tokens/s", "ours / llama.cpp"],
  ...["over dense, ours", "over dense, llama.cpp"],
];

/** Mean and sample sd of tokens/s. */
function rateText(tokens: number, samplesMs: number[]): string {
  const { mean, sd } = summarise("", 1, tokens, samplesMs).tokensPerS;
  const digits = mean < 100 ? 1 : 0;
  return `${mean.toFixed(digits)} ± ${sd.toFixed(digits)}`;
}

/** Speed of each repeat of `samplesMs` over that of `othersMs` in the same round. */
const pairwise = (samplesMs: readonly number[], othersMs: readonly number[]): number[] =>
  samplesMs.map((ms, i) => at(othersMs, i) / ms);

function ratioText(ratios: readonly number[]): string {
  const [middle, least, most] = [median(ratios), Math.min(...ratios), Math.max(...ratios)].map((r) => r.toFixed(2));
  return `${middle} (${least} to ${most})`;
}

function cells({ name, tokens, model, dense }: TurnResult): string[] {
  const over = (own: number[], others: number[] | undefined) =>
    others === undefined ? "–" : `${median(pairwise(own, others)).toFixed(2)} ×`;
  return [
    name,
    rateText(tokens, model.oursMs),
    rateText(tokens, model.llamaCppMs),
    ratioText(pairwise(model.oursMs, model.llamaCppMs)),
    over(model.oursMs, dense?.oursMs),
    over(model.llamaCppMs, dense?.llamaCppMs),
  ];
}

/** The comparison as a Markdown table, a line for every model and result: tokens/s in our engine and in llama.cpp (mean
 * ± sample sd), their ratio (median, least and most of the rounds), and the speed-up over the dense model (median). */
export function throughputTable(models: readonly TimedModel[]): string {
  const lines = models.flatMap(({ label, results }) => results.map((result) => [label, ...cells(result)]));
  return tableLines(HEADER, HEADER.map((_, i) => i >= 2), lines).join("\n").trimEnd();
}

/** Both engines while they run. */
interface Session {
  engine: Engine;
  peer: Peer;
  choice: ThroughputChoice;
}

/** A model of a run that was timed; without an id the run has no dense cell. */
type TimedCell = TimedModel & { id?: string };

/** Uses a file's model in both engines, and frees it. */
async function withSides<T>(file: string, session: Session, use: (sides: Sides) => Promise<T>): Promise<T> {
  const sides = await openSides(file, session, session.choice);
  try {
    return await use(sides);
  } finally {
    await closeSides(sides);
  }
}

/** Writes the dense model at `path` as a GGUF file.
 * @throws {UsageError} when it is not the one that the record's cell was made of, or llama.cpp cannot have it. */
async function writeDense(path: string, to: string, type: StoredType, record: DoneRecord): Promise<void> {
  const { source, tokenizer, tokenizerDefinition } = await openModel(path);
  try {
    checkSource(record, source);
    const metadata = ggufTokenizerMetadata(tokenizerDefinition, tokenizer, source.config.vocabSize);
    exportGguf(source, { to, type, tokenizer: metadata });
  } finally {
    source.close();
  }
}

/** Prints the table and what it was measured with. */
function print(models: readonly TimedModel[], { engine, peer, choice }: Session, type: string): void {
  const { name, library, threads } = engine;
  console.log(`${throughputTable(models)}\n`);
  console.log(
    `tokens/s: mean ± sample sd of ${choice.repeats} repeats in turns; ratios: median of the repeats; ` +
      `ours: ${name} (${library}); ${peer.versions}; ${type}, ${counted(threads, "thread")}`,
  );
}

/** Times the dense model and every finished cell of the run in `dir`, prints the table and keeps the raw samples. Cells
 * that cannot be timed are named and left out.
 * @throws {UsageError} when nothing can be timed.
 * @throws {EngineError} when the run's engine does not start. */
export async function timeCells(dir: string, flags: Flags): Promise<void> {
  const done = askedRecords(dir).records.filter((record) => record.state === "done");
  if (done.length === 0) throw new UsageError(`"${dir}" holds no finished cell`);
  const first = at(done, 0);
  const { engine: name } = first.environment;
  if (name === "webgpu") {
    throw new UsageError("Cannot time a run on webgpu: llama.cpp is timed on the CPU. Run it with --engine tensorflow");
  }
  const dtype = textFlag(flags, "dtype");
  const type = dtype === undefined ? "F32" : choiceOf("dtype", dtype, STORED_TYPES);
  const model = textFlag(flags, "model");
  const choice = { ...first.cell.throughput ?? throughputChoiceSchema.parse({}), batch: 1 };
  const labels = cellLabels(done);
  const isDense = ({ cell }: DoneRecord) => cell.method === null;
  // In f32, as llama.cpp; rebuilding a cell starts the engine in its own arithmetic.
  const startOurs = () => startEngine(name, { device: "cpu" });
  const engine = await startOurs();
  const peer = await startLlamaCpp();
  const session = { engine, peer, choice };
  await withTempFolder(async (folder) => {
    const denseFile = join(folder, "dense.gguf");
    await writeDense(model ?? storedPath(dir, first.cell.model), denseFile, type, first);
    const timed: TimedCell[] = [];
    await withSides(denseFile, session, async (dense) => {
      const own = done.find(isDense)?.id;
      const label = own === undefined ? "dense" : labels.get(own) ?? own;
      console.error(label);
      timed.push({ id: own, label, results: await timeSides(dense, undefined, choice) });
      for (const record of done.filter((record) => !isDense(record))) {
        const label = labels.get(record.id) ?? record.id;
        const to = join(folder, `${record.id}.gguf`);
        console.error(label);
        try {
          await exportCell({ record, out: dir, format: "gguf", to, type, model });
          await startOurs();
          const results = await withSides(to, session, (sides) => timeSides(sides, dense, choice));
          timed.push({ id: record.id, label, results });
          Deno.removeSync(to);
        } catch (error) {
          if (!(error instanceof UsageError)) throw error;
          console.error(`  left out: ${error.message}`);
        }
      }
    });
    const { library, device, threads } = engine;
    const settings = { ours: { engine: name, library, device }, llamaCpp: peer.versions, ...choice, type, threads };
    writeAtomically(runPaths(dir).llamaCpp, toJson({ ...settings, cells: timed }));
    print(timed, session, type);
  }).finally(peer.close);
}
