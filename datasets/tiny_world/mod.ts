/** The tiny world as a corpus and four tasks, for runs without downloads. The bundled model was trained on this text.
 *
 * Texts and questions of different splits share no sentence.
 *
 * @module
 */
import { z } from "zod";
import { choicesAfter, type Corpus, defineTask, type Task } from "../define.ts";

const shared = {
  source: "made for this project by its own generator, datasets/tiny_world",
  licence: "MIT",
  folder: new URL("./data/", import.meta.url),
} as const;

/** Little stories and descriptions of one small world. */
export const tinyWorld: Corpus = {
  ...shared,
  id: "tiny-world",
  summary: "Tiny world: little stories about one small valley, for the bundled model",
  textField: "text",
  splits: {
    train: ["train.jsonl.gz"],
    calibration: ["calibration.jsonl"],
    validation: ["validation.jsonl"],
    test: ["test.jsonl"],
  },
  evaluationSplit: "test",
  calibrationSplit: "calibration",
  joiner: "\n\n",
  calibrationJoiner: "\n\n",
  documents: (texts) => [...texts],
};

const question = z.looseObject({
  context: z.string(),
  choices: z.array(z.string()).min(2),
  gold: z.number().int().nonnegative(),
});

function defineQuestions(kind: string, summary: string): Task<typeof question> {
  return defineTask({
    ...shared,
    id: `tiny-${kind}`,
    version: 1,
    summary: `Tiny world: ${summary}`,
    split: "test",
    files: [`${kind}.jsonl`],
    record: question,
    toExample: ({ context, choices, gold }) => {
      if (gold >= choices.length) throw new RangeError(`gold is ${gold}: there are ${choices.length} choices`);
      return { choices: choicesAfter(context, choices), gold };
    },
    metrics: ["acc"],
  });
}

/** The four tasks. */
export const tinyTasks: readonly Task<typeof question>[] = [
  // Who lives where, what an animal eats, which tool a trade needs: four answers.
  defineQuestions("facts", "facts about people, villages, trades and animals"),
  // How many there are after some come or go: four answers.
  defineQuestions("counting", "counting, adding and taking away up to ten"),
  // Singular or plural verb, with other nouns in between: two answers.
  defineQuestions("agreement", "agreement of subject and verb across other nouns"),
  // The noun of a pronoun: three answers.
  defineQuestions("coreference", "who or what she, he, it and them are"),
];
