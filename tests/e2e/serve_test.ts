/** Needs `--allow-net=127.0.0.1`.
 *
 * @module
 */
import { join } from "node:path";
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { at } from "../../core/util/indexing.ts";
import { denoRun } from "../../core/util/deno_run.ts";
import { exportHfFolder } from "../../models/export.ts";
import { toySource } from "../support/toy.ts";
import { byteLevelDefinition } from "../support/export_fixture.ts";
import { known } from "../support/values.ts";

interface Server extends AsyncDisposable {
  url: string;
  /** Closes the process's input and waits for its end. */
  stop(): Promise<number>;
}

function spawn(args: string[], port: number): Deno.ChildProcess {
  const script = join(import.meta.dirname!, "../../benchmarks/server/serve_process.ts");
  const [run, ...rest] = denoRun({ script, args: [...args, "--port", String(port), "--engine", "wasm"], ffi: false });
  return new Deno.Command("deno", {
    args: [known(run), "--unstable-no-legacy-abort", `--allow-net=127.0.0.1:${port}`, ...rest],
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
}

async function startServer(args: string[]): Promise<Server> {
  const child = spawn(args, 0);
  const reader = child.stdout.pipeThrough(new TextDecoderStream()).getReader();
  const { value = "" } = await reader.read();
  const url = /http:\/\/[^/]+/.exec(value)?.[0];
  if (url === undefined) throw new Error(`No address in "${value}": ${await new Response(child.stderr).text()}`);
  const stop = async () => {
    await child.stdin.close();
    return (await child.status).code;
  };
  return {
    url,
    stop,
    [Symbol.asyncDispose]: async () => {
      await child.stdin.close().catch(() => {});
      await Promise.all([reader.cancel(), child.stderr.cancel(), child.status]);
    },
  };
}

async function withToy(run: (folder: string) => Promise<void>): Promise<void> {
  const work = await Deno.makeTempDir();
  try {
    const folder = join(work, "toy");
    const source = toySource({ vocabSize: 280, bosTokenId: 0, eosTokenId: 1 });
    exportHfFolder(source, { to: folder, dtype: "F32", tokenizer: byteLevelDefinition() });
    await run(folder);
  } finally {
    await Deno.remove(work, { recursive: true });
  }
}

Deno.test("bench serve answers over HTTP, also many at once, and ends cleanly", () =>
  withToy(async (folder) => {
    await using server = await startServer(["--model", folder]);
    const models = await (await fetch(`${server.url}/v1/models`)).json();
    assertEquals(models.data[0].id, "toy");
    const ask = async (prompt: unknown) => {
      const body = JSON.stringify({ prompt, max_tokens: 1, temperature: 0, logprobs: 1, echo: true });
      const response = await fetch(`${server.url}/v1/completions`, { method: "POST", body });
      return { status: response.status, json: await response.json() };
    };
    const prompts = [[5, 6, 7], [8, 9], [5, 6, 7, 10]];
    const together = await ask(prompts);
    const apart = await Promise.all(prompts.map((prompt) => ask([prompt])));
    for (const [i, { status, json }] of apart.entries()) {
      assertEquals(status, 200);
      const one: number[] = json.choices[0].logprobs.token_logprobs.slice(1);
      const all: number[] = together.json.choices[i].logprobs.token_logprobs.slice(1);
      assert(one.every((value, j) => Math.abs(value - at(all, j)) < 1e-5), "batches must not change log-probabilities");
    }
    const refused = await ask([[5, 999]]);
    assertEquals(refused.status, 400);
    assertStringIncludes(refused.json.error.message, "must be below 280");
    assertEquals(await server.stop(), 0);
  }));

Deno.test("bench serve says why it cannot start", () =>
  withToy(async (folder) => {
    const taken = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen: () => {} }, () => new Response("taken"));
    const fails = async (args: string[], reason: string) => {
      const child = spawn(args, taken.addr.port);
      const { code, stderr } = await child.output();
      assertEquals(code, 2);
      assertStringIncludes(new TextDecoder().decode(stderr), reason);
      await child.stdin.close().catch(() => {});
    };
    await fails(["--model", folder], `cannot listen on 127.0.0.1:${taken.addr.port}`);
    await fails(["--model", join(folder, "none")], "there is no such model");
    await fails(["--record", join(folder, "config.json")], "is not a record");
    await taken.shutdown();
  }));
