/** What is true in the tiny world, said in many ways: people, villages, trades and animals.
 *
 * @module
 */
import { at } from "../../core/util/indexing.ts";
import type { Rng } from "../../core/util/rng.ts";
import { chance, type Cloze, pickSome, type Teller, withArticle } from "./telling.ts";
import {
  type Animal,
  ANIMALS,
  COLOURS,
  FOODS,
  HOBBIES,
  PEOPLE,
  type Person,
  personNamed,
  PETS,
  type Trade,
  tradeNamed,
  TRADES,
  type Village,
  VILLAGES,
} from "./world.ts";

/** What can be said of a person. */
export const ATTRIBUTES = ["home", "job", "pet", "food", "colour", "hobby", "friend"] as const;
/** One of {@linkcode ATTRIBUTES}. */
export type Attribute = (typeof ATTRIBUTES)[number];

/** Predicates that lead up to the attribute's value. */
const PREDICATES: Readonly<Record<Attribute, readonly string[]>> = {
  home: ["lives in", "has a house in", "was born in", "has always lived in", "rents a room in", "is at home in"],
  job: ["works as", "is", "earns a living as", "is known as", "was trained as", "is proud to be"],
  pet: ["keeps a pet", "has a pet", "looks after a", "shares the house with a", "owns a", "takes walks with a"],
  food: ["loves", "likes to eat", "often asks for", "never says no to", "cannot resist", "dreams of"],
  colour: [
    "always wears",
    "likes to wear",
    "paints every chair",
    "likes things that are",
    "dresses in",
    "looks best in",
  ],
  hobby: ["enjoys", "is fond of", "spends Sundays", "relaxes by", "is good at", "never tires of"],
  friend: ["often visits", "is best friends with", "trusts", "writes letters to", "grew up with", "tells secrets to"],
};

const VALUES: Readonly<Record<Attribute, readonly string[]>> = {
  home: VILLAGES.map((village) => village.name),
  job: TRADES.map((trade) => withArticle(trade.name)),
  pet: Object.keys(PETS),
  food: FOODS,
  colour: COLOURS,
  hobby: HOBBIES,
  friend: PEOPLE.map((person) => person.name),
};

function valueOf(person: Person, attribute: Attribute): string {
  return attribute === "job" ? withArticle(person.job) : person[attribute];
}

/** The person's name, plain or with something that everybody knows (but nothing of `about`). */
function introduced(rng: Rng, person: Person, about: Attribute): string {
  const extras: [Attribute, string][] = [
    ["job", `${person.name} the ${person.job}`],
    ["home", `${person.name} of ${person.home}`],
    ["pet", `${person.name}, who has a ${person.pet},`],
    ["hobby", `${person.name}, who likes ${person.hobby},`],
    ["colour", `${person.name}, the one in ${person.colour},`],
    ["food", `${person.name}, who eats ${person.food},`],
    ["friend", `${person.name}, a friend of ${person.friend},`],
  ];
  return chance(rng, 0.5) ? person.name : rng.pick(extras.filter(([attribute]) => attribute !== about))[1];
}

const OPENERS = ["as everyone knows, ", "people say that ", "it is true that ", "you may have heard that "];
const opener = (rng: Rng) => chance(rng, 0.15) ? rng.pick(OPENERS) : "";

/** One or two facts about a person in one sentence, which ends with the value of the last. */
function personFact(rng: Rng, person: Person, attributes: readonly Attribute[], pronoun: boolean): Cloze {
  const [first, last] = [at(attributes, 0), at(attributes, attributes.length - 1)];
  const answer = valueOf(person, last);
  const lead = `${rng.pick(PREDICATES[first])} ${valueOf(person, first)}`;
  const isDouble = attributes.length > 1;
  const subject = pronoun
    ? (person.female ? "she" : "he") + (isDouble ? ` ${lead} and` : "")
    : opener(rng) + (isDouble ? `${person.name}, who ${lead},` : introduced(rng, person, last));
  return {
    before: `${subject} ${rng.pick(PREDICATES[last])}`,
    answer,
    after: ".",
    wrong: VALUES[last].filter((value) => value !== answer && value !== person.name),
  };
}

/** The same facts the other way round, from the value to the person. */
function reversedFact(rng: Rng, person: Person): string {
  const name = introduced(rng, person, "job");
  const trade = tradeNamed(person.job);
  const fed = PETS[person.pet];
  return rng.pick([
    `${person.colour} is the colour of ${person.name}, from hat to ${rng.pick(["shoe", "scarf", "glove", "sock"])}.`,
    `the ${person.pet} of ${person.name} eats ${fed} and sleeps in ${person.home}.`,
    `in ${person.home} the ${person.job} is called ${person.name}.`,
    `on work days ${name} is busy ${trade.work[2]} ${trade.at}.`,
    `${trade.at} you can find ${person.name} ${trade.work[2]}.`,
    `if you want to try ${person.hobby}, ask ${person.name} in ${person.home}.`,
    `for a plate of ${person.food} ${person.name} would walk to ${
      rng.pick(VILLAGES.filter((village) => village.name !== person.home)).name
    }.`,
  ]);
}

