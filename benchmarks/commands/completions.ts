/** `bench completions`: what a shell needs to complete commands, flags and values, made from the commands' own definitions.
 *
 * @module
 */
import type { z } from "zod";
import { unknownName, UsageError } from "../../core/util/errors.ts";
import { FAILURE_KINDS, type RunConfig, runConfigSchema } from "../../core/schema/schema.ts";
import { flagName, FLAGS } from "../configuration/flags.ts";
import type { Command } from "./command.ts";
import { presetNames } from "./ls.ts";

/** A command as a shell completes it. */
export interface Completed {
  name: string;
  summary: string;
  /** What may stand without a flag; files where there is none. */
  words: readonly string[];
  flags: readonly {
    /** `--engine`. */
    name: string;
    /** Whether a value follows. */
    takesValue: boolean;
    /** Known values; files where there is none. */
    values: readonly string[];
  }[];
}

/** Values that the schema of a run allows for a key, where they are few. */
function schemaValues(key: keyof RunConfig): readonly string[] {
  let schema: z.ZodType = runConfigSchema.shape[key];
  while (true) {
    const { innerType, element, out } = schema.def as { innerType?: z.ZodType; element?: z.ZodType; out?: z.ZodType };
    const inner = innerType ?? element ?? out;
    if (!inner) break;
    schema = inner;
  }
  const { options } = schema as { options?: unknown };
  return Array.isArray(options) ? options.filter((one) => typeof one === "string") : [];
}

/** Every command with its flags and values. `values` has those of flags that no schema knows, by flag. */
export function completed(
  commands: ReadonlyMap<string, Pick<Command, "summary" | "flags" | "choices">>,
  values: Readonly<Record<string, readonly string[]>> = {},
): Completed[] {
  const ofRun = Object.fromEntries(
    (Object.keys(FLAGS) as (keyof RunConfig)[]).map((key) => [flagName(key), schemaValues(key)]),
  );
  return [...commands].map(([name, { summary, flags, choices = {} }]) => {
    const { string = [], boolean = [], negatable = [] } = flags;
    const withValue = string.map((flag) => ({
      name: `--${flag}`,
      takesValue: true,
      values: choices[flag] ?? values[flag] ?? ofRun[flag] ?? [],
    }));
    const switches = [...boolean, ...negatable.map((flag) => `no-${flag}`), "help"].map((flag) => ({
      name: `--${flag}`,
      takesValue: false,
      values: [],
    }));
    return { name, summary, words: choices[""] ?? [], flags: [...withValue, ...switches] };
  });
}

const names = (commands: readonly Completed[]) => [...commands.map(({ name }) => name), "help"].join(" ");
const lines = (text: readonly string[]) => text.join("\n");

/** One `case` for each command, and one for each flag whose values are known; bash and zsh alike. */
function cases(commands: readonly Completed[]): string {
  return lines(commands.flatMap(({ name, words, flags }) => [
    ...flags.filter(({ takesValue }) => takesValue).map(({ name: flag, values }) =>
      `    "${name} ${flag}") offered="${values.join(" ")}" ;;`
    ),
    `    "${name} "*) offered="${[...words, ...flags.map(({ name }) => name)].join(" ")}" ;;`,
  ]));
}

/** Sets `offered` to what may follow in the command `$1` after the word `$2`. */
const chooser = (commands: readonly Completed[]) =>
  `_maskprune_bench_words() {
  offered=
  case "$1 $2" in
${cases(commands)}
    "help "*) offered="${commands.map(({ name }) => name).join(" ")}" ;;
  esac
}`;

function bash(commands: readonly Completed[]): string {
  return `# Completion of \`deno task bench\`, and of \`bench\` where that is an alias of it: eval "$(deno task -q bench completions bash)"
${chooser(commands)}
_maskprune_bench() {
  # $1: index of the command's word.
  local first=\${1:-1} offered cur=\${COMP_WORDS[COMP_CWORD]} before=
  [[ $first =~ ^[0-9]+$ ]] || first=1
  if ((COMP_CWORD == first)); then
    offered="${names(commands)}"
  else
    _maskprune_bench_words "\${COMP_WORDS[first]}" "\${COMP_WORDS[COMP_CWORD - 1]}"
  fi
  # Lists are separated by commas.
  [[ $cur == *,* ]] && before=\${cur%,*},
  COMPREPLY=($(compgen -P "$before" -W "$offered" -- "\${cur#"$before"}"))
}
_maskprune_deno_before=$(complete -p deno 2>/dev/null | sed -n 's/.* -F \\([^ ]*\\).*/\\1/p')
[[ $_maskprune_deno_before == _maskprune_deno ]] && _maskprune_deno_before=
_maskprune_deno() {
  local i
  COMPREPLY=()
  for ((i = 1; i < COMP_CWORD; i++)); do
    if [[ \${COMP_WORDS[i]} == bench && " \${COMP_WORDS[*]:1:i} " == *" task "* ]]; then
      [[ \${COMP_WORDS[i + 1]} == : ]] && ((i += 2))
      _maskprune_bench $((i + 1))
      return
    fi
  done
  if [[ -n $_maskprune_deno_before ]]; then "$_maskprune_deno_before" "$@"; fi
}
complete -o default -F _maskprune_deno deno
complete -o default -F _maskprune_bench bench
`;
}

