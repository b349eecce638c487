/** A user's text file as a corpus: `file:PATH`, or `file:PATH#FIELD` if the records' text is in another field than
 * `text`.
 *
 * @module
 */
import { basename, dirname, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { MissingDataError } from "../core/util/errors.ts";
import { isFile } from "../core/util/paths.ts";
import type { Corpus } from "./define.ts";

/** Whether a corpus's name means a file. */
export const isFileName = (name: string): boolean => name.startsWith("file:");

/** `path` of a user's file, and the `field` of its records, if the name has one; undefined for another corpus. */
export const filePlace = (name: string): Partial<Record<"path" | "field", string>> | undefined =>
  /^file:(?<path>.*?)(?:#(?<field>[^#/]+))?$/s.exec(name)?.groups;

/** The corpus in a file. Plain text is one document. In JSON Lines (`.jsonl`, `.json`, each also `.gz`) and Parquet
 * each record is a document, and an empty line separates two. Calibration draws from all of it.
 * @throws {MissingDataError} when there is no such file. */
export function fileCorpus(name: string): Corpus {
  const { path: place = "", field = "text" } = filePlace(name) ?? {};
  const path = resolve(place);
  if (!isFile(path)) throw new MissingDataError(`The text file "${place}" (${name}) does not exist`);
  const isPlain = !/\.(jsonl|json|parquet)(\.gz)?$/.test(path);
  const joiner = isPlain ? "\n" : "\n\n";
  return {
    id: name,
    summary: `text of ${place}`,
    source: "a file of the user's",
    licence: "not stated",
    folder: pathToFileURL(`${dirname(path)}/`),
    textField: field,
    splits: { all: [basename(path)] },
    evaluationSplit: "all",
    calibrationSplit: "all",
    joiner,
    calibrationJoiner: joiner,
    documents: (texts) => isPlain ? [texts.join(joiner)] : [...texts],
  };
}
