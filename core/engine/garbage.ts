/** Host memory between uploads.
 *
 * @module
 */
import v8 from "node:v8";
import vm from "node:vm";

let collect: (() => void) | undefined;

/** Frees host arrays that nothing holds any more. The collector sees only their small handles, and would let gigabytes of
 * uploaded weights pile up before it starts by itself. */
export function collectGarbage(): void {
  if (!collect) {
    v8.setFlagsFromString("--expose-gc");
    collect = vm.runInNewContext("gc") as () => void;
  }
  collect();
}
