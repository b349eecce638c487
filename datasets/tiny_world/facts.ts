/** What is true in the tiny world, said in many ways: people, villages, trades and animals.
 *
 * @module
 */
import type { Rng } from "../../core/rng.ts";
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
  villageNamed,
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
  colour: ["always wears", "likes to wear", "paints every chair", "likes things that are", "dresses in", "looks best in"],
  hobby: ["enjoys", "is fond of", "spends Sundays", "relaxes by", "is good at", "never tires of"],
  friend: ["often visits", "is best friends with", "trusts", "writes letters to", "goes to school with", "tells secrets to"],
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

/** The person's name, plain or with something that everybody knows (but not `about`). */
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
  return chance(rng, 0.4) ? person.name : rng.pick(extras.filter(([attribute]) => attribute !== about))[1];
}

const OPENERS = ["", "", "", "", "As everyone knows, ", "In these days ", "People say that ", "It is true that "];

/** One fact about a person; the value comes last. `pronoun` says `she` or `he`, with a second fact before. */
function personFact(rng: Rng, person: Person, attribute: Attribute, pronoun: boolean): Cloze {
  const answer = valueOf(person, attribute);
  const others = ATTRIBUTES.filter((other) => other !== attribute);
  const first = rng.pick(others);
  const subject = pronoun ? (person.female ? "she" : "he") : introduced(rng, person, attribute);
  const lead = pronoun || chance(rng, 0.4) ? ` ${rng.pick(PREDICATES[first])} ${valueOf(person, first)} and` : "";
  return {
    before: `${rng.pick(OPENERS)}${subject}${lead} ${rng.pick(PREDICATES[attribute])}`,
    answer,
    after: ".",
    wrong: VALUES[attribute].filter((value) => value !== answer && value !== person.name),
  };
}

/** The same facts the other way round, from the value to the person. */
function reversedFact(rng: Rng, person: Person): string {
  const name = introduced(rng, person, "job");
  const trade = tradeNamed(person.job);
  const fed = PETS[person.pet];
  return rng.pick([
    `${person.colour} is the colour of ${name.replace(/,$/, "")}.`,
    `the ${person.pet} of ${person.name} eats ${fed} and sleeps in ${person.home}.`,
    `in ${person.home} the ${person.job} is called ${person.name}.`,
    `on work days ${name} is busy ${trade.work[2]} ${trade.at}.`,
    `${trade.at} you can find ${person.name} ${trade.work[2]}.`,
    `if you want to try ${person.hobby}, ask ${person.name} in ${person.home}.`,
    `for a plate of ${person.food} ${person.name} would walk to ${rng.pick(VILLAGES).name}.`,
  ]);
}

const VILLAGE_FACTS: readonly ((village: Village) => [predicates: string[], value: string, values: string[]])[] = [
  (v) => [["lies beside", "was built beside", "looks out on", "is right by"], v.beside, VILLAGES.map((o) => o.beside)],
  (v) => [
    ["has a famous", "is proud of its old", "takes care of its", "has just repaired its"],
    v.landmark,
    VILLAGES.map((o) => o.landmark),
  ],
  (v) => [["sells the best", "is known for its", "makes a lot of", "sends carts full of"], v.product, VILLAGES.map((o) => o.product)],
];

const TRADE_FACTS: readonly ((trade: Trade) => [predicates: string[], value: string, values: string[]])[] = [
  (t) => [["works", "spends the day", "can be found", "starts early"], t.at, TRADES.map((o) => o.at)],
  (t) => [
    ["needs a good", "looks after the", "could do nothing without a", "is never far from a"],
    t.tool,
    TRADES.map((o) => o.tool),
  ],
  (t) => [["is paid to", "knows how to", "gets up early to", "can also"], t.work[0], TRADES.map((o) => o.work[0])],
];

const ANIMAL_FACTS: readonly ((animal: Animal) => [predicates: string[], value: string, values: string[]])[] = [
  (a) => [["eats", "likes to eat", "lives on", "looks for"], a.food, ANIMALS.map((o) => o.food)],
  (a) => [["sleeps", "rests", "makes its bed", "stays out of the rain"], a.bed, ANIMALS.map((o) => o.bed)],
  (a) => [["has", "is easy to know by", "is born with", "surprises children with"], a.mark, ANIMALS.map((o) => o.mark)],
];

type Facts<T> = readonly ((thing: T) => [predicates: string[], value: string, values: string[]])[];

