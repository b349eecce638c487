/** The HTTP interface of a model: OpenAI's completions and vLLM's tokenizer endpoints, as far as
 * lm-evaluation-harness's `local-completions` uses them. Nothing in a request names a file.
 *
 * @module
 */
import { type Context, Hono } from "hono";
import { bodyLimit } from "hono/body-limit";
import { z } from "zod";
import { UsageError } from "../../core/util/errors.ts";
import type { Tokenizer } from "../../core/formats/tokenizer.ts";
import type { ScoringModel } from "../../models/scoring.ts";
import { complete, type CompletionRequest } from "./completions.ts";
import { describeIssue } from "../../core/util/issues.ts";
import { encodeText } from "../evaluation/requests.ts";

/** What is served. */
export interface ServedModel {
  /** The name that requests call it by. */
  name: string;
  model: ScoringModel;
  tokenizer: Tokenizer;
  /** Ends requests that are under way. */
  signal?: AbortSignal;
}

/** Longest request, in bytes. */
export const MAX_BODY_BYTES = 16 * 1024 * 1024;
/** Most prompts of a request. */
export const MAX_PROMPTS = 2048;
/** Longest reason in an answer, in UTF-16 code units: it may quote the request. */
const MAX_REASON_LENGTH = 500;
/** Most alternatives per token. */
export const MAX_LOG_PROBS = 20;

const tokenId = z.int().nonnegative();

/** Only with the value that changes nothing: what is not implemented is refused rather than passed over. */
const unchanged = <Value extends z.core.util.Literal>(...values: Value[]) => z.literal(values).optional();

const completionBody = z.strictObject({
  model: z.string().optional(),
  prompt: z.union([
    z.string(),
    z.array(z.string()).min(1).max(MAX_PROMPTS),
    z.array(tokenId).min(1),
    z.array(z.array(tokenId)).min(1).max(MAX_PROMPTS),
  ], `must be a text, a list of token ids, or a list of 1 to ${MAX_PROMPTS} of either`),
  max_tokens: z.int().nonnegative().default(16),
  temperature: z.number().min(0).max(100).default(1),
  top_p: z.number().gt(0).max(1).default(1),
  seed: z.int().nullable().default(0),
  stop: z.union([z.string(), z.array(z.string())]).nullable().default(null),
  logprobs: z.int().min(0).max(MAX_LOG_PROBS).nullable().default(null),
  echo: z.boolean().default(false),
  user: z.string().optional(),
  n: unchanged(1),
  best_of: unchanged(1),
  stream: unchanged(false),
  suffix: unchanged(null, ""),
  presence_penalty: unchanged(0),
  frequency_penalty: unchanged(0),
  logit_bias: z.union([z.null(), z.strictObject({})], "is not supported").optional(),
});

const tokenizeBody = z.strictObject({
  model: z.string().optional(),
  prompt: z.string(),
  add_special_tokens: z.boolean().default(true),
});

const detokenizeBody = z.strictObject({ model: z.string().optional(), tokens: z.array(tokenId) });

/** A request that asks for what is not here. */
class NotFoundError extends UsageError {}

async function readBody<Schema extends z.ZodType<{ model?: string }>>(
  context: Context,
  schema: Schema,
  served: ServedModel,
): Promise<z.infer<Schema>> {
  let body: unknown;
  try {
    body = await context.req.json();
  } catch (error) {
    throw new UsageError(`The body must be JSON: ${(error as Error).message}`);
  }
  const parsed = schema.safeParse(body);
  if (!parsed.success) {
    throw new UsageError(parsed.error.issues.map((issue) => describeIssue(issue, body, () => [])).join("; "));
  }
  const { model } = parsed.data;
  if (model !== undefined && model !== served.name) {
    throw new NotFoundError(`The model "${model}" is not served here: must be "${served.name}"`);
  }
  return parsed.data;
}

function completionRequest(body: z.infer<typeof completionBody>, tokenizer: Tokenizer): CompletionRequest {
  const { prompt } = body;
  const isOne = typeof prompt === "string" || typeof prompt[0] === "number";
  const prompts = (isOne ? [prompt] : prompt) as (string | number[])[];
  return {
    prompts: prompts.map((one) =>
      typeof one === "string" ? { text: one, ids: encodeText(tokenizer, one, "tokenizer") } : { ids: one }
    ),
    maxTokens: body.max_tokens,
    temperature: body.temperature,
    topP: body.top_p,
    seed: body.seed ?? 0,
    stop: typeof body.stop === "string" ? [body.stop] : body.stop ?? [],
    logProbs: body.logprobs,
    echo: body.echo,
  };
}

