/** Descriptions in which verbs agree with subjects, often with a noun of the other number in between.
 *
 * @module
 */
import type { Rng } from "../../core/util/rng.ts";
import { chance, type Cloze, pickSome, type Teller } from "./telling.ts";
import { PEOPLE, VILLAGES } from "./world.ts";

interface Noun {
  singular: string;
  plural: string;
  alive: boolean;
}

interface Setting {
  /** The place with its preposition, before `of` and a village. */
  place: string;
  nouns: readonly Noun[];
  spots: readonly string[];
}

/** `cat fox/foxes`: a plural is given where it takes more than an s. */
function nouns(alive: boolean, words: string): Noun[] {
  return words.split(" ").map((word) => {
    const [singular = word, plural = `${singular}s`] = word.split("/");
    return { singular, plural, alive };
  });
}

function setting(place: string, alive: string, things: string, spots: readonly string[]): Setting {
  return { place, nouns: [...nouns(true, alive), ...nouns(false, things)], spots };
}

/** Where a description plays, and what is to be seen there. */
const SETTINGS: readonly Setting[] = [
  setting("at the harbour", "sailor gull fisher child/children", "boat net barrel rope", [
    "on the quay",
    "by the water",
  ]),
  setting("on the farm", "cow horse goose/geese farmer", "cart fence barrel plough", ["in the yard", "under the oak"]),
  setting("at the market", "baker child/children porter dog", "stall basket jug cart", ["in the shade", "by the well"]),
  setting("at the school", "teacher girl boy mouse/mice", "bench/benches lamp map clock", [
    "in the hall",
    "at the door",
  ]),
  setting("in the forest", "fox/foxes owl hunter bear", "tree hut log bush/bushes", ["on the hill", "by the stream"]),
  setting("in the garden", "bee gardener cat guest", "rose rake bush/bushes bench/benches", [
    "in the sun",
    "by the wall",
  ]),
  setting("at the workshop", "carpenter painter helper cat", "saw table brush/brushes lamp", [
    "in the corner",
    "at the window",
  ]),
  setting("at the mill", "miller donkey duck guest", "wheel sack ladder door", ["by the stream", "in the yard"]),
];

const BESIDE = ["beside", "near", "behind", "in front of", "next to", "between"] as const;

/** Verb forms (singular, plural) with what may follow. */
type Predicate = readonly [singular: string, plural: string, rest: readonly string[]];

const NEW_OWNER = ["a name", "a good place", "a new owner", "a long story", "no equal in the valley"];
const to = (places: readonly { name: string }[], how: string) => places.map(({ name }) => `${how} ${name}`);

/** What is said of things, and of people and animals. */
const THINGS = {
  adjectives: ["old", "new", "clean", "dusty", "wet", "heavy", "plain", "pretty"],
  looks: ["old", "new", "clean", "dusty", "wet", "heavy", "strong", "safe", "worn"],
  verbs: [
    ["has", "have", NEW_OWNER],
    ["needs", "need", ["some paint", "a repair", "a good wash", "some care", "a new place"]],
    ["belongs", "belong", to(PEOPLE, "to")],
    ["catches", "catch", ["the eye", "the wind", "the light", "the first sun"]],
    ["stands", "stand", ["in the way", ...to(PEOPLE, "next to")]],
  ] satisfies Predicate[],
};
const BEINGS = {
  adjectives: ["young", "quiet", "little", "tired", "clever", "proud", "cheerful"],
  looks: ["tired", "happy", "ready", "hungry", "cold", "busy", "proud", "calm", "lost"],
  verbs: [
    ["has", "have", NEW_OWNER.slice(0, 2)],
    ["waits", "wait", to(PEOPLE, "for")],
    ["likes", "like", ["the rain", "the sun", "the smell of bread", "music", "company", ...to(PEOPLE, "to see")]],
    ["wants", "want", ["some bread", "some rest", "a drink of water", "to go home", "to stay", "to play"]],
    ["knows", "know", to(VILLAGES, "the way to")],
    ["comes", "come", to(VILLAGES, "from")],
  ] satisfies Predicate[],
};

interface Subject {
  phrase: string;
  plural: boolean;
  alive: boolean;
}

