/** Connected little stories: somebody sets out with something, things happen, and in the evening all is told again.
 *
 * @module
 */
import { tellDescription } from "./agreement.ts";
import { tellHerd, tellRollCall, tellSum, tellTogether } from "./counting.ts";
import { tellAnimals, tellPortrait, tellTrade, tellVillage } from "./facts.ts";
import { oddOneOut, tellHandOver, tellOwners, tellShopping } from "./reference.ts";
import { createRng } from "../../core/util/rng.ts";
import { chance, pickSome, type Split, tellDocument, type Teller, withArticle } from "./telling.ts";
import { OBJECTS, PLACES, TIMES } from "./things.ts";
import { COLOURS, PEOPLE, type Person, PETS, tradeNamed, villageNamed, VILLAGES } from "./world.ts";

const she = (person: Person) => person.female ? "she" : "he";
const her = (person: Person) => person.female ? "her" : "him";

/** Weather and what one does about it. */
const WEATHERS: readonly (readonly [weather: string, deeds: readonly string[]])[] = [
  ["it was raining", ["took an umbrella", "put on a raincoat", "ran from roof to roof"]],
  ["it was snowing", ["put on warm mittens", "pulled a sledge", "left deep footprints"]],
  ["it was foggy", ["lit a lantern", "walked slowly", "rang a little bell"]],
  ["it was hot", ["walked in the shade", "wore a straw hat", "drank cold water"]],
  ["it was windy", ["held on to the hat", "flew a kite on the way", "tied the scarf tight"]],
  ["the roads were muddy", ["wore tall boots", "walked on the wall", "kept to the grass"]],
];

/** What the middle of a story needs: the one who sets out, a friend of the other gender, a third, and the thing. */
interface Cast {
  a: Person;
  b: Person;
  c: Person;
  thing: string;
}

function tellDeparture(teller: Teller, { a, thing }: Cast): void {
  const { rng } = teller;
  const goal = rng.pick(VILLAGES.filter((village) => village.name !== a.home));
  teller.say(() => {
    const went = rng.pick(["went", "walked", "set out", "rode", "hurried"]);
    const carrying = rng.pick(["with", "carrying", "and took along"]);
    return `${rng.pick(TIMES)} ${a.name} ${went} from ${a.home} to ${goal.name} ${carrying} ${withArticle(thing)}.`;
  });
  if (chance(rng, 0.6)) {
    const [weather, deeds] = rng.pick(WEATHERS);
    const because = rng.pick([0, 1]);
    teller.say(() => {
      const [deed, time] = [rng.pick(deeds), rng.pick(["", " all day", " that day", " still", " again"])];
      const who = rng.pick([she(a), a.name]);
      return because ? `${weather}${time}, so ${who} ${deed}.` : `${who} ${deed}, because ${weather}${time}.`;
    });
  }
  if (chance(rng, 0.5)) {
    teller.say(() => {
      const saw = rng.pick(["saw", "passed", "stopped at", "admired", "rested near"]);
      const where = rng.pick([`in ${goal.name}`, `at last ${a.name} came to ${goal.name} and`]);
      const subject = where.endsWith("and") ? "" : ` ${she(a)}`;
      return `${where}${subject} ${saw} the ${goal.landmark} beside ${goal.beside}.`;
    });
  }
}

function tellMeeting(teller: Teller, { a, b }: Cast): void {
  const { rng } = teller;
  const place = rng.pick(PLACES);
  const trade = tradeNamed(b.job);
  teller.say(() =>
    rng.pick([
      `${place} ${she(a)} met ${b.name}, the ${b.job} from ${b.home}.`,
      `${place} ${b.name} the ${b.job} was waiting with ${b.female ? "her" : "his"} ${b.pet}.`,
      `${trade.at} ${she(a)} found ${b.name} ${trade.work[2]}.`,
      `${b.name} the ${b.job} sat ${place} and ate ${b.food}.`,
      `${place} stood ${b.name} in ${b.colour}, the friend of ${b.friend}.`,
    ])
  );
  if (chance(rng, 0.6)) {
    const home = villageNamed(b.home);
    teller.say(() =>
      rng.pick([
        `${she(b)} spoke of ${b.hobby} and of the ${home.product} of ${home.name}.`,
        `${b.name} told ${her(a)} about ${b.hobby} and about ${b.friend}.`,
        `${b.name} asked ${her(a)} about the ${a.pet} and about the ${villageNamed(a.home).landmark} of ${a.home}.`,
        `they talked about ${a.hobby}, which ${a.name} likes, and ${b.hobby}, which ${b.name} likes.`,
      ])
    );
  }
}

