/** The tiny world: who lives where, what animals eat, which tools belong to which trade.
 *
 * Everything here was made up for this project. The tables never change with the seed of a text: a text's seed decides
 * what is told, the world decides what is true.
 *
 * @module
 */
import { at, lookUp } from "../../core/util/indexing.ts";
import { createRng } from "../../core/util/rng.ts";

/** A person, with six likings and circumstances and a best friend. */
export interface Person {
  name: string;
  female: boolean;
  /** A village's name. */
  home: string;
  /** A trade's name. */
  job: string;
  pet: string;
  food: string;
  colour: string;
  /** A gerund: `fishing`. */
  hobby: string;
  /** Another person's name; friendship goes both ways. */
  friend: string;
}

/** A village. */
export interface Village {
  name: string;
  /** What it lies beside. */
  beside: string;
  landmark: string;
  /** What it is known for. */
  product: string;
}

/** A trade. */
export interface Trade {
  name: string;
  /** Where the work is done, with preposition. */
  at: string;
  tool: string;
  /** What is done: base form, third person and gerund. */
  work: [base: string, third: string, gerund: string];
}

/** An animal. */
export interface Animal {
  name: string;
  food: string;
  /** Where it sleeps, with preposition. */
  bed: string;
  /** A part of the body that is worth a remark. */
  mark: string;
}

/** Villages of the valley. */
export const VILLAGES: readonly Village[] = [
  { name: "Ashby", beside: "the river", landmark: "stone bridge", product: "honey" },
  { name: "Brookfield", beside: "the canal", landmark: "windmill", product: "bread" },
  { name: "Cliffhaven", beside: "the sea", landmark: "lighthouse", product: "salt" },
  { name: "Fernley", beside: "the forest", landmark: "oak tree", product: "mushrooms" },
  { name: "Larkhill", beside: "the hills", landmark: "chapel", product: "wool" },
  { name: "Mossdale", beside: "the lake", landmark: "boathouse", product: "eels" },
  { name: "Thornby", beside: "the moor", landmark: "maze", product: "jam" },
  { name: "Willowby", beside: "the marsh", landmark: "bell tower", product: "baskets" },
];

/** Trades of the valley; each is the job of two people. */
export const TRADES: readonly Trade[] = [
  { name: "baker", at: "in the bakery", tool: "oven", work: ["bake bread", "bakes bread", "baking bread"] },
  { name: "smith", at: "at the forge", tool: "hammer", work: ["make nails", "makes nails", "making nails"] },
  {
    name: "teacher",
    at: "at the school",
    tool: "piece of chalk",
    work: ["teach sums", "teaches sums", "teaching sums"],
  },
  { name: "farmer", at: "on the farm", tool: "plough", work: ["grow wheat", "grows wheat", "growing wheat"] },
  { name: "fisher", at: "in the harbour", tool: "net", work: ["catch herring", "catches herring", "catching herring"] },
  {
    name: "painter",
    at: "in the studio",
    tool: "brush",
    work: ["paint portraits", "paints portraits", "painting portraits"],
  },
  { name: "potter", at: "by the kiln", tool: "wheel", work: ["shape jugs", "shapes jugs", "shaping jugs"] },
  { name: "weaver", at: "in the attic", tool: "loom", work: ["weave carpets", "weaves carpets", "weaving carpets"] },
  { name: "cook", at: "at the inn", tool: "ladle", work: ["stir soup", "stirs soup", "stirring soup"] },
  { name: "miller", at: "at the mill", tool: "millstone", work: ["grind flour", "grinds flour", "grinding flour"] },
  { name: "beekeeper", at: "in the orchard", tool: "veil", work: ["tend hives", "tends hives", "tending hives"] },
  {
    name: "postman",
    at: "at the post office",
    tool: "satchel",
    work: ["carry letters", "carries letters", "carrying letters"],
  },
];

