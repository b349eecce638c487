/** Help texts of the command line, made from the schema.
 *
 * @module
 */
import { FAILURE_KINDS, type RunConfig } from "../../core/schema.ts";
import { FETCH_HELP } from "./fetch.ts";
import { SERVE_HELP } from "./serve.ts";
import { describeFlag, flagName, FLAGS } from "../configuration/flags.ts";

const USAGE = `Compares structured pruning methods for LLaMA-family models.

Usage: deno task bench [COMMAND] [FLAGS]

Commands:
  (none)                              run the preset \`default\` on the bundled model
  run [--preset NAME | --config FILE] [FLAGS]
                                      run a sweep, or go on with one, and write its report
  report DIR                          write the report again from the records in DIR
  compare DIR OTHER [--fail-if EXPR]  compare two runs cell by cell; exit code 1 when EXPR holds
  ls methods|tasks|presets|engines    list what there is
  validate DIR                        check the records in DIR
  reproduce RECORD                    run a cell again from its record, and say what differs
  export CELL --format hf|gguf        write a cell's model for transformers or llama.cpp
  throughput DIR --engine llama.cpp   time a run's models in llama.cpp, beside our numbers
  serve [--model PATH|--record FILE]  a model behind HTTP, for lm-evaluation-harness and others
  fetch NAME...                       bring data sets from the Hugging Face Hub into the cache
  COMMAND --help                      flags of a command

Flags:
  -h, --help                          show this
  --version                           show the version

Exit codes: 0 done, 1 a cell failed or a condition of \`compare\` holds, 2 wrong use, 130 stopped by Ctrl-C`;

const OTHER: Record<string, string> = {
  report: `Writes tables, charts and the HTML page from the records in DIR, which is left as it is otherwise.

Usage: deno task bench report DIR [--title TITLE] [--to FOLDER]
       deno task bench report DIR OTHER    compares two runs cell by cell, as Markdown

Flags:
  --title TITLE    title of the report (default: the run's name)
  --to FOLDER      folder for the report (default: DIR/report)`,
  compare: `Compares two runs cell by cell, as Markdown: results on the same data, with paired tests.

Usage: deno task bench compare DIR OTHER [--fail-if EXPR]

Flags:
  --fail-if EXPR   conditions on what OTHER changes, separated by commas: "perplexity > +2%, acc < -1"

A condition is NAME, one of < > <= >=, and a change: with % relative to DIR, without it in the result's own unit (points
for accuracies). NAME is perplexity, acc (every task), mean (mean accuracy), speed (tokens per second), or the name of a
corpus, task or throughput test. A cell of DIR that OTHER lacks counts as a condition that holds.

Exit codes: 0 no condition holds, 1 one holds, 2 a condition cannot be read or names nothing that both runs have`,
  ls: `Lists what there is.

Usage: deno task bench ls methods|tasks|presets|engines

  methods    pruning methods with their options, defaults and sources
  tasks      multiple-choice tasks and text corpora, with the files they are read from
  presets    shipped configurations for \`bench run --preset\`
  engines    engines, and for each whether it starts here and why not`,
  reproduce:
    `Runs the cell of a record again, without throughput, and says which of its results differ. On wasm the same
versions give the same numbers bit for bit; native engines do on the same machine with as many threads.

Usage: deno task bench reproduce DIR/records/NAME.json [--model PATH] [--data DIR]

Flags:
  --model PATH    where the model lies now (default: as in the record)
  --data DIR      where the data lies now (default: as in the run)

Exit codes: 0 the same results bit for bit, 1 some differ, 2 the cell cannot be run here`,
  validate: `Checks what DIR holds: every record against the schema and its checksum, run.json, and stored weights.

Usage: deno task bench validate DIR

Exit codes: 0 all files are sound, 1 some are not, 2 DIR holds no run`,
};

/** Two columns with the second one wrapped at `width`. */
function columns(rows: [left: string, right: string][], width = 100): string {
  const indent = 36;
  const lines: string[] = [];
  for (const [left, right] of rows) {
    let line = `  ${left}`;
    if (line.length >= indent) {
      lines.push(line);
      line = "";
    }
    line = line.padEnd(indent);
    for (const word of right.split(" ")) {
      if (line.length + word.length > width && line.trim() !== "") {
        lines.push(line.trimEnd());
        line = " ".repeat(indent);
      }
      line += `${word} `;
    }
    lines.push(line.trimEnd());
  }
  return lines.join("\n");
}

function runHelp(): string {
  const rows = (Object.keys(FLAGS) as (keyof RunConfig)[]).map((key): [string, string] => {
    const { description, fallback } = describeFlag(key);
    const { value } = FLAGS[key];
    const left = value === null ? `--${flagName(key)}, --no-${flagName(key)}` : `--${flagName(key)} ${value}`;
    return [left, fallback === undefined ? description : `${description} (default: ${fallback})`];
  });
  return `Runs a sweep: the dense model and every method at every level, one process per cell. Finished cells are skipped, so
the same command goes on where a stopped run ended; failed cells run again, or those alone that --retry names.

Usage: deno task bench run [--preset NAME | --config FILE] [FLAGS]

Flags:
${
    columns([
      ["--preset NAME", "shipped configuration, see `bench ls presets`"],
      ["--config FILE", "YAML configuration with the keys below in camelCase; flags override it"],
      ...rows,
      ["--timeout SECONDS", "longest time of a cell; a cell that reaches it is ended and recorded as failed"],
      [
        "--retry CLASSES",
        `failed cells that run again: ${["oom", ...FAILURE_KINDS].join(", ")}, none (default: all)`,
      ],
      ["--executor NAME", "local: processes of this machine; slurm: tasks of a job array (default: local)"],
      ["--partition P, --gres R, --time T", "with slurm: what a cell asks for"],
      ["--max-parallel N", "with slurm: cells at once"],
      ["--sbatch OPTIONS", 'with slurm: further options, such as "mem=64G exclusive"'],
      ["--dry-run", "with slurm: show the script, submit nothing"],
      ["--json", "progress as one JSON event per line"],
    ])
  }

Lists are separated by commas. Options of a method follow a colon: --methods random,flap:structure=UL-UM,biasCompensation=true
Without a preset or a file, throughput is measured unless --no-throughput is given, and \`out\` is results/NAME.`;
}

/** The help of `command`, or of the whole program. */
export function helpText(command?: string): string {
  if (command === "run") return runHelp();
  if (command === "serve") return SERVE_HELP;
  if (command === "fetch") return FETCH_HELP;
  return command === undefined ? USAGE : OTHER[command] ?? USAGE;
}