/** Something is put somewhere, moved, and found again. */
function tellMove(teller: Teller, { a, b, thing }: Cast): void {
  const { rng } = teller;
  const [first, second] = pickSome(rng, PLACES, 2);
  const moved = chance(rng, 0.6);
  teller.say(() =>
    `${rng.pick(["then ", "", "there "])}${a.name} ${rng.pick(["put", "left", "set"])} the ${thing} ${first}.`
  );
  if (moved) {
    teller.say(() => `${b.name} ${rng.pick(["moved it to a better place", "took it and left it"])} ${second}.`);
  } else {teller.say(() =>
      `${b.name} looked at it and ${rng.pick(["sat down", "had a rest", "fell asleep"])} ${second}.`
    );}
  teller.say(() =>
    `so ${rng.pick(["later", "at noon", "in the evening", "the next day"])} the ${thing} was ${moved ? second : first}.`
  );
}

function tellSwap(teller: Teller, { a, b, thing }: Cast): void {
  const { rng } = teller;
  const other = `${rng.pick(COLOURS)} ${rng.pick(OBJECTS.filter((object) => !thing.endsWith(object)))}`;
  teller.say(() => `${b.name} had ${withArticle(other)} and ${rng.pick(["wanted", "liked", "needed"])} the ${thing}.`);
  teller.say(() => `so ${rng.pick([a.name, b.name])} and ${rng.pick(["the other", "the friend"])} made a swap.`);
  teller.say(() =>
    rng.pick([
      `now ${a.name} had the ${other} and ${b.name} had the ${thing}.`,
      `now the ${thing} was with ${b.name} and the ${other} with ${a.name}.`,
      `${b.name} went off with the ${thing}, and ${a.name} kept the ${other}.`,
    ])
  );
}

function tellStray(teller: Teller, { a, b }: Cast): void {
  const { rng } = teller;
  const [first, second, last] = pickSome(rng, PLACES, 3);
  teller.say(() =>
    `the ${b.pet} of ${b.name} ${rng.pick(["ran away", "got lost", "was gone", "hid"])}${
      rng.pick(["", " at noon", " again"])
    }.`
  );
  teller.say(() =>
    `${rng.pick(["they", `${a.name} and ${b.name}`, `${b.name} and ${a.name}`])} looked ${first} and ${second}, but ${
      rng.pick(["found nothing", "it was not there"])
    }.`
  );
  teller.say(() =>
    `${rng.pick(["at last", "in the end", "an hour later"])} ${a.name} found the ${b.pet} ${last} with some ${
      PETS[b.pet]
    }.`
  );
}

function tellReturn(teller: Teller, { a, b, thing }: Cast): void {
  const { rng } = teller;
  const fed = PETS[a.pet];
  teller.say(() => {
    const when = rng.pick(["in the evening", "at sunset", "when it got dark", "after that", "late in the day"]);
    return rng.pick([
      `${when} ${a.name} went home to ${a.home} and gave ${fed} to the ${a.pet}.`,
      `${when} ${she(a)} was back in ${a.home}, where the ${a.pet} was waiting for ${fed}.`,
      `${when} ${a.name} was at home in ${a.home} and told ${a.friend} about the ${thing}.`,
      `${when} ${b.name} walked ${her(a)} home to ${a.home}.`,
    ]);
  });
  if (chance(rng, 0.6)) {
    teller.say(() =>
      rng.pick([
        `there was ${a.food} for supper, and ${a.name} went to bed ${rng.pick(["happy", "tired", "early", "late"])}.`
          .replace(
            "was",
            a.food.endsWith("s") ? "were" : "was",
          ),
        `before bed ${a.name} did some ${a.hobby}, as ${she(a)} does every ${rng.pick(["night", "Sunday", "week"])}.`,
        `${a.name} put the ${thing} beside the ${a.colour} ${rng.pick(["door", "chair", "bed", "curtain"])} and slept.`,
        `the next day ${she(a)} was ${tradeNamed(a.job).work[2]} again ${tradeNamed(a.job).at}.`,
      ])
    );
  }
}

