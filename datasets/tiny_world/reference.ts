/** Scenes in which one must know who or what `she`, `he`, `it` and `them` are.
 *
 * @module
 */
import { lookUp } from "../../core/util/indexing.ts";
import { chance, listed, pickSome, type Teller, withArticle } from "./telling.ts";
import { OBJECTS, PLACES } from "./things.ts";
import { PEOPLE, type Person } from "./world.ts";

const HEAPS = ["apples", "plums", "eggs", "nuts", "candles", "buttons", "shells", "ribbons", "feathers", "roses"];

/** Three people, of whom the first differs from the others in gender. */
export function oddOneOut(teller: Teller): [Person, Person, Person] {
  const { rng } = teller;
  const female = chance(rng, 0.5);
  const [odd] = pickSome(rng, PEOPLE.filter((person) => person.female === female), 1);
  const [b, c] = pickSome(rng, PEOPLE.filter((person) => person.female !== female), 2);
  return [odd, b, c];
}

const AFTER_A_WHILE = ["", "", "after a while ", "soon ", "before noon ", "in the end ", "without a word ", "later "];

/** Each of three people has a thing; a pronoun fits only one of them. */
export function tellOwners(teller: Teller, people: [Person, Person, Person]): void {
  const { rng } = teller;
  const [odd] = people;
  const things = pickSome(rng, OBJECTS, 3);
  const thingOf = new Map(people.map((person, i) => [person, things[i]]));
  const place = rng.pick(PLACES);
  const order = rng.shuffle(people);
  teller.say(() => {
    const verb = rng.pick(["had", "brought", "carried", "held", "owned"]);
    return `${listed(order.map((person) => `${person.name} ${verb} ${withArticle(lookUp(thingOf, person))}`))}.`;
  });
  const pronoun = odd.female ? "she" : "he";
  const [did, doing] = rng.pick([
    ["left it", "leaving something"],
    ["put it down", "putting something down"],
    ["hid it", "hiding something"],
    ["forgot it", "forgetting something"],
    ["dropped it", "dropping something"],
  ]);
  teller.say(() => `${rng.pick(AFTER_A_WHILE)}${pronoun} ${did} ${place}.`);
  const others = people.filter((person) => person !== odd);
  if (chance(rng, 0.5)) {
    teller.ask(() => ({
      before: rng.pick([
        `so the thing ${place} was the`,
        `what lay ${place} was the`,
        `everybody could see ${place} the`,
        `that is how ${place} lay the`,
        `the children came and found ${place} the`,
      ]),
      answer: lookUp(thingOf, odd),
      after: ` of ${odd.name}.`,
      wrong: others.map((person) => lookUp(thingOf, person)),
    }));
  } else {
    teller.ask(() => ({
      before: rng.pick([
        `the one ${doing} ${place} was`,
        `the person seen ${doing} ${place} was`,
        `last seen ${doing} ${place} was`,
        `seen ${doing} ${place} was`,
      ]),
      answer: odd.name,
      after: rng.pick([".", `, not ${rng.pick(others).name}.`, ` with the ${thingOf.get(odd)}.`]),
      wrong: others.map((person) => person.name),
    }));
  }
}

/** Somebody buys single things and a heap, or heaps and a single thing; one of them is handed on as `it` or `them`. */
export function tellShopping(teller: Teller, a: Person, b: Person): void {
  const { rng } = teller;
  const single = chance(rng, 0.5);
  const [one, ...heaps] = [rng.pick(OBJECTS), ...pickSome(rng, HEAPS, 2)];
  const [heap, ...ones] = [rng.pick(HEAPS), ...pickSome(rng, OBJECTS, 2)];
  const [handed, ...others] = single ? [one, ...heaps] : [heap, ...ones];
  const phrases = single
    ? [withArticle(one), ...heaps.map((name) => `some ${name}`)]
    : [`some ${heap}`, ...ones.map((name) => withArticle(name))];
  const it = single ? "it" : "them";
  teller.say(() => {
    const verb = rng.pick(["bought", "took along", "packed", "found", "borrowed"]);
    return `${a.name} ${verb} ${listed(rng.shuffle(phrases))}.`;
  });
  const she = a.female ? "she" : "he";
  teller.say(() =>
    rng.pick([
      `${she} gave ${it} to ${b.name} and kept the rest.`,
      `${she} sold ${it} to ${b.name}.`,
      `${b.name} asked for ${it}, and ${she} said yes.`,
      `${b.name} liked the look of ${it} and paid a fair price.`,
      `${she} made ${b.name} a present of ${it}.`,
    ])
  );
  teller.ask(() => ({
    before: rng.pick([
      `so ${b.name} went home with the`,
      `that is why ${b.name} has the`,
      `now ${b.name} had the`,
      `${b.name} was glad of the`,
    ]),
    answer: handed,
    after: rng.pick([".", ` from ${a.name}.`, ` and thanked ${a.name}.`]),
    wrong: others,
  }));
}

/** A thing goes from hand to hand. */
export function tellHandOver(teller: Teller, a: Person, b: Person, c: Person): void {
  const { rng } = teller;
  const thing = rng.pick(OBJECTS);
  teller.say(() =>
    rng.pick([
      `${a.name} gave ${withArticle(thing)} to ${b.name}.`,
      `${b.name} got ${withArticle(thing)} from ${a.name}.`,
      `${a.name} lent ${b.name} ${withArticle(thing)}.`,
      `${a.name} let ${b.name} have ${withArticle(thing)}.`,
    ])
  );
  const [he, his] = b.female ? ["she", "her"] : ["he", "him"];
  const holder = rng.pick([a, b, c]);
  teller.say(() => {
    const later = rng.pick(["later", "the next day", "on Friday", "after lunch", "before long"]);
    if (holder === c) {
      return rng.pick([
        `${later} ${he} passed it on to ${c.name}.`,
        `${later} ${c.name} bought it from ${his}.`,
        `${later} ${c.name} asked ${his} for it and got it.`,
      ]);
    }
    if (holder === a) {
      return rng.pick([
        `${later} ${he} gave it back, and ${c.name} was watching.`,
        `${later} ${he} met ${c.name} and then took it back where it came from.`,
        `${later} ${he} did not need it any more and returned it, as ${c.name} knows.`,
      ]);
    }
    return rng.pick([
      `${later} ${c.name} asked ${his} for it, but ${he} kept it.`,
      `${later} ${he} showed it to ${c.name} and took it home.`,
      `${later} ${he} would not sell it to ${c.name}.`,
    ]);
  });
  teller.ask(() => ({
    before: rng.pick([
      `so the ${thing} was now with`,
      `in the end the ${thing} was in the house of`,
      `if you need the ${thing}, ask`,
      `that evening the ${thing} was used by`,
    ]),
    answer: holder.name,
    after: ".",
    wrong: [a, b, c].filter((person) => person !== holder).map((person) => person.name),
  }));
}