/** Animals of the valley. */
export const ANIMALS: readonly Animal[] = [
  { name: "fox", food: "mice", bed: "in a den", mark: "a bushy tail" },
  { name: "owl", food: "voles", bed: "in a hollow tree", mark: "round eyes" },
  { name: "otter", food: "trout", bed: "under the river bank", mark: "thick fur" },
  { name: "hedgehog", food: "beetles", bed: "in a heap of leaves", mark: "sharp spines" },
  { name: "squirrel", food: "nuts", bed: "high in a pine", mark: "tufted ears" },
  { name: "badger", food: "roots", bed: "in a sett", mark: "a striped face" },
  { name: "bat", food: "moths", bed: "in a cave", mark: "thin wings" },
  { name: "hen", food: "corn", bed: "in a coop", mark: "a red comb" },
  { name: "sheep", food: "clover", bed: "in a fold", mark: "a woolly coat" },
  { name: "horse", food: "oats", bed: "in the stable", mark: "a long mane" },
  { name: "pig", food: "turnips", bed: "in the sty", mark: "a curly tail" },
  { name: "spider", food: "flies", bed: "in a web", mark: "eight legs" },
  { name: "swallow", food: "gnats", bed: "under the roof", mark: "a forked tail" },
  { name: "bear", food: "berries", bed: "behind the waterfall", mark: "heavy paws" },
];

/** Pets, with what they are fed. */
export const PETS: Readonly<Record<string, string>> = {
  dog: "bones",
  cat: "sardines",
  rabbit: "carrots",
  parrot: "seeds",
  pony: "apples",
  goat: "thistles",
  tortoise: "lettuce",
  duck: "crumbs",
};

/** What people like to eat. */
export const FOODS = [
  "pancakes",
  "noodles",
  "porridge",
  "dumplings",
  "cheese",
  "cherries",
  "waffles",
  "pickles",
] as const;

/** Colours that people like and things have. */
export const COLOURS = ["red", "blue", "green", "yellow", "white", "black", "purple", "brown"] as const;

/** What people do for pleasure. */
export const HOBBIES = [
  "fishing",
  "singing",
  "dancing",
  "reading",
  "skating",
  "juggling",
  "sailing",
  "knitting",
] as const;

const WOMEN = "Anna Clara Edith Flora Greta Iris Julia Lucy Martha Nora Rosa Sophie"
  .split(" ");
const MEN = "Albert Caleb Daniel Felix George Henry Ivan Leo Oscar Peter Simon Victor"
  .split(" ");

/** `values` repeated to `length` and shuffled: each is dealt about equally often. */
function deal<T>(values: readonly T[], length: number, stream: string): T[] {
  const repeated = Array.from({ length }, (_, i) => at(values, i % values.length));
  return createRng(2502, `tiny-world/${stream}`).shuffle(repeated);
}

function populate(): Person[] {
  const names = [...WOMEN, ...MEN];
  const count = names.length;
  const homes = deal(VILLAGES.map((village) => village.name), count, "home");
  const jobs = deal(TRADES.map((trade) => trade.name), count, "job");
  const pets = deal(Object.keys(PETS), count, "pet");
  const foods = deal(FOODS, count, "food");
  const colours = deal(COLOURS, count, "colour");
  const hobbies = deal(HOBBIES, count, "hobby");
  const pairs = createRng(2502, "tiny-world/friend").shuffle(names);
  const friends = new Map(pairs.map((name, i) => [name, at(pairs, i ^ 1)]));
  return names.map((name, i) => ({
    name,
    female: i < WOMEN.length,
    home: at(homes, i),
    job: at(jobs, i),
    pet: at(pets, i),
    food: at(foods, i),
    colour: at(colours, i),
    hobby: at(hobbies, i),
    friend: lookUp(friends, name),
  }));
}

/** The people of the valley. */
export const PEOPLE: readonly Person[] = populate();

const personByName = new Map(PEOPLE.map((person) => [person.name, person]));
const tradeByName = new Map(TRADES.map((trade) => [trade.name, trade]));
const villageByName = new Map(VILLAGES.map((village) => [village.name, village]));

/** The person called `name`. */
export function personNamed(name: string): Person {
  return lookUp(personByName, name);
}

/** The trade called `name`. */
export function tradeNamed(name: string): Trade {
  return lookUp(tradeByName, name);
}

/** The village called `name`. */
export function villageNamed(name: string): Village {
  return lookUp(villageByName, name);
}
