import { fileURLToPath } from "node:url";
import { assert, assertEquals } from "@std/assert";
import { take } from "../support/values.ts";
import { at } from "../../core/util/indexing.ts";
import { openModel } from "../../models/load.ts";
import { modelSize } from "../../models/count.ts";
import { loadCorpus, loadTask } from "../../datasets/load.ts";
import { tinyTasks, tinyWorld } from "../../datasets/tiny_world/mod.ts";
import { makeQuestions, type Question, QUESTION_KINDS } from "../../datasets/tiny_world/questions.ts";
import { tellDocuments } from "../../datasets/tiny_world/stories.ts";
import { type Split, splitOf, SPLITS } from "../../datasets/tiny_world/telling.ts";
import { ANIMALS, PEOPLE, TRADES, VILLAGES } from "../../datasets/tiny_world/world.ts";
import { dataFiles } from "../../tools/setup/tiny/data.ts";
import { tokenizerJson, trainBpe } from "../../tools/setup/tiny/bpe.ts";

const NUMBERS = "zero one two three four five six seven eight nine ten eleven twelve".split(" ");

/** Sentences of a text, by their full stops alone. */
const sentencesOf = (text: string): string[] => text.match(/[^.\s][^.]*\./g) ?? [];

const committed = new Map<Split, string[]>();
for (const split of SPLITS) committed.set(split, (await loadCorpus(tinyWorld, { split })).texts);

const questions = (kind: (typeof QUESTION_KINDS)[number]): Question[] =>
  makeQuestions(kind, { split: "test", count: 200, seed: 11 });
const rightAnswer = ({ choices, gold }: Question) => at(choices, gold);

Deno.test("tellDocuments() tells texts of different splits that share no sentence", () => {
  const seen = new Map<string, Split>();
  for (const split of SPLITS) {
    // The committed texts, and another seed's: the one that the model saw was a third.
    const texts = [...committed.get(split)!, ...tellDocuments({ split, count: 1000, seed: 5 })];
    for (const sentence of texts.flatMap(sentencesOf)) {
      const other = seen.get(sentence);
      assert(other === undefined || other === split, `"${sentence}" is in ${other} and in ${split}`);
      seen.set(sentence, split);
    }
  }
  assert(seen.size > 50_000, `only ${seen.size} sentences were compared`);
});

Deno.test("tellDocuments() gives the same text for the same seed and another for another", () => {
  const tell = (seed: number) => tellDocuments({ split: "validation", count: 20, seed }).join("\n");
  assertEquals(tell(1), tell(1));
  assert(tell(1) !== tell(2));
});

Deno.test("tellDocuments() tells tidy sentences", () => {
  for (const text of tellDocuments({ split: "train", count: 3000, seed: 2 })) {
    const problem = /\ba [aeiou]|\ban (?!hour)[^aeiou]|\s\s|undefined|[.,]{2}|\s[.,]|\. [a-z]/.exec(
      text,
    );
    assert(problem === null, `"${problem?.[0]}" in: ${text}`);
    assertEquals(sentencesOf(text).join(" "), text);
    for (const sentence of sentencesOf(text)) assert(/^[A-Z]/.test(sentence), sentence);
  }
});

Deno.test("splitOf() deals ten of sixteen sentences to training and two to each other split", () => {
  const counts = new Map<Split, number>();
  const total = 40_000;
  for (let i = 0; i < total; i++) {
    const split = splitOf(`Sentence number ${i}`);
    counts.set(split, (counts.get(split) ?? 0) + 1);
  }
  for (const split of SPLITS) {
    const share = (split === "train" ? 10 : 2) / 16;
    // Five standard deviations of a binomial count.
    const tolerance = 5 * Math.sqrt(total * share * (1 - share));
    assert(Math.abs(counts.get(split)! - total * share) < tolerance, `${split}: ${counts.get(split)}`);
  }
});

