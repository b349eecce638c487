/** Scenes in which things are counted: more come, some go, a list is told off.
 *
 * @module
 */
import type { Rng } from "../../core/util/rng.ts";
import { chance, type Cloze, listed, numberWord, pickSome, type Teller, withArticle } from "./telling.ts";
import { OBJECTS, PLACES } from "./things.ts";
import { PEOPLE, type Person } from "./world.ts";

/** Things that come in numbers: singular and plural. */
const COUNTED: readonly (readonly [string, string])[] = [
  ["apple", "apples"],
  ["pear", "pears"],
  ["plum", "plums"],
  ["egg", "eggs"],
  ["nut", "nuts"],
  ["candle", "candles"],
  ["button", "buttons"],
  ["coin", "coins"],
  ["shell", "shells"],
  ["marble", "marbles"],
  ["stamp", "stamps"],
  ["ribbon", "ribbons"],
  ["feather", "feathers"],
  ["cake", "cakes"],
  ["rose", "roses"],
  ["stone", "stones"],
  ["bean", "beans"],
  ["onion", "onions"],
  ["brick", "bricks"],
  ["loaf", "loaves"],
];

const HERDS: readonly (readonly [string, string])[] = [
  ["cow", "cows"],
  ["horse", "horses"],
  ["goose", "geese"],
  ["duck", "ducks"],
  ["goat", "goats"],
  ["hen", "hens"],
  ["child", "children"],
  ["swallow", "swallows"],
];

const MOST = 10;

const she = (person: Person) => person.female ? "she" : "he";
const her = (person: Person) => person.female ? "her" : "him";

/** `two plums`, `one plum`. */
function counted(n: number, [singular, plural]: readonly [string, string]): string {
  return `${numberWord(n)} ${n === 1 ? singular : plural}`;
}

/** A gap for the number `n` of `things`; wrong answers are near it or were heard before. */
function numberCloze(before: string, n: number, after: string, heard: readonly number[]): Cloze {
  const near = [n - 3, n - 2, n - 1, n + 1, n + 2, n + 3, ...heard];
  const wrong = [...new Set(near)].filter((other) => other !== n && other >= 1 && other <= MOST);
  return { before, answer: numberWord(n), after, wrong: wrong.map(numberWord) };
}

function has(rng: Rng, person: Person): string {
  const { name } = person;
  return rng.pick([
    `${name} had`,
    `${name} found`,
    `${name} bought`,
    `${name} carried`,
    `${name} counted`,
    `${name} kept`,
    `in a box ${name} had`,
    `at the market ${name} bought`,
    `${rng.pick(PLACES)} ${name} found`,
  ]);
}

function tellFirst(teller: Teller, a: Person, n: number, thing: readonly [string, string]): void {
  const { rng } = teller;
  const ends = ["", " in a bowl", " in a bag", " on a plate", " for the winter", ` for ${a.friend}`, " on Monday"];
  teller.say(() => `${has(rng, a)} ${counted(n, thing)}${rng.pick(ends)}.`);
}

function tellMore(teller: Teller, a: Person, b: Person, m: number): void {
  const { rng } = teller;
  const more = `${numberWord(m)} more`;
  teller.say(() =>
    rng.pick([
      `then ${b.name} gave ${her(a)} ${more}.`,
      `${b.name} came and brought ${more}.`,
      `${rng.pick(PLACES)} ${she(a)} found ${more}.`,
      `${b.name} had ${more} and gave them all to ${her(a)}.`,
      `after that ${a.name} got ${more} from ${b.name}.`,
      `the next day ${b.name} handed ${her(a)} ${more}.`,
    ])
  );
}

function tellFewer(teller: Teller, a: Person, b: Person, m: number): void {
  const { rng } = teller;
  const some = numberWord(m);
  const were = m === 1 ? "was" : "were";
  teller.say(() =>
    rng.pick([
      `then ${she(a)} gave ${some} of them to ${b.name}.`,
      `${b.name} came along and took ${some} of them.`,
      `${some} of them got lost ${rng.pick(PLACES)}.`,
      `${some} of them ${were} sold to ${b.name}.`,
      `${a.name} let ${b.name} have ${some} of them.`,
      `on the way home ${a.name} dropped ${some} of them ${rng.pick(PLACES)}.`,
    ])
  );
}

const AFTERWARDS = ["", " in all", " to take home", " on the table", " that evening"];

function askTotal(teller: Teller, a: Person, total: number, thing: readonly [string, string], heard: number[]): void {
  const { rng } = teller;
  const noun = total === 1 ? thing[0] : thing[1];
  teller.ask(() => {
    const before = rng.pick([
      `now ${a.name} had`,
      `so ${a.name} had`,
      `that left ${a.name} with`,
      `in the end ${a.name} had`,
      `when ${a.name} counted again, there ${total === 1 ? "was" : "were"}`,
      `after all this ${she(a)} had`,
    ]);
    return numberCloze(before, total, ` ${noun}${rng.pick(AFTERWARDS)}.`, heard);
  });
}