/** One kind of fact: predicates, the value that follows, what may come before, and the values of all things. */
interface Fact {
  predicates: readonly string[];
  value: string;
  openers: readonly string[];
  values: readonly string[];
}

const VILLAGE_FACTS: readonly ((village: Village) => Fact)[] = [
  (village) => ({
    predicates: ["lies beside", "was built beside", "looks out on", "is right by"],
    value: village.beside,
    openers: ["as old maps show, ", "far from any town "],
    values: VILLAGES.map((other) => other.beside),
  }),
  (village) => ({
    predicates: ["has a famous", "is proud of its old", "takes care of its", "has just repaired its"],
    value: village.landmark,
    openers: ["every visitor knows that ", "as you can see, "],
    values: VILLAGES.map((other) => other.landmark),
  }),
  (village) => ({
    predicates: ["sells the best", "is known for its", "makes a lot of", "sends out carts full of"],
    value: village.product,
    openers: ["to this day ", "every autumn "],
    values: VILLAGES.map((other) => other.product),
  }),
];

const TRADE_FACTS: readonly ((trade: Trade) => Fact)[] = [
  (trade) => ({
    predicates: ["works", "spends the day", "can be found", "starts early"],
    value: trade.at,
    openers: ["on most days ", "rain or shine, "],
    values: TRADES.map((other) => other.at),
  }),
  (trade) => ({
    predicates: ["needs a good", "looks after the", "could do nothing without the", "is never far from the"],
    value: trade.tool,
    openers: ["as one can imagine, ", "at all times "],
    values: TRADES.map((other) => other.tool),
  }),
  (trade) => ({
    predicates: ["is paid to", "knows how to", "gets up early to", "is the one to"],
    value: trade.work[0],
    openers: ["in any season ", "all over the valley "],
    values: TRADES.map((other) => other.work[0]),
  }),
];

const ANIMAL_FACTS: readonly ((animal: Animal) => Fact)[] = [
  (animal) => ({
    predicates: ["eats", "likes to eat", "lives on", "goes out to look for"],
    value: animal.food,
    openers: ["all summer ", "when the days are long "],
    values: ANIMALS.map((other) => other.food),
  }),
  (animal) => ({
    predicates: ["sleeps", "rests", "makes its bed", "feels safe"],
    value: animal.bed,
    openers: ["when it rains ", "in the cold months "],
    values: ANIMALS.map((other) => other.bed),
  }),
  (animal) => ({
    predicates: ["has", "is known by", "is proud of", "can be told by"],
    value: animal.mark,
    openers: ["as children know, ", "from its first day "],
    values: ANIMALS.map((other) => other.mark),
  }),
];

/** Makes facts about `T`s: what can be said, and the subjects that a sentence may begin with. */
interface Lore<T> {
  facts: readonly ((thing: T) => Fact)[];
  /** The thing's plain name, and how else it may be called. */
  subjects(rng: Rng, thing: T): [plain: string[], more: string[]];
  pronoun: "who" | "which";
}

const VILLAGE_LORE: Lore<Village> = {
  facts: VILLAGE_FACTS,
  subjects: (rng, { name }) => {
    const resident = rng.pick(PEOPLE.filter((person) => person.home === name)).name;
    return [[name, `the village of ${name}`], [
      `${name}, the home of ${resident},`,
      `${name}, where ${resident} lives,`,
    ]];
  },
  pronoun: "which",
};

const TRADE_LORE: Lore<Trade> = {
  facts: TRADE_FACTS,
  subjects: (rng, { name }) => {
    const worker = rng.pick(PEOPLE.filter((person) => person.job === name)).name;
    return [[withArticle(name), `every ${name}`, `the ${name}`], [
      `${withArticle(name)} like ${worker}`,
      `${worker} the ${name}`,
    ]];
  },
  pronoun: "who",
};

const ANIMAL_LORE: Lore<Animal> = {
  facts: ANIMAL_FACTS,
  subjects: (rng, { name }) => [[withArticle(name), `the ${name}`, `every ${name}`], [
    `a young ${name}`,
    `an old ${name}`,
    `the ${name} near ${rng.pick(VILLAGES).name}`,
    `the ${name} that ${rng.pick(PEOPLE).name} saw`,
  ]],
  pronoun: "which",
};