/** Runs work one after the other: an engine computes one batch at a time. */
function createQueue(): <Result>(work: () => Promise<Result>) => Promise<Result> {
  let last: Promise<unknown> = Promise.resolve();
  return (work) => {
    const result = last.then(work);
    last = result.catch(() => {});
    return result;
  };
}

function errorResponse(context: Context, status: 400 | 404 | 413 | 500 | 503, message: string): Response {
  const type = status < 500 ? "invalid_request_error" : "server_error";
  const shown = message.length > MAX_REASON_LENGTH ? `${message.slice(0, MAX_REASON_LENGTH)}…` : message;
  return context.json({ error: { message: shown, type, param: null, code: null } }, status);
}

/** The tokenizer's endpoints, for clients that encode with it. */
function addTokenizer(app: Hono, served: ServedModel): void {
  const { model, tokenizer } = served;
  const token = (id: number | null) => id === null ? null : tokenizer.tokenText(id);
  app.get("/tokenizer_info", (context) =>
    context.json({
      eos_token: token(tokenizer.eosTokenId),
      bos_token: token(tokenizer.bosTokenId),
      pad_token: null,
      chat_template: null,
    }));

  app.post("/tokenize", async (context) => {
    const { prompt, add_special_tokens } = await readBody(context, tokenizeBody, served);
    const tokens = encodeText(tokenizer, prompt, add_special_tokens ? "tokenizer" : "never");
    return context.json({ tokens, count: tokens.length, max_model_len: model.maxPositions });
  });

  app.post("/detokenize", async (context) => {
    const { tokens } = await readBody(context, detokenizeBody, served);
    const wrong = tokens.find((id) => id >= model.vocabSize);
    if (wrong !== undefined) throw new UsageError(`tokens has the id ${wrong}: must be below ${model.vocabSize}`);
    return context.json({ prompt: tokenizer.decode(tokens) });
  });
}

/** The application, to be given to a server or asked directly with `app.request()`. */
export function createApp(served: ServedModel): Hono {
  const { name, model, tokenizer, signal } = served;
  const created = Math.floor(Date.now() / 1000);
  const inTurn = createQueue();
  const app = new Hono();
  app.use(bodyLimit({
    maxSize: MAX_BODY_BYTES,
    onError: (context) => errorResponse(context, 413, `The body must have at most ${MAX_BODY_BYTES} bytes`),
  }));

  app.get("/v1/models", (context) =>
    context.json({
      object: "list",
      data: [{ id: name, object: "model", created, owned_by: "maskprune-bench", max_model_len: model.maxPositions }],
    }));

  app.post("/v1/completions", async (context) => {
    const request = completionRequest(await readBody(context, completionBody, served), tokenizer);
    const stop = AbortSignal.any([context.req.raw.signal, ...signal ? [signal] : []]);
    const { choices, promptTokens, completionTokens } = await inTurn(() => complete(model, tokenizer, request, stop));
    return context.json({
      id: `cmpl-${crypto.randomUUID()}`,
      object: "text_completion",
      created: Math.floor(Date.now() / 1000),
      model: name,
      choices,
      usage: {
        prompt_tokens: promptTokens,
        completion_tokens: completionTokens,
        total_tokens: promptTokens + completionTokens,
      },
    });
  });

  addTokenizer(app, served);

  app.notFound((context) => {
    const { method, path } = context.req;
    return errorResponse(
      context,
      404,
      `${method} ${path} is not served: use /v1/completions, /v1/models, /tokenizer_info, /tokenize or /detokenize`,
    );
  });
  app.onError((error, context) => {
    if (signal?.aborted) return errorResponse(context, 503, "The server is stopping");
    if (error instanceof NotFoundError) return errorResponse(context, 404, error.message);
    if (error instanceof UsageError) return errorResponse(context, 400, error.message);
    return errorResponse(context, 500, error.message);
  });
  return app;
}