/** More are added, some are taken, or first one and then the other. */
export function tellSum(teller: Teller, a: Person, b: Person): void {
  const { rng } = teller;
  const thing = rng.pick(COUNTED);
  const kind = rng.pick(["more", "more", "fewer", "fewer", "both"]);
  if (kind === "fewer") {
    const n = 2 + rng.integer(MOST - 1);
    const m = 1 + rng.integer(n - 1);
    tellFirst(teller, a, n, thing);
    tellFewer(teller, a, b, m);
    askTotal(teller, a, n - m, thing, [n, m]);
    return;
  }
  const n = 1 + rng.integer(MOST - 2);
  const m = 1 + rng.integer(MOST - n);
  tellFirst(teller, a, n, thing);
  tellMore(teller, a, b, m);
  askTotal(teller, a, n + m, thing, [n, m]);
  if (kind === "more") return;
  const gone = 1 + rng.integer(n + m - 1);
  tellFewer(teller, a, b, gone);
  askTotal(teller, a, n + m - gone, thing, [n + m, gone]);
}

/** Two people put together what they have. */
export function tellTogether(teller: Teller, a: Person, b: Person): void {
  const { rng } = teller;
  const thing = rng.pick(COUNTED);
  const n = 1 + rng.integer(MOST - 1);
  const m = 1 + rng.integer(MOST - n);
  tellFirst(teller, a, n, thing);
  tellFirst(teller, b, m, thing);
  teller.ask(() => {
    const before = rng.pick([
      `together ${a.name} and ${b.name} had`,
      `between them ${a.name} and ${b.name} had`,
      `that made for ${a.name} and ${b.name}`,
      `${a.name} and ${b.name} put them in a heap and counted`,
    ]);
    return numberCloze(before, n + m, ` ${thing[1]}${rng.pick(AFTERWARDS)}.`, [n, m]);
  });
}

/** Animals or children come to where others are. */
export function tellHerd(teller: Teller): void {
  const { rng } = teller;
  const herd = rng.pick(HERDS);
  const place = rng.pick(PLACES);
  const n = 1 + rng.integer(MOST - 1);
  const m = 1 + rng.integer(MOST - n);
  const there = n === 1 ? "was" : "were";
  teller.say(() =>
    rng.pick([
      `there ${there} ${counted(n, herd)} ${place}.`,
      `${place} there ${there} ${counted(n, herd)} in the sun.`,
      `${rng.pick(PEOPLE).name} saw ${counted(n, herd)} ${place}.`,
    ])
  );
  const from = () => rng.pick(PLACES.filter((other) => other !== place));
  teller.say(() =>
    rng.pick([
      `${numberWord(m)} more came from ${rng.pick(PEOPLE).name}.`,
      `soon ${numberWord(m)} more joined them.`,
      `after the rain ${numberWord(m)} more came.`,
      `${numberWord(m)} more had been ${from()} and came too.`,
    ])
  );
  teller.ask(() => {
    const before = rng.pick([`now ${place} there were`, "now there were", `that evening ${place} stood`, "that made"]);
    const after = rng.pick([` ${herd[1]} ${place}.`, ` ${herd[1]}.`, ` ${herd[1]} in all.`]);
    return numberCloze(before, n + m, before.includes(place) ? ` ${herd[1]}.` : after, [n, m]);
  });
}

/** Things lie somewhere, or people go somewhere, and are counted. */
export function tellRollCall(teller: Teller): void {
  const { rng } = teller;
  const n = 2 + rng.integer(5);
  const place = rng.pick(PLACES);
  const numbers = [2, 3, 4, 5, 6];
  if (chance(rng, 0.5)) {
    const names = pickSome(rng, PEOPLE, n).map((person) => person.name);
    teller.say(() => `${listed(names)} ${rng.pick(["met", "played", "sat down", "danced", "sang"])} ${place}.`);
    teller.ask(() => {
      const before = rng.pick(["the", "these", "it was warm, and the", `${place} the`, "for an hour the"]);
      const doing = rng.pick(["talked", "laughed", "waited", "shared a meal", "told stories", "looked at the clouds"]);
      return numberCloze(
        before,
        n,
        ` friends ${doing}${rng.pick(["", ` ${place}`, " until noon", " all day"])}.`,
        numbers,
      );
    });
    return;
  }
  const things = pickSome(rng, OBJECTS, n).map(withArticle);
  teller.say(() => `${place} lay ${listed(things)}.`);
  teller.ask(() => {
    const before = rng.pick(["that made", "there were", `${rng.pick(PEOPLE).name} counted`, `${place} there were`]);
    const after = before.includes(place) ? "" : rng.pick(["", ` ${place}`, " in all", " to carry"]);
    return numberCloze(before, n, ` things${after}.`, numbers);
  });
}