/** Somebody's day: departure, meeting, one or two scenes, return. */
export function tellDay(teller: Teller): void {
  const { rng } = teller;
  const [a, b, c] = oddOneOut(teller);
  const cast: Cast = { a, b, c, thing: `${rng.pick(COLOURS)} ${rng.pick(OBJECTS)}` };
  tellDeparture(teller, cast);
  if (chance(rng, 0.8)) tellMeeting(teller, cast);
  for (const scene of pickSome(rng, ["move", "swap", "stray", "sum", "shopping", "hand-over"], 1 + rng.integer(2))) {
    if (scene === "move") tellMove(teller, cast);
    else if (scene === "swap") tellSwap(teller, cast);
    else if (scene === "stray") tellStray(teller, cast);
    else if (scene === "sum") tellSum(teller, a, b);
    else if (scene === "shopping") tellShopping(teller, a, b);
    else tellHandOver(teller, a, b, c);
  }
  tellReturn(teller, cast);
}

/** Kinds of counting scenes. */
export const COUNTING_KINDS = ["sum", "together", "herd", "roll-call"] as const;

/** A counting scene on its own. */
export function tellCounting(teller: Teller, kind: (typeof COUNTING_KINDS)[number]): void {
  const [a, b] = pickSome(teller.rng, PEOPLE, 2);
  if (kind === "sum") tellSum(teller, a, b);
  else if (kind === "together") tellTogether(teller, a, b);
  else if (kind === "herd") tellHerd(teller);
  else tellRollCall(teller);
}

/** Kinds of scenes with pronouns. */
export const REFERENCE_KINDS = ["owners", "shopping", "hand-over"] as const;

/** A scene with pronouns on its own. */
export function tellReference(teller: Teller, kind: (typeof REFERENCE_KINDS)[number]): void {
  const people = oddOneOut(teller);
  if (kind === "owners") tellOwners(teller, people);
  else if (kind === "shopping") tellShopping(teller, people[0], people[1]);
  else tellHandOver(teller, ...people);
}

/** Kinds of documents and how often each is told, in percent. */
const DOCUMENTS: readonly (readonly [percent: number, tell: (teller: Teller) => void])[] = [
  [16, tellDay],
  [12, (teller) => tellCounting(teller, "sum")],
  [9, (teller) => tellCounting(teller, teller.rng.pick(COUNTING_KINDS))],
  [10, (teller) => tellReference(teller, "owners")],
  [10, (teller) => tellReference(teller, teller.rng.pick(REFERENCE_KINDS))],
  [11, (teller) => tellDescription(teller, 2 + teller.rng.integer(3))],
  [20, tellPortrait],
  [3, tellVillage],
  [4, tellTrade],
  [5, tellAnimals],
];

/** One document of a random kind. */
export function tellAnything(teller: Teller): void {
  let draw = teller.rng.integer(100);
  for (const [percent, tell] of DOCUMENTS) {
    if (draw < percent) return tell(teller);
    draw -= percent;
  }
}

/** `count` documents of one split, told from `seed`. */
export function tellDocuments({ split, count, seed }: { split: Split; count: number; seed: number }): string[] {
  const rng = createRng(seed, `tiny-world/text/${split}`);
  return Array.from({ length: count }, () => tellDocument(rng, split, tellAnything).sentences.join(" "));
}
