/** Checks that every model family gives the same results here and in transformers.
 *
 * transformers (from PyPI, in a private environment) makes a small random model of each family and variant of
 * `small_families.ts`, in float32 and in a 16-bit type, in several shards. We load the folder: logits must agree within
 * 1e-4, log-likelihoods within 1e-5 nats a token. Then half of all units are removed. Masks and cut weights must agree
 * within 1e-4. transformers must load our export of the cut model as the same class with the same logits.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import { join } from "node:path";
import { withTempFolder } from "../../benchmarks/commands/command.ts";
import type { Peer } from "../../benchmarks/timing/peer_process.ts";
import { startBestEngine } from "../../core/engine/engine.ts";
import { UsageError } from "../../core/util/errors.ts";
import { at } from "../../core/util/indexing.ts";
import { createRng } from "../../core/util/rng.ts";
import { mean } from "../../core/util/stats.ts";
import type { WeightSource } from "../../models/config.ts";
import type { DecoderModel } from "../../models/device.ts";
import { exportHfFolder } from "../../models/export.ts";
import { prunedSource } from "../../models/export_source.ts";
import { openFolderModel } from "../../models/load.ts";
import { logitsOf, onDevice } from "../../tests/support/device_models.ts";
import { planToMasks } from "../../tests/support/plan_masks.ts";
import { referenceLogProbs } from "../../tests/support/reference.ts";
import { FAMILY_CONFIGS, randomPlan } from "./small_families.ts";
import { runTool } from "../run_tool.ts";
import { startTorch } from "../setup/setup_common.ts";

const HELP = `Checks that every model family gives the same results here and in transformers.

Usage: deno task check:families [--only NAME]

  --only NAME   only small models whose names begin with NAME, such as qwen3

transformers and PyTorch are installed into a private Python environment the first time.`;

const MOST_LOGIT = 1e-4;
const MOST_NATS = 1e-5;
const TOKENS = 40;
const SHARD_BYTES = 20_000;

/** An answer of `peers/transformers_families.py`. */
interface Answer {
  kind: string;
  logits: number[][];
}

// NaN is the largest.
const largest = (values: Iterable<number>) => [...values].reduce((max, value) => Math.max(max, value), 0);

/** Largest difference of logits, and mean difference of log-likelihoods of the next tokens in nats. */
function differences(
  ours: Float32Array,
  theirs: readonly number[][],
  tokens: Int32Array,
): { logit: number; nats: number } {
  const width = ours.length / theirs.length;
  const sides = [
    theirs.map((_, t) => Float64Array.from(ours.subarray(t * width, (t + 1) * width))),
    theirs.map((row) => Float64Array.from(row)),
  ];
  const gaps = ([a, b]: ArrayLike<number>[]) => Array.from(a ?? [], (value, i) => Math.abs(value - at(b ?? [], i)));
  const logProbs = sides.map((rows) => referenceLogProbs(rows.slice(0, -1), tokens.subarray(1)));
  return { logit: largest(gaps(sides.map((rows) => rows.flatMap((row) => [...row])))), nats: mean(gaps(logProbs)) };
}

/** What the cut model gives, masked and exported. */
async function checkPruned(
  source: WeightSource,
  { peer, folder, tokens, dense }: { peer: Peer; folder: string; tokens: Int32Array; dense: DecoderModel },
): Promise<{ masked: number; exported: number; kind: string }> {
  const plan = randomPlan(source.config);
  const masks = planToMasks(source.config, plan);
  const masked = await logitsOf(dense, tokens, { masks });
  tf.dispose(masks.flatMap((layer) => Object.values(layer)));
  const small = prunedSource(source, plan);
  using model = await onDevice(small);
  const cut = await logitsOf(model, tokens);
  const to = join(folder, "pruned");
  const tokenizer = { tokenizer: {}, config: {} };
  exportHfFolder(small, { to, dtype: "F32", maxShardBytes: SHARD_BYTES, tokenizer });
  const answer = await peer.ask<Answer>({ folder: to, tokens: [...tokens] });
  Deno.removeSync(to, { recursive: true });
  return {
    masked: largest(cut.map((value, i) => Math.abs(value - at(masked, i)))),
    exported: differences(cut, answer.logits, tokens).logit,
    kind: answer.kind,
  };
}

/** Checks one small model; true when it is right. */
async function checkModel(name: string, json: Record<string, unknown>, peer: Peer, folder: string): Promise<boolean> {
  const rng = createRng(11, "check-families tokens");
  const vocabulary = Number(json.vocab_size);
  const tokens = Int32Array.from({ length: TOKENS }, () => Math.floor(rng.uniform() * vocabulary));
  let isRight = true;
  for (const dtype of ["float32", name.length % 2 === 0 ? "bfloat16" : "float16"]) {
    const to = join(folder, "made");
    const asked = { make: json, folder: to, dtype, shardBytes: SHARD_BYTES, tokens: [...tokens] };
    const made = await peer.ask<Answer>(asked);
    const source = openFolderModel(to);
    using dense = await onDevice(source);
    const { logit, nats } = differences(await logitsOf(dense, tokens), made.logits, tokens);
    const pruned = await checkPruned(source, { peer, folder, tokens, dense });
    source.close();
    Deno.removeSync(to, { recursive: true });
    const good = logit <= MOST_LOGIT && nats <= MOST_NATS && pruned.masked <= MOST_LOGIT &&
      pruned.exported <= MOST_LOGIT && pruned.kind === made.kind;
    isRight &&= good;
    const short = (value: number) => value.toExponential(1);
    console.log(
      `${good ? "ok  " : "FAIL"} ${name}, ${dtype}: ${made.kind}, logits ${short(logit)}, ${short(nats)} nats; ` +
        `pruned: masked ${short(pruned.masked)}, exported ${short(pruned.exported)} as ${pruned.kind}`,
    );
  }
  return isRight;
}

async function main({ only = "" }: { only?: string }): Promise<number> {
  const chosen = Object.entries(FAMILY_CONFIGS).filter(([name]) => name.startsWith(only));
  if (chosen.length === 0) {
    throw new UsageError(`No small model begins with "${only}": ${Object.keys(FAMILY_CONFIGS).join("; ")}`);
  }
  const { engine } = await startBestEngine();
  const peer = await startTorch("transformers", "transformers_families.py");
  let failures = 0;
  await withTempFolder(async (folder) => {
    try {
      console.log(`${peer.versions}; ours: ${engine.library}`);
      for (const [name, json] of chosen) {
        const clean = JSON.parse(JSON.stringify(json));
        if (!await checkModel(name, clean, peer, folder)) failures++;
      }
    } finally {
      await peer.close();
    }
  });
  console.log(
    failures === 0 ? `${chosen.length} small models agree` : `${failures} of ${chosen.length} small models differ`,
  );
  return failures === 0 ? 0 : 1;
}

if (import.meta.main) await runTool({ help: HELP, string: ["only"] }, main);
