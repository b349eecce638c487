/** The data sets. Adding one is a file beside this one and a line in one of the two lists.
 *
 * @module
 */
import { unknownName } from "../core/util/errors.ts";
import { arcChallenge, arcEasy } from "./arc.ts";
import { bookcorpus } from "./bookcorpus.ts";
import { boolq } from "./boolq.ts";
import { c4 } from "./c4.ts";
import type { AnyTask, Corpus, FileTask, Task, TaskDefinition } from "./define.ts";
import { hellaswag } from "./hellaswag.ts";
import { fileTask } from "./lm_eval/task_files.ts";
import { openbookqa } from "./openbookqa.ts";
import { piqa } from "./piqa.ts";
import { ptbTestSpace, ptbValidNl2 } from "./ptb.ts";
import { fileCorpus, isFileName } from "./text_file.ts";
import { tinyTasks, tinyWorld } from "./tiny_world/mod.ts";
import { wikitext, wikitext2 } from "./wikitext2.ts";
import { winogrande } from "./winogrande.ts";

const byId = <Entry extends { id: string }>(entries: readonly Entry[]): ReadonlyMap<string, Entry> =>
  new Map(entries.map((entry) => [entry.id, entry]));

/** Multiple-choice tasks by id, in the order of the papers' tables. */
export const tasks: ReadonlyMap<string, Task> = byId<Task>([
  boolq,
  piqa,
  hellaswag,
  winogrande,
  arcEasy,
  arcChallenge,
  openbookqa,
  ...tinyTasks,
]);

/** Text corpora by id. */
export const corpora: ReadonlyMap<string, Corpus> = byId<Corpus>([
  wikitext2,
  wikitext,
  ptbTestSpace,
  ptbValidNl2,
  c4,
  bookcorpus,
  tinyWorld,
]);

const fileTasks = new Map<string, FileTask>();

/** Registers tasks defined by files; one replaces an earlier one with its id.
 * @throws {FileFormatError} when one needs an unsupported feature. */
export function addFileTasks(definitions: readonly TaskDefinition[]): void {
  for (const definition of definitions) {
    const task = fileTask(definition);
    fileTasks.set(task.id, task);
  }
}

/** The task `id` of a file. */
export const findFileTask = (id: string): FileTask | undefined => fileTasks.get(id);

/** The task `id` of a file or of this program.
 * @throws {UsageError} when there is none, with the nearest name. */
export function anyTask(id: string): AnyTask {
  return fileTasks.get(id) ?? getTask(id);
}

/** The task `id` of this program.
 * @throws {UsageError} when there is none, with the nearest name. */
export function getTask(id: string): Task {
  const task = tasks.get(id);
  if (!task) throw unknownName("task", id, [...tasks.keys(), ...fileTasks.keys()]);
  return task;
}

/** The corpus `id`; `file:PATH` is the text in a file.
 * @throws {UsageError} when there is none, with the nearest name. */
export function getCorpus(id: string): Corpus {
  if (isFileName(id)) return fileCorpus(id);
  const corpus = corpora.get(id);
  if (!corpus) throw unknownName("corpus", id, [...corpora.keys()]);
  return corpus;
}
