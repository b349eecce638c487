/** Multiple-choice questions about the tiny world: the last gap of a document, with answers to choose from.
 *
 * @module
 */
import { at } from "../../core/util/indexing.ts";
import { createRng, type Rng } from "../../core/util/rng.ts";
import { tellDescription } from "./agreement.ts";
import { askFact } from "./facts.ts";
import { tellCounting, tellReference } from "./stories.ts";
import { pickSome, type Split, tellDocument, type Teller } from "./telling.ts";

/** The four tasks. */
export const QUESTION_KINDS = ["facts", "counting", "agreement", "coreference"] as const;
/** One of the four tasks. */
export type QuestionKind = (typeof QUESTION_KINDS)[number];

/** A question as its JSON Lines record. What was told is `context` + space + the choice at `gold` + `after`. */
export interface Question {
  id: string;
  context: string;
  choices: string[];
  /** Index of the right choice. */
  gold: number;
  /** Rest of the sentence; not scored. */
  after: string;
  /** What kind of question within the task. */
  category: string;
}

interface Category {
  name: string;
  /** Questions of this category among ten. */
  share: number;
  tell(teller: Teller): void;
}

const CATEGORIES: Readonly<Record<QuestionKind, readonly Category[]>> = {
  facts: [
    { name: "person", share: 5, tell: (teller) => askFact(teller, "person") },
    { name: "village", share: 1, tell: (teller) => askFact(teller, "village") },
    { name: "trade", share: 2, tell: (teller) => askFact(teller, "trade") },
    { name: "animal", share: 2, tell: (teller) => askFact(teller, "animal") },
  ],
  counting: [
    { name: "sum", share: 6, tell: (teller) => tellCounting(teller, "sum") },
    { name: "together", share: 2, tell: (teller) => tellCounting(teller, "together") },
    { name: "herd", share: 1, tell: (teller) => tellCounting(teller, "herd") },
    { name: "roll-call", share: 1, tell: (teller) => tellCounting(teller, "roll-call") },
  ],
  agreement: [
    { name: "first", share: 5, tell: (teller) => tellDescription(teller, 1) },
    { name: "second", share: 5, tell: (teller) => tellDescription(teller, 2) },
  ],
  coreference: [
    { name: "owners", share: 4, tell: (teller) => tellReference(teller, "owners") },
    { name: "shopping", share: 3, tell: (teller) => tellReference(teller, "shopping") },
    { name: "hand-over", share: 3, tell: (teller) => tellReference(teller, "hand-over") },
  ],
};

/** Most wrong answers that are offered. */
const MOST_WRONG = 3;

function toQuestion(rng: Rng, { sentences, cloze }: Teller, id: string, category: string): Question {
  const { at: place, cloze: { before, answer, after, wrong } } = cloze!;
  // The sentence as it was told: its first letter may have been raised.
  const gap = at(sentences, place).slice(0, before.length);
  const choices = rng.shuffle([answer, ...pickSome(rng, wrong, MOST_WRONG)]);
  return {
    id,
    context: [...sentences.slice(0, place), gap].join(" "),
    choices,
    gold: choices.indexOf(answer),
    after,
    category,
  };
}

/** `count` different questions of one kind. Every sentence of a question, its gap filled rightly, belongs to `split`:
 * none of them occurs in a text of another split.
 *
 * Choices: 4 for facts and counting, 3 for coreference, 2 for agreement. */
export function makeQuestions(kind: QuestionKind, { split, count, seed }: {
  split: Split;
  count: number;
  seed: number;
}): Question[] {
  const rng = createRng(seed, `tiny-world/${kind}/${split}`);
  const deck = CATEGORIES[kind].flatMap((category) => Array<Category>(category.share).fill(category));
  const questions = new Map<string, Question>();
  while (questions.size < count) {
    const { name, tell } = at(deck, questions.size % deck.length);
    const question = toQuestion(rng, tellDocument(rng, split, tell), `${kind}-${questions.size + 1}`, name);
    if (!questions.has(question.context)) questions.set(question.context, question);
  }
  return [...questions.values()];
}
