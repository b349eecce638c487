/** `bench ls`: methods, training keys, tasks, presets and engines as text.
 *
 * @module
 */
import { join } from "node:path";
import type { z } from "zod";
import { unknownName, UsageError } from "../../core/util/errors.ts";
import { entry } from "../../core/util/indexing.ts";
import { ENGINE_NAMES, trainingSchema } from "../../core/schema/schema.ts";
import type { Command } from "./command.ts";

/** Folder of the shipped configurations. */
const PRESETS = join(import.meta.dirname!, "../presets");

/** Names of the shipped configurations; those of papers' tables begin with `paper/`. */
export function presetNames(): string[] {
  const names = (folder: string) =>
    [...Deno.readDirSync(join(PRESETS, folder))].flatMap(({ name }) =>
      name.endsWith(".yaml") ? [`${folder}${name.slice(0, -5)}`] : []
    ).sort();
  return [...names(""), ...names("paper/")];
}

/** Path of the shipped configuration `name`.
 * @throws {UsageError} when there is none. */
export function presetPath(name: string): string {
  const names = presetNames();
  if (!names.includes(name)) throw unknownName("preset", name, names);
  return join(PRESETS, `${name}.yaml`);
}

/** A line for every key of `options`: its default, description and values. */
function optionLines(options: z.ZodType, indent: string): string[] {
  const { shape = {} } = options as { shape?: Record<string, z.ZodType> };
  const defaults = options.parse({}) as Record<string, unknown>;
  return Object.entries(shape).map(([name, field]) => {
    const values = innermost(field) as { options?: unknown[] };
    const choice = values.options ? `; one of ${values.options.join(", ")}` : "";
    const fallback = JSON.stringify(defaults[name]);
    return `${indent}${name}${fallback ? `=${fallback}` : ""}  ${field.description ?? ""}${choice}`;
  });
}

const LISTS: Record<string, () => string | Promise<string>> = {
  methods: async () => {
    const { listMethods } = await import("../../methods/mod.ts");
    return listMethods().map(({ id, summary, source, options }) =>
      [id, `  ${summary}`, `  ${source}`, ...optionLines(options, "    ")].join("\n")
    ).join("\n\n");
  },
  training: () =>
    ["Keys of --training KEY=VALUE,… and of `training` in a file:", ...optionLines(trainingSchema, "  ")]
      .join("\n"),
  tasks: async () => {
    const { corpora, tasks } = await import("../../datasets/mod.ts");
    const listed = (
      { id, summary, licence, folder }: { id: string; summary: string; licence: string; folder?: URL },
      files: readonly string[],
    ) => `  ${id}\n    ${summary} (${licence})\n    ${folder ? "bundled" : `from --data: ${files.join(" or ")}`}`;
    return [
      "Multiple-choice tasks (--tasks):",
      ...[...tasks.values()].map((task) => listed(task, task.files)),
      "",
      "Corpora (--perplexity, --calibration):",
      ...[...corpora.values()].map((corpus) =>
        listed(corpus, [...entry(corpus.splits, corpus.evaluationSplit), ...corpus.wholeFiles ?? []])
      ),
    ].join("\n");
  },
  presets: () =>
    presetNames().map((name) => {
      const [comment = ""] = /^(# .*\n)+/.exec(Deno.readTextFileSync(presetPath(name))) ?? [];
      // One sentence.
      return `${name}\n  ${comment.replaceAll(/\n?# /g, " ").trim().replace(/(?<=\.)\s.*$/s, "")}`;
    }).join("\n"),
  engines: async () => {
    const { probeEngine } = await import("../configuration/engine_probe.ts");
    const lines: string[] = [];
    for (const name of ENGINE_NAMES) {
      try {
        const { library, device } = await probeEngine(name);
        lines.push(name, `  starts: ${library}; ${device}`);
      } catch (error) {
        lines.push(name, `  does not start: ${(error as Error).message}`);
      }
    }
    return lines.join("\n");
  },
};

function innermost(schema: z.ZodType): z.ZodType {
  const { innerType } = schema.def as { innerType?: z.ZodType };
  return innerType ? innermost(innerType) : schema;
}

const HELP = `Lists methods, training keys, tasks, presets or engines.

Usage: deno task bench ls methods|training|tasks|presets|engines

  methods    pruning methods with their options, defaults and sources
  training   keys of --training with their defaults
  tasks      multiple-choice tasks and text corpora, with the files they are read from
  presets    configurations for \`bench run --preset\`
  engines    engines, and whether each starts on this machine`;

/** `bench ls`. */
export const ls: Command = {
  usage: "WHAT",
  summary: "list methods, training keys, tasks, presets or engines",
  help: () => HELP,
  flags: { positional: 1 },
  run: async ({ _: [what] }) => {
    if (what === undefined) throw new UsageError(`Nothing to list given: ${Object.keys(LISTS).join(", ")}`);
    const list = LISTS[what];
    if (!list) throw unknownName("list", what, Object.keys(LISTS));
    console.log(await list());
    return 0;
  },
};