function zsh(commands: readonly Completed[]): string {
  return `#compdef bench
# Completion of \`deno task bench\`, and of \`bench\` where that is an alias of it: eval "$(deno task -q bench completions zsh)"
${chooser(commands)}
_maskprune_bench() {
  # $1: index of the command's word.
  local first=\${1:-2} offered
  [[ $first == <-> ]] || first=2
  if ((CURRENT == first)); then
    offered="${names(commands)}"
  else
    _maskprune_bench_words "$words[first]" "$words[CURRENT-1]"
  fi
  # Lists are separated by commas.
  compset -P '*,'
  if [[ -n $offered ]]; then compadd -- \${=offered}; fi
  (( compstate[nmatches] )) || _files
}
_maskprune_deno() {
  local i
  for ((i = 2; i < CURRENT; i++)); do
    if [[ $words[i] == bench && " \${words[2,i]} " == *" task "* ]]; then _maskprune_bench $((i + 1)); return; fi
  done
  if (( $+functions[_deno] )); then _deno "$@"; else _files; fi
}
compdef _maskprune_bench bench
compdef _maskprune_deno deno
`;
}

const quoted = (text: string) => `'${text.replaceAll("\\", "\\\\").replaceAll("'", "\\'")}'`;

function fish(commands: readonly Completed[]): string {
  const seen = commands.map(({ name }) => name).join(" ");
  const rules = (program: string, isOurs: string) => {
    const line = (condition: string, rest: string) =>
      `complete -c ${program} -n ${quoted(`${isOurs}${condition}`)} ${rest}`;
    return [
      ...commands.map(({ name, summary }) =>
        line(`not __fish_seen_subcommand_from ${seen}`, `-f -a ${name} -d ${quoted(summary)}`)
      ),
      ...commands.flatMap(({ name, words, flags }) => [
        ...words.length > 0 ? [line(`__fish_seen_subcommand_from ${name}`, `-f -a ${quoted(words.join(" "))}`)] : [],
        ...flags.map(({ name: flag, takesValue, values }) =>
          line(
            `__fish_seen_subcommand_from ${name}`,
            `-l ${flag.slice(2)}${takesValue ? " -r" : ""}${
              values.length > 0 ? ` -f -a ${quoted(values.join(" "))}` : ""
            }`,
          )
        ),
      ]),
    ];
  };
  return lines([
    "# Completion of `deno task bench`, and of `bench` where that is an alias of it: deno task -q bench completions fish | source",
    ...rules("deno", "__fish_seen_subcommand_from task; and __fish_seen_subcommand_from bench; and "),
    ...rules("bench", ""),
    "",
  ]);
}

/** Shells, and what makes their scripts. */
export const SHELLS: Readonly<Record<string, (commands: readonly Completed[]) => string>> = { bash, zsh, fish };

const HELP =
  `Prints a script with which a shell completes commands, flags and values of \`deno task bench\`, also of \`bench\` where
that is an alias of it.

Usage: deno task bench completions bash|zsh|fish

  bash   eval "$(deno task -q bench completions bash)" in ~/.bashrc
  zsh    eval "$(deno task -q bench completions zsh)" in ~/.zshrc, after compinit
  fish   deno task -q bench completions fish > ~/.config/fish/conf.d/bench.fish`;

/** `bench completions`. */
export const completions = (commands: () => ReadonlyMap<string, Command>): Command => ({
  usage: Object.keys(SHELLS).join("|"),
  summary: "a script with which a shell completes commands, flags and values",
  help: () => HELP,
  flags: { positional: 1 },
  choices: { "": Object.keys(SHELLS) },
  run: async ({ _: [shell] }) => {
    if (shell === undefined) throw new UsageError(`A shell must be given: ${Object.keys(SHELLS).join(", ")}`);
    const script = SHELLS[shell];
    if (!script) throw unknownName("shell", shell, Object.keys(SHELLS));
    const [{ listMethods }, { corpora, tasks }] = await Promise.all([
      import("../../methods/mod.ts"),
      import("../../datasets/mod.ts"),
    ]);
    const values = {
      preset: presetNames(),
      methods: listMethods().map(({ id }) => id),
      tasks: [...tasks.keys()],
      perplexity: [...corpora.keys()],
      calibration: [...corpora.keys(), "self"],
      executor: ["local", "slurm"],
      retry: ["oom", ...FAILURE_KINDS, "none"],
    };
    console.log(script(completed(commands(), values)).trimEnd());
    return 0;
  },
});