/** One fact about a village, trade or animal, sometimes after another one; the value comes last. */
function loreFact<T>(rng: Rng, facts: Facts<T>, thing: T, subjects: string[]): Cloze {
  const [first, second] = rng.shuffle(facts).map((fact) => fact(thing));
  const [predicates, answer, values] = second;
  const lead = chance(rng, 0.6) ? ` ${rng.pick(first[0])} ${first[1]} and` : "";
  return {
    before: `${rng.pick(OPENERS)}${rng.pick(subjects)}${lead} ${rng.pick(predicates)}`,
    answer,
    after: ".",
    wrong: values.filter((value) => value !== answer),
  };
}

function villageFact(rng: Rng, village: Village): Cloze {
  const { name } = village;
  const resident = rng.pick(PEOPLE.filter((person) => person.home === name));
  return loreFact(rng, VILLAGE_FACTS, village, [
    name,
    name,
    `the village of ${name}`,
    `${name}, the home of ${resident.name},`,
    `${name}, where ${resident.name} lives,`,
  ]);
}

function tradeFact(rng: Rng, trade: Trade): Cloze {
  const { name } = trade;
  const worker = rng.pick(PEOPLE.filter((person) => person.job === name));
  return loreFact(rng, TRADE_FACTS, trade, [
    withArticle(name),
    `every ${name}`,
    `the ${name}`,
    `${withArticle(name)} like ${worker.name}`,
    `${worker.name} the ${name}`,
  ]);
}

function animalFact(rng: Rng, animal: Animal): Cloze {
  const { name } = animal;
  const place = rng.pick(VILLAGES);
  return loreFact(rng, ANIMAL_FACTS, animal, [
    withArticle(name),
    `the ${name}`,
    `every ${name}`,
    `the ${name} near ${place.name}`,
    `a young ${name}`,
    `an old ${name}`,
  ]);
}

/** A few sentences about one person, and perhaps about their friend. */
export function tellPortrait(teller: Teller, person = teller.rng.pick(PEOPLE)): void {
  const { rng } = teller;
  const about = pickSome(rng, ATTRIBUTES, 2 + rng.integer(4));
  about.forEach((attribute, i) => {
    teller.ask(() => personFact(rng, person, attribute, i > 0 && chance(rng, 0.5)));
    if (chance(rng, 0.2)) teller.say(() => reversedFact(rng, person));
  });
  if (about.at(-1) === "friend") {
    const friend = personNamed(person.friend);
    teller.ask(() => personFact(rng, friend, rng.pick(ATTRIBUTES), false));
  }
}

/** A few sentences about a village and somebody who lives there. */
export function tellVillage(teller: Teller): void {
  const { rng } = teller;
  const village = rng.pick(VILLAGES);
  for (let i = 0, n = 2 + rng.integer(2); i < n; i++) teller.ask(() => villageFact(rng, village));
  const resident = rng.pick(PEOPLE.filter((person) => person.home === village.name));
  teller.ask(() => personFact(rng, resident, rng.pick(ATTRIBUTES), false));
}

/** A few sentences about a trade and somebody who follows it. */
export function tellTrade(teller: Teller): void {
  const { rng } = teller;
  const trade = rng.pick(TRADES);
  for (let i = 0, n = 2 + rng.integer(2); i < n; i++) teller.ask(() => tradeFact(rng, trade));
  const worker = rng.pick(PEOPLE.filter((person) => person.job === trade.name));
  teller.say(() => reversedFact(rng, worker));
}

/** A few sentences about two animals. */
export function tellAnimals(teller: Teller): void {
  const { rng } = teller;
  for (const animal of pickSome(rng, ANIMALS, 2)) {
    for (let i = 0, n = 1 + rng.integer(3); i < n; i++) teller.ask(() => animalFact(rng, animal));
  }
}

/** One fact of the kind `subject`, with its gap last, as a question. */
export function askFact(teller: Teller, subject: "person" | "village" | "trade" | "animal"): void {
  const { rng } = teller;
  switch (subject) {
    case "person": {
      const [person, attribute] = [rng.pick(PEOPLE), rng.pick(ATTRIBUTES)];
      return teller.ask(() => personFact(rng, person, attribute, false));
    }
    case "village": {
      const village = rng.pick(VILLAGES);
      return teller.ask(() => villageFact(rng, village));
    }
    case "trade": {
      const trade = rng.pick(TRADES);
      return teller.ask(() => tradeFact(rng, trade));
    }
    case "animal": {
      const animal = rng.pick(ANIMALS);
      return teller.ask(() => animalFact(rng, animal));
    }
  }
}

/** What the village of a person is known for, for use in stories. */
export function homeOf(person: Person): Village {
  return villageNamed(person.home);
}