const form = (noun: Noun, plural: boolean) => plural ? noun.plural : noun.singular;

/** A noun phrase whose number shows only on its head; `other` gets in the way. */
function subject(rng: Rng, noun: Noun, other: Noun): Subject {
  const plural = chance(rng, 0.5);
  const otherPlural = chance(rng, 0.7) ? !plural : plural;
  const { alive } = noun;
  const adjective = chance(rng, 0.4) ? `${rng.pick(alive ? BEINGS.adjectives : THINGS.adjectives)} ` : "";
  const head = `the ${adjective}${form(noun, plural)}`;
  const kinds = [
    "plain",
    "owned",
    "beside",
    "beside",
    "counted",
    "both",
    ...(alive ? ["met"] : []),
    ...(other.alive ? ["liked"] : []),
  ];
  switch (rng.pick(kinds)) {
    case "beside": {
      const beside = rng.pick(BESIDE);
      // `between` needs two things.
      return { phrase: `${head} ${beside} the ${form(other, otherPlural || beside === "between")}`, plural, alive };
    }
    case "met": {
      const met = rng.pick(
        other.alive ? ["met", "followed", "heard", "surprised"] : ["passed", "found", "saw", "touched"],
      );
      return { phrase: `${head} that ${met} the ${form(other, otherPlural)}`, plural, alive };
    }
    case "liked": {
      const [like, likes] = rng.pick([["like", "likes"], ["see", "sees"], ["know", "knows"], [
        "look for",
        "looks for",
      ]]);
      return { phrase: `${head} that the ${form(other, otherPlural)} ${otherPlural ? like : likes}`, plural, alive };
    }
    case "counted": {
      const many = ["all of the", "some of the", "many of the", "both of the", "most of the"];
      const one = ["one of the", "each of the", "only one of the", "every one of the"];
      return { phrase: `${rng.pick(plural ? many : one)} ${adjective}${noun.plural}`, plural, alive };
    }
    case "both":
      return chance(rng, 0.5)
        ? { phrase: `the ${noun.singular} and the ${other.singular}`, plural: true, alive: alive && other.alive }
        : { phrase: `every ${adjective}${noun.singular}`, plural: false, alive };
    case "owned":
      return { phrase: `${head} of ${rng.pick(PEOPLE).name}`, plural, alive };
    default:
      return { phrase: head, plural, alive };
  }
}

/** One sentence with a gap for the verb. */
function agreeing(rng: Rng, { nouns, spots }: Setting, past: boolean): Cloze {
  const [noun, other] = pickSome(rng, nouns, 2);
  const { phrase, plural, alive } = subject(rng, noun, other);
  const { looks, verbs } = alive ? BEINGS : THINGS;
  const present: readonly Predicate[] = [
    ["is", "are", [...looks, ...spots]],
    ["looks", "look", looks],
    ["seems", "seem", looks],
    ["stays", "stay", spots],
    ...verbs,
  ];
  const [singularVerb, pluralVerb, rest] = past
    ? ["was", "were", [...looks, ...spots, "still there", "gone"]]
    : rng.pick(present);
  const opener = chance(rng, 0.2) ? rng.pick(["today ", "as always ", "at this hour ", "around noon "]) : "";
  return {
    before: `${past ? "" : opener}${phrase}`,
    answer: plural ? pluralVerb : singularVerb,
    after: ` ${rng.pick(rest)}.`,
    wrong: [plural ? singularVerb : pluralVerb],
  };
}

/** A description of a place: one opening and `count` sentences about what is there. */
export function tellDescription(teller: Teller, count: number): void {
  const { rng } = teller;
  const where = rng.pick(SETTINGS);
  const past = chance(rng, 0.25);
  const village = rng.pick(VILLAGES);
  teller.say(() => {
    const day = rng.pick(["quiet", "busy", "warm", "cold", "fine", "grey", "merry"]);
    const part = rng.pick(["morning", "day", "evening", "hour", "afternoon", "Sunday", "spring day", "winter day"]);
    return `it ${past ? "was" : "is"} a ${day} ${part} ${where.place} of ${village.name}.`;
  });
  for (let i = 0; i < count; i++) teller.ask(() => agreeing(rng, where, past));
}
