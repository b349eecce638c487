/** Models in our engine and in llama.cpp as a table.
 *
 * @module
 */
import { at } from "../../core/util/indexing.ts";
import { median } from "../../core/util/stats.ts";
import type { TurnResult } from "../timing/engine_turns.ts";
import { summarise } from "../timing/throughput.ts";

/** A model that was timed in both engines. */
export interface TimedModel {
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
  const line = (parts: string[]) => `| ${parts.join(" | ")} |`;
  return [HEADER, HEADER.map((_, i) => i < 2 ? "---" : "---:"), ...lines].map(line).join("\n");
}
