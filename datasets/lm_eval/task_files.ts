/** Task files of lm-evaluation-harness as tasks of this program: the tasks that files and names select, and the groups
 * that aggregate them.
 *
 * @module
 */
import { createHash } from "node:crypto";
import { join, resolve } from "node:path";
import { FileFormatError, unknownName, UsageError } from "../../core/util/errors.ts";
import { kindOfPath } from "../../core/util/paths.ts";
import type { FileTask, LoadedTask, TaskDefinition } from "../define.ts";
import { checkGroup, checkTask, type GroupConfig, type RawConfig, readConfig, type TaskConfig } from "./config.ts";
import { hubOf, readSplit } from "./documents.ts";
import { buildExamples, fewshotSplit } from "./prompts.ts";

/** Tasks whose metrics are aggregated. */
export interface TaskGroup {
  group: string;
  /** Ids of the tasks, including those of nested groups. */
  tasks: string[];
  /** Empty if the group only collects tasks. */
  metrics: GroupConfig["metrics"];
}

interface TaskSelection {
  /** Ids of all tasks to score, in order. */
  tasks: string[];
  definitions: TaskDefinition[];
  groups: TaskGroup[];
}

/** A file's unchecked task or group. */
interface Entry {
  path: string;
  raw: RawConfig;
  /** Whether the file itself was named, and not its folder. */
  isNamed: boolean;
}

interface Index {
  tasks: Map<string, Entry>;
  groups: Map<string, Entry>;
  tags: Map<string, string[]>;
}

const IGNORED = new Set(["__pycache__", ".ipynb_checkpoints"]);

function yamlFiles(folder: string): string[] {
  const entries = [...Deno.readDirSync(folder)].sort((a, b) => a.name < b.name ? -1 : 1);
  return entries.flatMap(({ name, isDirectory }) => {
    const path = join(folder, name);
    if (isDirectory) return IGNORED.has(name) ? [] : yamlFiles(path);
    return name.endsWith(".yaml") || name.endsWith(".yml") ? [path] : [];
  });
}

/** Reads files and folders. In a folder, files that define nothing (parts to include) are skipped. */
function indexFiles(paths: readonly string[]): Index {
  const index: Index = { tasks: new Map(), groups: new Map(), tags: new Map() };
  const add = (path: string, isNamed: boolean) => {
    const raw = readConfig(path);
    const { group, task } = raw;
    const [kind, name] = typeof group === "string" ? ["groups" as const, group] : ["tasks" as const, task];
    if (typeof name !== "string") {
      if (isNamed) throw new FileFormatError(path, "names neither a task nor a group");
      return;
    }
    const other = index[kind].get(name);
    if (other && other.path !== path) {
      throw new UsageError(`Two task files define "${name}": ${other.path} and ${path}; use one of them`);
    }
    index[kind].set(name, { path, raw, isNamed: isNamed || other?.isNamed === true });
    if (kind === "groups" || other) return;
    for (const tag of raw.tag === undefined || raw.tag === null ? [] : [raw.tag].flat()) {
      index.tags.set(String(tag), [...index.tags.get(String(tag)) ?? [], name].sort());
    }
  };
  for (const path of paths.map((one) => resolve(one))) {
    if (kindOfPath(path) !== "folder") {
      add(path, true);
      continue;
    }
    const files = yamlFiles(path);
    if (files.length === 0) {
      throw new UsageError(`The folder "${path}" has no task file: give a folder with .yaml files`);
    }
    for (const file of files) add(file, false);
  }
  return index;
}

class Selection {
  readonly tasks = new Set<string>();
  readonly definitions = new Map<string, TaskDefinition>();
  readonly groups = new Map<string, TaskGroup>();

  constructor(readonly index: Index, readonly builtIn: readonly string[]) {}

  /** Adds the task, group or tag `name`; returns the ids of its tasks.
   * @throws {UsageError} when the name is unknown. */
  add(name: string, overrides: RawConfig = {}, inside: readonly string[] = []): string[] {
    const { index } = this;
    const task = index.tasks.get(name);
    if (task) return [this.addTask(task.path, { ...task.raw, ...overrides })];
    const group = index.groups.get(name);
    if (group) return this.addGroup(name, group.path, group.raw, overrides, inside);
    const tagged = index.tags.get(name);
    if (tagged) return tagged.flatMap((one) => this.add(one, overrides, inside));
    if (this.builtIn.includes(name)) {
      this.tasks.add(name);
      return [name];
    }
    throw unknownName("task", name, [
      ...this.builtIn,
      ...index.tasks.keys(),
      ...index.groups.keys(),
      ...index.tags.keys(),
    ]);
  }

  private addTask(path: string, config: RawConfig): string {
    const { task } = checkTask(path, config);
    const other = this.definitions.get(task);
    const own = plain(config);
    if (other && JSON.stringify(other.config) !== JSON.stringify(own)) {
      throw new UsageError(`The task "${task}" is selected with two configurations (${path}): rename one of them`);
    }
    this.definitions.set(task, { path, config: own });
    this.tasks.add(task);
    return task;
  }

