/** How a text is told: sentence by sentence, each in the split that its own words name.
 *
 * A sentence belongs to one split for ever, decided by a hash of its text. A teller redraws the wording until the
 * sentence falls into the wanted split, so texts of different splits can share no sentence, whatever their seeds.
 *
 * @module
 */
import { at } from "../../core/util/indexing.ts";
import type { Rng } from "../../core/util/rng.ts";

/** The four splits. */
export const SPLITS = ["train", "calibration", "validation", "test"] as const;
/** One of the four splits. */
export type Split = (typeof SPLITS)[number];

/** Of sixteen equal shares of all sentences, ten are for training and two for each other split. */
const SPLIT_OF_SHARE: readonly Split[] = [
  ...Array<Split>(10).fill("train"),
  ...Array<Split>(2).fill("calibration"),
  ...Array<Split>(2).fill("validation"),
  ...Array<Split>(2).fill("test"),
];

/** The split that a sentence belongs to: FNV-1a of its UTF-16 code units, mixed (MurmurHash3's finaliser), modulo 16. */
export function splitOf(sentence: string): Split {
  let hash = 0x811c9dc5;
  for (let i = 0; i < sentence.length; i++) hash = Math.imul(hash ^ sentence.charCodeAt(i), 0x01000193);
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return at(SPLIT_OF_SHARE, (hash ^ (hash >>> 16)) & 15);
}

/** A sentence with a gap: `before` + space + `answer` + `after`. */
export interface Cloze {
  before: string;
  answer: string;
  /** Rest of the sentence with its full stop. */
  after: string;
  /** Answers that would be false or ungrammatical here. */
  wrong: string[];
}

/** The telling of one document. */
export interface Teller {
  rng: Rng;
  split: Split;
  /** What has been told so far. */
  sentences: string[];
  /** The latest cloze told, with its index in `sentences`. */
  cloze?: { at: number; cloze: Cloze };
  /** Draws wordings until one belongs to the split, and tells it. */
  say(draw: () => string): void;
  /** The same for a sentence with a gap. */
  ask(draw: () => Cloze): void;
}

/** Thrown when no wording of a sentence belongs to the split; the document is then drawn anew. */
class Speechless extends Error {}

const MOST_DRAWS = 60;
const MOST_DOCUMENTS = 10_000;

function createTeller(rng: Rng, split: Split): Teller {
  const sentences: string[] = [];
  const teller: Teller = {
    rng,
    split,
    sentences,
    say: (draw) => {
      for (let i = 0; i < MOST_DRAWS; i++) {
        const sentence = capitalised(draw());
        // A sentence is told once per document: repetition would make later sentences too easy.
        if (splitOf(sentence) === split && !sentences.includes(sentence)) {
          sentences.push(sentence);
          return;
        }
      }
      throw new Speechless();
    },
    ask: (draw) => {
      let cloze: Cloze;
      teller.say(() => {
        cloze = draw();
        return `${cloze.before} ${cloze.answer}${cloze.after}`;
      });
      teller.cloze = { at: sentences.length - 1, cloze: cloze! };
    },
  };
  return teller;
}

/** Tells one document: `tell` is called with a fresh teller until every sentence could be told.
 * @throws {RangeError} when `tell` has no wording for a sentence of this split. */
export function tellDocument(rng: Rng, split: Split, tell: (teller: Teller) => void): Teller {
  for (let i = 0; i < MOST_DOCUMENTS; i++) {
    const teller = createTeller(rng, split);
    try {
      tell(teller);
      return teller;
    } catch (error) {
      if (!(error instanceof Speechless)) throw error;
    }
  }
  throw new RangeError(`No wording belongs to the split "${split}" in ${MOST_DOCUMENTS} documents`);
}

/** `text` with its first letter in upper case. */
export function capitalised(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/** `noun` with `a` or `an`. */
export function withArticle(noun: string): string {
  return `${/^[aeiou]/.test(noun) ? "an" : "a"} ${noun}`;
}

/** `a, b and c`. */
export function listed(items: readonly string[]): string {
  return items.length < 2 ? items.join("") : `${items.slice(0, -1).join(", ")} and ${items.at(-1)}`;
}

const NUMBERS = "no one two three four five six seven eight nine ten".split(" ");

/** The number in words, 0 (`no`) to 10. */
export function numberWord(n: number): string {
  return at(NUMBERS, n);
}

/** `count` different items of `items`, in random order. */
export function pickSome<T>(rng: Rng, items: readonly T[], count: 1): [T];
export function pickSome<T>(rng: Rng, items: readonly T[], count: 2): [T, T];
export function pickSome<T>(rng: Rng, items: readonly T[], count: number): T[];
export function pickSome<T>(rng: Rng, items: readonly T[], count: number): T[] {
  return rng.shuffle(items).slice(0, count);
}

/** `true` with probability `p`. */
export function chance(rng: Rng, p: number): boolean {
  return rng.uniform() < p;
}
