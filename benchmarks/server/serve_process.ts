/** The process of `bench serve`: loads a model and listens until its standard input ends.
 *
 * Exit codes: 0 stopped as asked, 2 it could not start.
 *
 * @module
 */
import { basename } from "node:path";
import { type Engine, type EngineOptions, startBestEngine, startEngine } from "../../core/engine/engine.ts";
import { EngineError, UsageError } from "../../core/util/errors.ts";
import type { DoneRecord, RunConfig } from "../../core/schema/schema.ts";
import { type DecoderModel, disposeModel, uploadModel } from "../../models/decoder.ts";
import { usualForm } from "../../models/device.ts";
import { type OpenedModel, openModel } from "../../models/load.ts";
import { scoringModel } from "../../models/scoring.ts";
import { pruneCell } from "../cells/prune_cell.ts";
import { checkSource, isKept, keptModel } from "../cells/rebuild.ts";
import { cellName } from "../../core/schema/cell_names.ts";
import { bracketed, parseServeArgs, type ServeOptions } from "../commands/serve.ts";
import { createApp, type ServedModel } from "./server.ts";
import { folderOfRecord, readDone } from "../records/store.ts";
import { readRunFile, storedPath } from "../records/run_file.ts";

/** Folder with data sets of the run in `out`, as its `run.json` says. */
function dataOf(out: string): string | undefined {
  try {
    const data = readRunFile(out)?.config.data;
    return data === undefined ? undefined : storedPath(out, data);
  } catch (error) {
    if (error instanceof UsageError) return undefined;
    throw error;
  }
}

async function start(name: RunConfig["engine"], options: EngineOptions): Promise<Engine> {
  return name === "auto" ? (await startBestEngine(options)).engine : await startEngine(name, options);
}

/** Loads what `options` name, and starts the engine.
 * @throws {UsageError} when model, record or data cannot be used.
 * @throws {EngineError} when the engine does not start. */
export async function loadServed(
  options: ServeOptions,
  signal: AbortSignal,
): Promise<ServedModel & { engine: Engine }> {
  const record = options.record === undefined ? undefined : readDone(options.record);
  const path = record ? storedPath(folderOfRecord(options.record!), record.cell.model) : options.model!;
  const { engine: own = "auto", arithmetic } = record?.cell ?? {};
  const engine = await start(options.engine ?? own, { arithmetic });
  const opened = await openModel(path);
  let model: DecoderModel;
  try {
    const { source } = opened;
    model = record
      ? await modelOf(record, { options, engine, signal, opened })
      : await uploadModel(source, usualForm(source, engine));
  } finally {
    opened.source.close();
  }
  engine.check();
  const name = options.name ?? (record ? cellName(record) : basename(path).replace(/\.gguf$/, ""));
  return { name, model: scoringModel(model), tokenizer: opened.tokenizer, signal, engine };
}

/** The model of a record as its run kept it, or where it kept nothing the dense model pruned again as the cell was. */
async function modelOf(
  record: DoneRecord,
  { options, engine, signal, opened: { source, tokenizer } }: {
    options: ServeOptions;
    engine: Engine;
    signal: AbortSignal;
    opened: OpenedModel;
  },
): Promise<DecoderModel> {
  checkSource(record, source);
  const out = folderOfRecord(options.record!);
  const dense = await uploadModel(source, record.cell.weights);
  const host = { report: console.error, signal };
  const job = { cell: record.cell, out, data: options.data ?? dataOf(out) };
  const model = isKept(record)
    ? await keptModel(out, record, { dense, source }, host)
    : (await pruneCell(job, { dense, tokenizer, source, engine }, host)).model;
  if (model !== dense) disposeModel(dense);
  return model;
}

/** Resolves when standard input ends: whoever started this process wants it to stop, or has ended. */
async function inputEnd(): Promise<void> {
  for await (const _ of Deno.stdin.readable);
}

async function listen(options: ServeOptions): Promise<void> {
  const controller = new AbortController();
  // A terminal sends Ctrl-C to both processes; the other one decides.
  Deno.addSignalListener("SIGINT", () => {});
  const ended = inputEnd().then(() => controller.abort());
  let loaded: Awaited<ReturnType<typeof loadServed>>;
  try {
    loaded = await loadServed(options, controller.signal);
  } catch (error) {
    // Pruning and training stop when asked to, which is no failure.
    if (controller.signal.aborted) return;
    throw error;
  }
  const { engine, ...served } = loaded;
  const { host, port } = options;
  let server: Deno.HttpServer<Deno.NetAddr>;
  try {
    server = Deno.serve({ hostname: host, port, onListen: () => {} }, createApp(served).fetch);
  } catch (error) {
    throw new UsageError(`The server cannot listen on ${bracketed(host)}:${port}: ${(error as Error).message}`);
  }
  const url = `http://${bracketed(host)}:${server.addr.port}`;
  Deno.stdout.writeSync(new TextEncoder().encode(`${served.name} at ${url}/v1, ${engine.library}, ${engine.device}\n`));
  if (!/^(127\.|localhost$|::1$)/.test(host)) {
    console.error(`Everyone who reaches ${bracketed(host)} can use the model: there is no password`);
  }
  await ended;
  await server.shutdown();
}

if (import.meta.main) {
  // Libraries that print must not stand between the caller and the address.
  console.log = console.error;
  console.info = console.error;
  try {
    await listen(parseServeArgs(Deno.args));
    Deno.exit(0);
  } catch (error) {
    if (!(error instanceof UsageError || error instanceof EngineError)) throw error;
    console.error(error.message);
    Deno.exit(2);
  }
}
