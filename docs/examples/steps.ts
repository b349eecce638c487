/** From a dense model to a smaller one that was recovered, scored and saved: `deno run -A steps.ts [FOLDER]`. */
import {
  calibrationWindows,
  freeModel,
  generate,
  loadModel,
  prune,
  recover,
  saveModel,
  score,
  trainingWindows,
} from "@maskprune/bench";

const folder = Deno.args[0] ?? "pruned";
const dense = await loadModel("tiny", { engine: "wasm" });
const calibration = await calibrationWindows(dense, { corpus: "tiny-world", sequences: 16, tokens: 64 });

const pruned = await prune(dense, { method: "wanda-sp", sparsity: 0.5, calibration });
const training = { steps: 10, batch: 2, tokens: 64 };
const windows = await trainingWindows(dense, { corpus: "tiny-world", ...training });
await recover(pruned, { dense, windows, ...training });

for (const [name, model] of Object.entries({ dense, pruned })) {
  const { perplexity, tasks } = await score(model, {
    perplexity: [{ corpus: "tiny-world", windowTokens: 128, maxWindows: 8 }],
    tasks: ["tiny-facts"],
    limit: 50,
  });
  const accuracy = tasks.map(({ task, metrics }) => `${task} ${metrics.acc?.value}`);
  console.log(name, ...perplexity.map((result) => `${result.corpus} ${result.perplexity.toFixed(2)}`), ...accuracy);
}
console.log(await generate(pruned, ["One, two,"], { tokens: 8 }));
await saveModel(pruned, folder);
freeModel(pruned);
freeModel(dense);
