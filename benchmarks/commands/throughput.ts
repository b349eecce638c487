/** `bench throughput`: the models of a run in another engine.
 *
 * @module
 */
import { UsageError } from "../../core/errors.ts";
import { STORED_TYPES } from "../../core/quantize.ts";
import { choiceOf, type Command, textFlag } from "./command.ts";

const HELP = `Times the models of a run in llama.cpp, dense and pruned, beside the run's own numbers.

Usage: deno task bench throughput DIR --engine llama.cpp [FLAGS]

Flags:
  --engine NAME      llama.cpp: through node-llama-cpp, which is fetched into Deno's cache the first time
  --model PATH       the dense model, if it lies elsewhere than when the run was made
  --dtype TYPE       type of the weights in llama.cpp: f32, f16, bf16, q8_0 (default: f32, as in our engines)
  --prefill-tokens N tokens of the prompt (default: as in the run, else 512)
  --decode-tokens N  tokens generated one at a time (default: as in the run, else 128)
  --repeats N        timed repeats after one untimed pass (default: as in the run, else 5)

Cells with unequal layers are named and left out. The table goes to
standard output, raw samples to DIR/throughput-llama.cpp.json. Exit codes: 0 done, 2 nothing could be timed`;

/** `bench throughput`. */
export const throughput: Command = {
  usage: "DIR --engine llama.cpp",
  summary: "time a run's models in llama.cpp, beside our numbers",
  help: () => HELP,
  flags: { string: ["engine", "model", "dtype", "prefill-tokens", "decode-tokens", "repeats"], positional: 1 },
  choices: { engine: ["llama.cpp"], dtype: STORED_TYPES.map((type) => type.toLowerCase()) },
  run: async (flags) => {
    const [dir] = flags._;
    if (dir === undefined) {
      throw new UsageError("The folder of a run must be given: bench throughput DIR --engine llama.cpp");
    }
    choiceOf("engine", textFlag(flags, "engine"), ["llama.cpp"]);
    return await (await import("./time_cells.ts")).timeCells(dir, flags);
  },
};