/** One sentence with one or two facts about a village, trade or animal, which ends with the value of the last. */
function loreFact<T>(rng: Rng, lore: Lore<T>, thing: T, told: readonly ((thing: T) => Fact)[]): Cloze {
  const [plain, more] = lore.subjects(rng, thing);
  const [first, last] = [at(told, 0)(thing), at(told, told.length - 1)(thing)];
  const subject = told.length > 1
    ? `${rng.pick(plain)}, ${lore.pronoun} ${rng.pick(first.predicates)} ${first.value},`
    : rng.pick([...plain, ...more]);
  const start = chance(rng, 0.2) ? rng.pick(last.openers) : opener(rng);
  return {
    before: `${start}${subject} ${rng.pick(last.predicates)}`,
    answer: last.value,
    after: ".",
    wrong: last.values.filter((value) => value !== last.value),
  };
}

/** Tells what is known of `thing`, leaving out `skip` facts, one or two to a sentence. */
function tellLore<T>(teller: Teller, lore: Lore<T>, thing: T, skip: number): void {
  const { rng } = teller;
  const facts = rng.shuffle(lore.facts).slice(skip);
  for (let i = 0; i < facts.length;) {
    const told = facts.slice(i, i + 1 + rng.integer(2));
    teller.ask(() => loreFact(rng, lore, thing, rng.shuffle(told)));
    i += told.length;
  }
}

/** A few sentences about one person, and perhaps one about their friend. */
export function tellPortrait(teller: Teller): void {
  const { rng } = teller;
  const person = rng.pick(PEOPLE);
  const attributes = rng.shuffle(ATTRIBUTES).slice(rng.integer(4));
  for (let i = 0; i < attributes.length;) {
    const told = attributes.slice(i, i + 1 + rng.integer(2));
    const pronoun = i > 0 && chance(rng, 0.6);
    teller.ask(() => personFact(rng, person, rng.shuffle(told), pronoun));
    i += told.length;
  }
  if (chance(rng, 0.4)) teller.say(() => reversedFact(rng, person));
  if (attributes.at(-1) === "friend") {
    const friend = personNamed(person.friend);
    teller.ask(() => personFact(rng, friend, pickSome(rng, ATTRIBUTES, 2), false));
  }
}

/** What is known of a village, and of somebody who lives there. */
export function tellVillage(teller: Teller): void {
  const { rng } = teller;
  const village = rng.pick(VILLAGES);
  tellLore(teller, VILLAGE_LORE, village, 0);
  const resident = rng.pick(PEOPLE.filter((person) => person.home === village.name));
  teller.ask(() => personFact(rng, resident, pickSome(rng, ATTRIBUTES, 2), false));
}

/** What is known of a trade, and of somebody who follows it. */
export function tellTrade(teller: Teller): void {
  const { rng } = teller;
  const trade = rng.pick(TRADES);
  tellLore(teller, TRADE_LORE, trade, 0);
  const worker = rng.pick(PEOPLE.filter((person) => person.job === trade.name));
  teller.say(() => reversedFact(rng, worker));
}

/** What is known of two animals. */
export function tellAnimals(teller: Teller): void {
  const { rng } = teller;
  for (const animal of pickSome(rng, ANIMALS, 2)) tellLore(teller, ANIMAL_LORE, animal, rng.integer(2));
}

/** Whose facts can be asked for. */
export const FACT_SUBJECTS = ["person", "village", "trade", "animal"] as const;

/** One sentence of facts about a random `subject`, with its gap at the end. */
export function askFact(teller: Teller, subject: (typeof FACT_SUBJECTS)[number]): void {
  const { rng } = teller;
  const count = 1 + rng.integer(2);
  if (subject === "person") {
    const [person, attributes] = [rng.pick(PEOPLE), pickSome(rng, ATTRIBUTES, count)];
    teller.ask(() => personFact(rng, person, attributes, false));
  } else if (subject === "village") {
    const [village, facts] = [rng.pick(VILLAGES), pickSome(rng, VILLAGE_FACTS, count)];
    teller.ask(() => loreFact(rng, VILLAGE_LORE, village, facts));
  } else if (subject === "trade") {
    const [trade, facts] = [rng.pick(TRADES), pickSome(rng, TRADE_FACTS, count)];
    teller.ask(() => loreFact(rng, TRADE_LORE, trade, facts));
  } else {
    const [animal, facts] = [rng.pick(ANIMALS), pickSome(rng, ANIMAL_FACTS, count)];
    teller.ask(() => loreFact(rng, ANIMAL_LORE, animal, facts));
  }
}
