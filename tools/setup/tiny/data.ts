/** Writes the committed texts and questions of the tiny world.
 *
 * @module
 */
import { makeQuestions, QUESTION_KINDS } from "../../../datasets/tiny_world/questions.ts";
import { tellDocuments } from "../../../datasets/tiny_world/stories.ts";
import type { Split } from "../../../datasets/tiny_world/telling.ts";

/** Documents of each committed text. A document has about 44 tokens of the bundled tokenizer. */
export const DOCUMENTS: Readonly<Record<Split, number>> = {
  train: 12_000,
  calibration: 1_200,
  validation: 600,
  test: 1_200,
};

/** Questions of each task. */
export const QUESTIONS = 400;

/** Seed of the committed files. The model sees another seed's documents. */
export const DATA_SEED = 1;

const jsonLines = (records: readonly unknown[]) => records.map((record) => `${JSON.stringify(record)}\n`).join("");

/** Content of every committed file by name, before compression. */
export function dataFiles(): Map<string, string> {
  const files = new Map<string, string>();
  for (const [split, count] of Object.entries(DOCUMENTS) as [Split, number][]) {
    const documents = tellDocuments({ split, count, seed: DATA_SEED });
    files.set(`${split}.jsonl${split === "train" ? ".gz" : ""}`, jsonLines(documents.map((text) => ({ text }))));
  }
  for (const kind of QUESTION_KINDS) {
    files.set(`${kind}.jsonl`, jsonLines(makeQuestions(kind, { split: "test", count: QUESTIONS, seed: DATA_SEED })));
  }
  return files;
}

async function gzip(text: string): Promise<Uint8Array> {
  const stream = new Blob([text]).stream().pipeThrough(new CompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** Writes every file into `folder`. */
export async function writeData(folder: URL): Promise<void> {
  await Deno.mkdir(folder, { recursive: true });
  for (const [name, text] of dataFiles()) {
    const bytes = name.endsWith(".gz") ? await gzip(text) : new TextEncoder().encode(text);
    await Deno.writeFile(new URL(name, folder), bytes);
  }
}
