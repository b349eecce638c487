/** `bench throughput`: models in our engine and in another one.
 *
 * @module
 */
import { UsageError } from "../../core/util/errors.ts";
import { choiceOf, type Command, textFlag } from "./command.ts";

const HELP = `Times models in our engine and in llama.cpp in turns: the same files, threads and repeats.

Usage: deno task bench throughput DIR --engine llama.cpp [FLAGS]
       deno task bench throughput --model PATH --engine llama.cpp [FLAGS]

Flags:
  --engine NAME      llama.cpp: on the CPU, through node-llama-cpp, which is fetched into Deno's cache the first time
  --model PATH       with DIR: the dense model, if it lies elsewhere than when the run was made; without: what to time
  --dtype TYPE       type of the weights in the files: f32, f16, bf16, q8_0 (default: f32; a .gguf file without a run
                     is taken as it is)
  --prefill-tokens N tokens of the prompt (default: as in the run, else 512)
  --decode-tokens N  tokens generated one at a time (default: as in the run, else 128)
  --repeats N        timed repeats after one untimed pass (default: as in the run, else 5)

With DIR the models of a run are timed, dense and pruned; without, one model. Ours is the run's
engine, without a run the fastest that starts, on the CPU. Both engines hold the dense model and one
other at a time. Cells with unequal layers are named and left out. The table goes to standard
output, the raw samples of a run to DIR/throughput-llama.cpp.json. Exit codes: 0 done, 2 nothing
could be timed`;

/** `bench throughput`. */
export const throughput: Command = {
  usage: "DIR --engine llama.cpp",
  summary: "time a run's models in our engine and in llama.cpp, in turns",
  help: () => HELP,
  flags: { string: ["engine", "model", "dtype", "prefill-tokens", "decode-tokens", "repeats"], positional: 1 },
  run: async (flags) => {
    const [dir] = flags._;
    const model = textFlag(flags, "model");
    if (dir === undefined && model === undefined) {
      throw new UsageError(
        "The folder of a run must be given, or a model: bench throughput DIR --engine llama.cpp, or --model PATH",
      );
    }
    choiceOf("engine", textFlag(flags, "engine"), ["llama.cpp"]);
    const { timeCells, timeModel } = await import("./time_cells.ts");
    return dir === undefined ? await timeModel(model!, flags) : await timeCells(dir, flags);
  },
};