Deno.test("makeQuestions() asks with sentences that occur in no other split", () => {
  const others = SPLITS.filter((split) => split !== "test");
  const texts = others.flatMap((
    split,
  ) => [...committed.get(split)!, ...tellDocuments({ split, count: 1000, seed: 5 })]);
  const heard = new Set(texts.flatMap(sentencesOf));
  for (const kind of QUESTION_KINDS) {
    for (const question of questions(kind)) {
      const told = `${question.context} ${rightAnswer(question)}${question.after}`;
      for (const sentence of sentencesOf(told)) assert(!heard.has(sentence), sentence);
    }
  }
});

Deno.test("makeQuestions() gives different questions with the right answer anywhere among different choices", () => {
  const choiceCounts = { facts: 4, counting: 4, agreement: 2, coreference: 3 };
  for (const kind of QUESTION_KINDS) {
    const asked = questions(kind);
    assertEquals(new Set(asked.map(({ context }) => context)).size, asked.length);
    for (let place = 0; place < choiceCounts[kind]; place++) {
      const share = asked.filter(({ gold }) => gold === place).length / asked.length;
      assert(Math.abs(share - 1 / choiceCounts[kind]) < 0.15, `${kind}: ${share} of the answers at ${place}`);
    }
    for (const { choices, context } of asked) {
      assertEquals(new Set(choices).size, choiceCounts[kind], context);
    }
  }
});

Deno.test("makeQuestions() counts rightly", () => {
  for (const question of questions("counting")) {
    const answer = NUMBERS.indexOf(rightAnswer(question));
    const said = [...question.context.matchAll(/\b[a-z]+\b/gi)]
      .map(([word]) => NUMBERS.indexOf(word.toLowerCase())).filter((n) => n > 0);
    const { context, category } = question;
    if (category === "roll-call") {
      const list = at(sentencesOf(context), 0);
      const names = list.match(/[A-Z][a-z]+(?=,| and| (met|played|sat|danced|sang))/g)?.length ?? 0;
      const things = list.match(/\ban? /g)?.length ?? 0;
      assertEquals(answer, Math.max(names, things), context);
    } else if (said.length === 4) {
      // First more, told again, then fewer.
      assertEquals(said[2], at(said, 0) + at(said, 1), context);
      assertEquals(answer, at(said, 2) - at(said, 3), context);
    } else {
      const fewer = / of them\b/.test(context);
      assertEquals(said.length, 2, context);
      assertEquals(answer, fewer ? at(said, 0) - at(said, 1) : at(said, 0) + at(said, 1), context);
    }
  }
});

Deno.test("makeQuestions() asks for the verb that agrees with the subject", () => {
  const singular = /^(is|was|has|.*s)$/;
  let checked = 0;
  for (const question of questions("agreement")) {
    const { context } = question;
    const subject = context.slice(context.lastIndexOf(". ") + 2);
    const one = /\b([Oo]ne of the|[Ee]ach of the|[Ee]very)\b/.test(subject);
    const many = /\b([Aa]ll|[Ss]ome|[Mm]any|[Bb]oth|[Mm]ost) of the\b/.test(subject) ||
      /^[Tt]he [a-z]+ and the [a-z]+$/.test(subject);
    if (!one && !many) continue;
    checked++;
    assertEquals(singular.test(rightAnswer(question)), one, `${context} ${rightAnswer(question)}`);
  }
  assert(checked > 30, `only ${checked} subjects were recognised`);
});

Deno.test("makeQuestions() means the only woman by she and the only man by he", () => {
  const female = new Map(PEOPLE.map((person) => [person.name, person.female]));
  const owners = questions("coreference").filter(({ category }) => category === "owners");
  for (const question of owners) {
    const [list, deed] = take(sentencesOf(question.context), 2);
    const owned = [...list.matchAll(/([A-Z][a-z]+) [a-z]+ an? ([a-z]+)/g)];
    const isShe = /\bshe\b/i.test(deed);
    const meant = owned.filter(([, name = ""]) => female.get(name) === isShe);
    assertEquals(meant.length, 1, question.context);
    assert(at(meant, 0).slice(1).includes(rightAnswer(question)), `${question.context} ${rightAnswer(question)}`);
  }
});

