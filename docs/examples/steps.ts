/** From a dense model to a smaller one that was recovered, scored and saved: `deno run -A steps.ts [FOLDER]`. */
import { calibrate, free, load, prune, recover, save, score, trainingData } from "@maskprune/bench";

const folder = Deno.args[0] ?? "pruned";
const dense = await load("tiny", { engine: "wasm" });
const calibration = await calibrate(dense, { corpus: "tiny-world", sequences: 16, tokens: 64 });
const training = await trainingData(dense, { corpus: "tiny-world", steps: 10, batch: 2, tokens: 64 });

const cut = await prune(dense, { method: "wanda-sp", sparsity: 0.5, calibration });
const pruned = await recover(cut, { dense, training });

for (const [name, model] of Object.entries({ dense, pruned })) {
  const { perplexity, tasks } = await score(model, {
    perplexity: [{ corpus: "tiny-world", windowTokens: 128, maxWindows: 8 }],
    tasks: ["tiny-facts"],
    limit: 50,
  });
  const accuracy = tasks.map(({ task, metrics }) => `${task} ${metrics.acc?.value}`);
  console.log(name, ...perplexity.map((result) => `${result.corpus} ${result.perplexity.toFixed(2)}`), ...accuracy);
}
await save(pruned, folder);
free(pruned);
free(dense);
