/** `bench serve`: a model behind HTTP, dense or pruned, so that other programs can score it and generate with it.
 *
 * The command starts a process of its own (`serve_process.ts`), since nothing else in this program may use the network:
 * that process may listen on the one address and no more.
 *
 * @module
 */
import { join } from "node:path";
import { NVIDIA_SMI } from "../../core/engine/cuda.ts";
import { UsageError } from "../../core/util/errors.ts";
import { ENGINE_NAMES, type RunConfig } from "../../core/schema/schema.ts";
import { parseStrictly } from "../configuration/flags.ts";
import { folderOfRecord } from "../records/store.ts";
import { type Command, textFlag } from "./command.ts";
import { denoRun } from "../../core/util/deno_run.ts";

const HELP = `Serves a model with OpenAI's completions interface, so that lm-evaluation-harness and others can use it:

  lm_eval --model local-completions --tasks arc_easy --model_args \\
    model=NAME,base_url=http://127.0.0.1:8000/v1/completions,tokenizer_backend=remote,max_length=LENGTH

LENGTH is the model's number of positions plus 2. Give tokenizer=FOLDER,tokenizer_backend=huggingface,add_bos_token=True
instead where contexts must begin with a beginning-of-sequence token.

Usage: deno task bench serve [--model PATH | --record FILE] [FLAGS]

Flags:
  --model PATH     Hugging Face folder, .gguf file, or \`tiny\` for the bundled model (default: tiny)
  --record FILE    record of a finished cell, whose model is made again from what its run kept
  --data DIR       folder with data sets, for the calibration data of --record (default: that of the run)
  --name NAME      name in requests (default: name of the file or of the cell)
  --engine NAME    engine (default: that of the record, or the fastest that starts)
  --host ADDRESS   address to listen on (default: 127.0.0.1, this machine only)
  --port PORT      port to listen on, 0 for any free one (default: 8000)`;

/** What to serve and where. */
export interface ServeOptions {
  /** Path of the model; absent with `record`. */
  model?: string;
  /** Path of a record. */
  record?: string;
  data?: string;
  name?: string;
  engine?: RunConfig["engine"];
  host: string;
  port: number;
}

const FLAGS = { string: ["model", "record", "data", "name", "engine", "host", "port"] };

/** Options from the command line.
 * @throws {UsageError} on an unknown flag or a wrong value. */
export function parseServeArgs(args: string[]): ServeOptions {
  const flags = parseStrictly(args, FLAGS);
  const text = (name: string) => textFlag(flags, name);
  const [model, record] = [text("model"), text("record")];
  if (model !== undefined && record !== undefined) {
    throw new UsageError("--model and --record exclude each other: give one of them");
  }
  const engine = text("engine");
  const engines: readonly string[] = [...ENGINE_NAMES, "auto"];
  if (engine !== undefined && !engines.includes(engine)) {
    throw new UsageError(`--engine must be one of ${engines.join(", ")}: current "${engine}"`);
  }
  const port = text("port") ?? "8000";
  if (!/^\d{1,5}$/.test(port) || Number(port) > 65_535) {
    throw new UsageError(`--port must be a whole number of at most 65535: current "${port}"`);
  }
  const host = text("host") ?? "127.0.0.1";
  if (!/^[\w.:-]+$/.test(host)) throw new UsageError(`--host must be an address or a host name: current "${host}"`);
  return {
    ...record === undefined ? { model: model ?? "tiny" } : { record },
    data: text("data"),
    name: text("name"),
    engine: engine as RunConfig["engine"] | undefined,
    host,
    port: Number(port),
  };
}

/** Address as part of a URL or of a permission. */
export function bracketed(host: string): string {
  return host.includes(":") ? `[${host}]` : host;
}

/** Runs `bench serve` until Ctrl-C: 0 after that, 2 when it could not start. */
async function serveUntilStopped(args: string[]): Promise<number> {
  const { host, port, record, engine } = parseServeArgs(args);
  // Which engine a record or `auto` means is found out later, and only the native one needs more rights.
  const ffi = engine === undefined || engine === "auto" || engine === "tensorflow";
  const [run, ...rest] = denoRun({
    script: join(import.meta.dirname!, "../server/serve_process.ts"),
    args,
    ffi,
    ...ffi && { program: NVIDIA_SMI },
    ...record === undefined ? {} : { write: folderOfRecord(record) },
  });
  const child = new Deno.Command("deno", {
    // A request that is answered must not look like one whose client has gone.
    args: [run, "--unstable-no-legacy-abort", `--allow-net=${bracketed(host)}:${port}`, ...rest],
    stdin: "piped",
    stdout: "inherit",
    stderr: "inherit",
  }).spawn();
  let asked = false;
  const stop = () => {
    if (asked) return child.kill("SIGKILL");
    asked = true;
    child.stdin.close().catch(() => {});
  };
  Deno.addSignalListener("SIGINT", stop);
  Deno.addSignalListener("SIGTERM", stop);
  const { code, signal } = await child.status;
  Deno.removeSignalListener("SIGINT", stop);
  Deno.removeSignalListener("SIGTERM", stop);
  return asked && signal === "SIGKILL" ? 130 : code;
}

/** `bench serve`. */
export const serve: Command = {
  usage: "[--model PATH|--record FILE]",
  summary: "a model behind HTTP, for lm-evaluation-harness and others",
  help: () => HELP,
  flags: FLAGS,
  run: (_flags, args) => serveUntilStopped(args),
};