Deno.test("makeQuestions() asks for facts of the world", () => {
  const known = new Map<string, string[]>();
  for (const { name, female: _, ...facts } of PEOPLE) known.set(name, Object.values(facts));
  for (const { name, ...facts } of VILLAGES) known.set(name, Object.values(facts));
  for (const { name, ...facts } of TRADES) known.set(name, Object.values(facts).flat());
  for (const { name, ...facts } of ANIMALS) known.set(name, Object.values(facts));
  for (const question of questions("facts")) {
    const words = question.context.split(/[^A-Za-z]+/);
    const answer = rightAnswer(question).replace(/^an? (?=[a-z]+$)/, "");
    const facts = words.flatMap((word) => known.get(word) ?? []);
    assert(facts.includes(answer) || facts.includes(rightAnswer(question)), `${question.context} ${answer}`);
  }
});

Deno.test("dataFiles() tells the committed files again", async () => {
  const folder = new URL("../../datasets/tiny_world/data/", import.meta.url);
  for (const [name, text] of dataFiles()) {
    const { readable } = await Deno.open(new URL(name, folder));
    const stream = name.endsWith(".gz") ? readable.pipeThrough(new DecompressionStream("gzip")) : readable;
    const found = await new Response(stream).text();
    assert(found === text, `${name} is out of date: run deno task train:tiny --data-only`);
  }
});

Deno.test("tinyTasks and tinyWorld read their committed data", async () => {
  for (const task of tinyTasks) {
    const { examples, dataset } = await loadTask(task);
    assertEquals(examples.length, 400, task.id);
    assertEquals(dataset.split, "test");
    for (const { choices, gold } of examples) {
      assert(gold < choices.length);
      assert(
        choices.every(({ context, continuation }) => context === at(choices, 0).context && /^ \S/.test(continuation)),
      );
    }
  }
  for (const split of SPLITS) assert(committed.get(split)!.length >= 500, split);
});

Deno.test("trainBpe() merges the most frequent pair first and gives every token one id", () => {
  const { merges, tokens } = trainBpe(["ab ab ab cab", "abc abc"], { vocabSize: 262, special: ["<s>", "</s>"] });
  // "ab" is in six words, " ab" in three of them ("ab cab" has a space before c), "abc" in two.
  assertEquals(merges.slice(0, 2), [["a", "b"], ["Ġ", "ab"]]);
  assertEquals(tokens.slice(0, 2), ["<s>", "</s>"]);
  assertEquals(tokens.length, 262);
  assertEquals(new Set(tokens).size, tokens.length);
  const { model } = tokenizerJson({ merges, tokens }, ["<s>", "</s>"]) as { model: { vocab: Record<string, number> } };
  assertEquals(model.vocab["Ġab"], tokens.indexOf("Ġab"));
});

Deno.test("openModel() opens the bundled model: multi-head, 1 to 3 million parameters, at most 6 MB", async () => {
  const { source, tokenizer } = await openModel("tiny");
  try {
    const { parameters } = modelSize(source.config);
    assert(parameters > 1e6 && parameters < 3e6, `${parameters} parameters`);
    assert(source.config.layers.every(({ queryHeadsPerGroup }) => queryHeadsPerGroup === 1));
    const folder = fileURLToPath(new URL("../../models/tiny/", import.meta.url));
    assert((await Deno.stat(`${folder}model.safetensors`)).size <= 6e6);
    assertEquals(tokenizer.addsBos, false);
    assertEquals([tokenizer.tokenText(0), tokenizer.tokenText(1)], ["<s>", "</s>"]);
    const text = committed.get("test")!.slice(0, 50).join(tinyWorld.joiner);
    const ids = tokenizer.encode(text);
    assertEquals(tokenizer.decode(ids), text);
    const words = text.split(/\s+/).length;
    assert(ids.length < 1.4 * words, `${ids.length} tokens for ${words} words`);
  } finally {
    source.close();
  }
});
