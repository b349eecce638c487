/** `bench throughput`: models in our engine and in another one.
 *
 * @module
 */
import { UsageError } from "../../core/util/errors.ts";
import { choiceOf, type Command, textFlag } from "./command.ts";

const HELP = `Times models alternately in our engine and in llama.cpp, with the same files, threads and repeats.

Usage: deno task bench throughput DIR --engine llama.cpp [FLAGS]

Both programs use the CPU. Cells with layers of unequal width are left out.

Flags:
  --engine NAME        llama.cpp, through node-llama-cpp, which is downloaded on first use
  --model PATH         the dense model (default: the path in the run)
  --dtype TYPE         type of the weights: f32, f16, bf16, q8_0 (default: f32)

Tokens and repeats are those of the run, else 512 for the prompt, 128 generated one at a time, and 5 repeats.
The table goes to standard output, the raw samples of a run to DIR/throughput-llama.cpp.json.

Exit codes: 0 done, 2 nothing could be timed`;

/** `bench throughput`. */
export const throughput: Command = {
  usage: "DIR --engine llama.cpp",
  summary: "time a run's models in our engine and in llama.cpp, in turns",
  help: () => HELP,
  flags: { string: ["engine", "model", "dtype"], positional: 1 },
  run: async (flags) => {
    const [dir] = flags._;
    if (dir === undefined) throw new UsageError("Nothing to time: give the folder of a run");
    choiceOf("engine", textFlag(flags, "engine"), ["llama.cpp"]);
    const { timeCells } = await import("./time_models.ts");
    await timeCells(dir, flags);
    return 0;
  },
};
