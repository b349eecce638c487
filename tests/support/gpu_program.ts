/** Looks at the first GPU that this process may use, three times, as a cell does: prints free bytes, bytes taken and the
 * tokens of a batch after each, then the peak, as JSON. Needs the right to run `nvidia-smi`. */
import { listCudaDevices, visibleDevices, visibleSetting } from "../../core/engine/cuda.ts";
import { cudaMemory } from "../../core/engine/device_memory.ts";
import { at } from "../../core/util/indexing.ts";
import { batchBudget } from "../../benchmarks/evaluation/batches.ts";

const visible = visibleDevices(listCudaDevices(), visibleSetting());
const memory = cudaMemory(at(visible, 0));
const looks = Array.from({ length: 3 }, () => ({
  freeBytes: memory.freeBytes(),
  usedBytes: memory.usedBytes(),
  batchTokens: batchBudget({ fastTokens: 2048, bytesPerToken: 2 ** 20, freeBytes: memory.freeBytes }),
}));
console.log(JSON.stringify({ gpus: visible.map(({ uuid }) => uuid), looks, peak: memory.peak(), place: memory.place }));
