/** llama.cpp's side of `deno task check:export --peer llama.cpp` and of `bench throughput`, in a process of its own:
 * `node-llama-cpp` is no dependency of the project, so the specifier below must not be one that the module graph sees.
 *
 * First prints {"versions": …}. Then reads one JSON line after the other and answers each; CPU, F32 cache:
 * - {"file": …, "texts": […], "tokens": […], "prompt": […], "count": N} with {"ids": token ids of every text without
 *   special tokens, "logProbs": natural-log probability of tokens[1:], "greedy": the N most probable ids after the
 *   prompt, "text": theirs};
 * - {"open": file, "prefillTokens": …, "decodeTokens": …, "threads": …} with {} when the model and its context are
 *   there, to stay until {"close": file}, which is answered with {};
 * - {"pass": "prefill"|"decode", "of": file} with {"ms": …}: the prompt's ids at once and the id after it; ids one at
 *   a time from an empty cache. Greedy.
 *
 * What fails is answered with {"error": message}.
 *
 * @module
 */
import { linesOf } from "../../core/util/deno_run.ts";
import { at } from "../../core/util/indexing.ts";

const PACKAGE = "npm:node-llama-cpp@3.21.1";

/** One line of standard input. */
interface Job {
  file: string;
  texts: string[];
  tokens: number[];
  prompt: number[];
  count: number;
}

/** Lines for timing. */
interface OpenJob {
  open: string;
  prefillTokens: number;
  decodeTokens: number;
  threads: number;
}
type PassJob = { pass: "prefill" | "decode"; of: string };
type CloseJob = { close: string };

/** The part of the library that is used. */
interface Library {
  getLlama(options: Record<string, unknown>): Promise<{
    llamaCppRelease: { release: string };
    loadModel(options: { modelPath: string }): Promise<Model>;
  }>;
}
interface Model {
  tokenize(text: string): number[];
  detokenize(tokens: number[]): string;
  createContext(options: Record<string, unknown>): Promise<{ getSequence(): Sequence; dispose(): Promise<void> }>;
  dispose(): Promise<void>;
}
interface Sequence {
  evaluate(tokens: number[], options: { temperature: number; yieldEogToken?: boolean }): AsyncIterable<number>;
  controlledEvaluate(items: unknown[]): Promise<({ next: { probabilities: Map<number, number> } } | undefined)[]>;
  clearHistory(): Promise<void>;
}

/** Options of every context. */
const F32_CACHE = { flashAttention: false, experimentalKvCacheKeyType: "F32", experimentalKvCacheValueType: "F32" };

async function answer(model: Model, { texts, tokens, prompt, count }: Job) {
  const context = await model.createContext({
    contextSize: Math.max(tokens.length, prompt.length + count) + 8,
    // Small models on a busy machine: threads that wait for each other take many times as long.
    threads: 1,
    ...F32_CACHE,
  });
  const sequence = context.getSequence();
  // The whole distribution at temperature 1, nothing cut off.
  const options = { temperature: 1, topK: 0, topP: 1, minP: 0 };
  const inputs = tokens.slice(0, -1).map((token) => [token, { generateNext: { probabilities: true, options } }]);
  const results = await sequence.controlledEvaluate(inputs);
  const logProbs = results.map((result, i) => Math.log(result!.next.probabilities.get(at(tokens, i + 1)) ?? 0));
  await sequence.clearHistory();
  const greedy: number[] = [];
  for await (const token of sequence.evaluate(prompt, { temperature: 0 })) {
    greedy.push(token);
    if (greedy.length === count) break;
  }
  await context.dispose();
  return { ids: texts.map((text) => model.tokenize(text)), logProbs, greedy, text: model.detokenize(greedy) };
}

/** A model with its context. */
interface OpenModel {
  pass(name: PassJob["pass"]): Promise<number>;
  close(): Promise<void>;
}

async function openModel(model: Model, { prefillTokens, decodeTokens, threads }: OpenJob): Promise<OpenModel> {
  const context = await model.createContext({
    contextSize: Math.max(prefillTokens, decodeTokens) + 8,
    batchSize: prefillTokens,
    threads,
    ...F32_CACHE,
  });
  const sequence = context.getSequence();
  // Any ids do: time does not depend on them.
  const prompt = Array.from({ length: prefillTokens }, (_, i) => 3 + i % 200);
  const generate = async (tokens: number[], count: number) => {
    await sequence.clearHistory();
    const start = performance.now();
    let left = count;
    for await (const _ of sequence.evaluate(tokens, { temperature: 0, yieldEogToken: true })) if (--left === 0) break;
    if (left > 0) throw new Error(`llama.cpp gave ${count - left} of ${count} tokens`);
    return performance.now() - start;
  };
  return {
    pass: (name) => name === "prefill" ? generate(prompt, 1) : generate(prompt.slice(0, 1), decodeTokens),
    close: async () => {
      await context.dispose();
      await model.dispose();
    },
  };
}

const tell = (value: unknown) => Deno.stdout.writeSync(new TextEncoder().encode(`${JSON.stringify(value)}\n`));

const { getLlama }: Library = await import(PACKAGE);
// No limit of its own on threads: that is a guess at the machine's cores, and would lower what is asked for unsaid.
const llama = await getLlama({ gpu: false, build: "never", skipDownload: true, logLevel: "error", maxThreads: 0 });
const models = new Map<string, OpenModel>();

function opened(file: string): OpenModel {
  const model = models.get(file);
  if (model) return model;
  throw new Error(`"${file}" is not open`);
}

async function reply(job: Job | OpenJob | PassJob | CloseJob): Promise<unknown> {
  if ("pass" in job) return { ms: await opened(job.of).pass(job.pass) };
  if ("close" in job) {
    await opened(job.close).close();
    models.delete(job.close);
    return {};
  }
  const model = await llama.loadModel({ modelPath: "open" in job ? job.open : job.file });
  try {
    if (!("open" in job)) return await answer(model, job);
    models.set(job.open, await openModel(model, job));
    return {};
  } finally {
    if (!("open" in job && models.has(job.open))) await model.dispose();
  }
}

tell({ versions: `${PACKAGE.slice(4)}, llama.cpp ${llama.llamaCppRelease.release}` });
for await (const line of linesOf(Deno.stdin.readable)) {
  tell(await reply(JSON.parse(line)).catch((error: Error) => ({ error: error.message })));
}
Deno.exit(0);
