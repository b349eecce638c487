/** Garbage collection of host memory.
 *
 * @module
 */
import v8 from "node:v8";
import vm from "node:vm";

let collect: (() => void) | undefined;

/** Frees unreachable host arrays. The collector counts only their small handles, so gigabytes of uploaded weights would
 * pile up before it starts by itself. */
export function collectGarbage(): void {
  if (!collect) {
    v8.setFlagsFromString("--expose-gc");
    collect = vm.runInNewContext("gc") as () => void;
  }
  collect();
}