  private addGroup(
    name: string,
    path: string,
    raw: RawConfig,
    overrides: RawConfig,
    inside: readonly string[],
  ): string[] {
    if (inside.includes(name)) throw new FileFormatError(path, `the group "${name}" contains itself`);
    const group = checkGroup(path, raw);
    const merged = { ...group.overrides, ...overrides };
    const within = [...inside, name];
    const tasks = group.task.flatMap((member) => this.addMember(member, { name, path, merged, within }));
    this.groups.set(name, { group: name, tasks: [...new Set(tasks)], metrics: group.metrics });
    return tasks;
  }

  private addMember(
    member: GroupConfig["task"][number],
    { name, path, merged, within }: { name: string; path: string; merged: RawConfig; within: string[] },
  ): string[] {
    if (typeof member === "string") return this.add(member, merged, within);
    const { group, task, ...changes } = member;
    if (typeof group === "string") {
      if (this.index.groups.has(group)) return this.add(group, { ...merged, ...changes }, within);
      return this.addGroup(`${name}::${group}`, path, { ...member, group: `${name}::${group}` }, merged, within);
    }
    if (typeof task !== "string") {
      throw new FileFormatError(path, `a member of "${name}" names neither a task nor a group`);
    }
    const known = this.index.tasks.has(task) || this.index.groups.has(task) || this.index.tags.has(task);
    if (known || this.builtIn.includes(task)) return this.add(task, { ...merged, ...changes }, within);
    return [this.addTask(path, { ...merged, ...changes, task: `${name}:${task}` })];
  }
}

/** The configuration as JSON, without keys that only the harness uses: they may hold Python functions. */
function plain(config: RawConfig): RawConfig {
  const { doc_to_decontamination_query: _query, generation_kwargs: _generation, ...used } = config;
  return JSON.parse(JSON.stringify(used));
}

/** The tasks that files, folders and names select.
 *
 * Tasks of a named file are added to `names`. Of a folder, `names` selects tasks, groups or tags; without any such
 * name, all are selected.
 * @throws {UsageError} when a file cannot be read, a name is unknown, or a task needs an unsupported feature. */
export function selectTasks(
  paths: readonly string[],
  names: readonly string[],
  builtIn: readonly string[] = [],
): TaskSelection {
  const index = indexFiles(paths);
  const selection = new Selection(index, builtIn);
  for (const name of names) selection.add(name);
  const entries = [...index.groups, ...index.tasks];
  for (const [name, { isNamed }] of entries) if (isNamed && !names.includes(name)) selection.add(name);
  const fromFolders = entries.filter(([, { isNamed }]) => !isNamed).map(([name]) => name);
  const isNamedBefore = [...fromFolders, ...index.tags.keys()].some((name) => names.includes(name));
  if (!isNamedBefore) { for (const name of fromFolders) selection.add(name); }
  return {
    tasks: [...selection.tasks],
    definitions: [...selection.definitions.values()],
    groups: [...selection.groups.values()],
  };
}

/** SHA-256 of a task's configuration with its includes and its group's overrides, hex. The file's path does not
 * matter. */
export function definitionHash({ config }: TaskDefinition): string {
  return createHash("sha256").update(JSON.stringify(config)).digest("hex");
}

async function loadFileTask(
  path: string,
  config: TaskConfig,
  { limit, fewshot = 0, ...places }: Parameters<FileTask["load"]>[0],
): Promise<LoadedTask> {
  const split = config.test_split || config.validation_split || "";
  const { records, dataset } = await readSplit(path, config, split, places);
  const isRolling = config.output_type === "loglikelihood_rolling";
  // As in the harness, 0 in the task file cannot be overridden.
  const count = isRolling || config.num_fewshot === 0 ? 0 : fewshot > 0 ? fewshot : config.num_fewshot ?? 0;
  const shown = records.slice(0, limit);
  const from = count === 0 ? null : poolSplit(config);
  const pool = from === null ? undefined : await readSplit(path, config, from, places);
  try {
    return {
      examples: buildExamples(config, shown, { pool: pool?.records ?? config.fewshot_config?.samples ?? [], count }),
      records: [...shown],
      total: records.length,
      numFewshot: count,
      dataset,
      ...pool && { fewshotDataset: pool.dataset },
    };
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw new FileFormatError(path, `task "${config.task}", ${dataset.source}, ${error.message}`);
  }
}

/** The split of the solved examples; null if the task file holds them itself. */
function poolSplit(config: TaskConfig): string | null {
  const named = fewshotSplit(config);
  if (named === null && config.fewshot_config?.samples) return null;
  return named || config.training_split || config.validation_split || config.test_split || "";
}

/** The task of a definition.
 * @throws {FileFormatError} when it needs an unsupported feature. */
export function fileTask(definition: TaskDefinition): FileTask {
  const { path } = definition;
  const config = checkTask(path, definition.config);
  return {
    id: config.task,
    summary: `${config.output_type} on ${config.dataset_path}, as ${path} defines it`,
    source: `lm-evaluation-harness task file ${path}`,
    licence: "see the data set's card",
    version: Number((config.metadata as { version?: unknown } | null | undefined)?.version) || 0,
    outputType: config.output_type,
    metrics: config.metrics,
    definition,
    ...hubOf(config) && { hub: hubOf(config) },
    splits: [config.test_split || config.validation_split, poolSplit(config)]
      .flatMap((split) => split ? [split] : []),
    load: (options) => loadFileTask(path, config, options),
  };
}
