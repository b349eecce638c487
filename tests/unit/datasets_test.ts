import { fileURLToPath } from "node:url";
import { assertEquals, assertMatch } from "@std/assert";
import { take } from "../support/values.ts";
import { at } from "../../core/util/indexing.ts";
import { codePointLength, utf8Length } from "../../core/util/python_text.ts";
import type { Example } from "../../datasets/define.ts";
import { loadCorpus, loadTask } from "../../datasets/load.ts";
import { corpora, getCorpus, getTask, tasks } from "../../datasets/mod.ts";

// The records are invented; the expected values came from lm-evaluation-harness's own templates and functions run on
// them.
const data = fileURLToPath(new URL("../../datasets/fixtures", import.meta.url));
const examplesOf = async (id: string): Promise<Example[]> => (await loadTask(getTask(id), { data })).examples;
const contexts = ({ choices }: Example) => choices.map(({ context }) => context);
const continuations = ({ choices }: Example) => choices.map(({ continuation }) => continuation);

Deno.test("boolq asks a question about the passage and offers no, yes", async () => {
  const [, second] = take(await examplesOf("boolq"), 2);
  const context = "River Oss -- The Oss runs for 90 km; the Tarn for 40 km.\n" +
    "Question: is the river Tarn longer than the river Oss?\nAnswer:";
  assertEquals(contexts(second), [context, context]);
  assertEquals(continuations(second), [" no", " yes"]);
  assertEquals(second.gold, 0);
});

Deno.test("piqa offers both solutions after the goal", async () => {
  const examples = await examplesOf("piqa");
  assertEquals(contexts(at(examples, 2))[0], "Question: Keep café menus flat\nAnswer:");
  const found = continuations(at(examples, 2));
  assertEquals(found, [" Place them under a heavy book overnight", " Place them under a feather overnight"]);
  assertEquals(examples.map(({ gold }) => gold), [0, 1, 0]);
});

Deno.test("hellaswag cleans WikiHow marks, lowers the second sentence and counts characters", async () => {
  const [first, second, third] = take(await examplesOf("hellaswag"), 3);
  const lengths = ({ choices }: Example) => choices.map(({ text }) => codePointLength(text));
  assertEquals(contexts(first)[0], "Mopping floor: A man fills a bucket in the kitchen. The nasa engineer");
  assertEquals(continuations(first)[1], " flies over the roof.");
  assertEquals(lengths(first), [31, 20, 16, 13]);
  assertEquals(contexts(second)[0], "Home and Garden: How to store bulbs. Dry them first. Lay the bulbs on a tray.");
  const ends = [" Freeze the tray. Use ice.", " Keep the tray in a dry room for a week.", "  Boil them."];
  assertEquals(continuations(second), [...ends, " Sell the tray."]);
  assertEquals(lengths(second), [25, 39, 11, 14]);
  assertEquals(contexts(third)[0], "Archery: An archer lifts a bow. She");
  assertEquals(lengths(third), [14, 15, 27, 18]);
  assertEquals(third.choices.map(({ text }) => utf8Length(text)), [14, 15, 27, 19]);
  assertEquals([first, second, third].map(({ gold }) => gold), [0, 1, 2]);
});

Deno.test("winogrande scores the same continuation after both options", async () => {
  const [, second, third] = take(await examplesOf("winogrande"), 3);
  assertEquals(contexts(second), ["Ana thanked Bea for the lift since Ana", "Ana thanked Bea for the lift since Bea"]);
  assertEquals(continuations(second), [" had driven all night.", " had driven all night."]);
  assertEquals(contexts(third), ["Omar", "Lee"]);
  assertEquals(continuations(third)[0], " asked Omar for salt, as the soup of Lee was bland.");
  assertEquals([second.gold, third.gold], [1, 1]);
});

Deno.test("arc_easy, arc_challenge and openbookqa find the labelled answer", async () => {
  const golds = async (id: string) => (await examplesOf(id)).map(({ gold }) => gold);
  assertEquals(await golds("arc_easy"), [1, 2, 0]);
  assertEquals(await golds("arc_challenge"), [1, 2, 2]);
  assertEquals(await golds("openbookqa"), [0, 2, 0]);
  assertEquals(contexts(at(await examplesOf("arc_easy"), 1))[0], "Question: What do roots take in?\nAnswer:");
  const first = at(await examplesOf("openbookqa"), 0);
  assertEquals(contexts(first)[0], "A magnet will pull on");
  assertEquals(continuations(first)[2], " a cup of milk");
});

Deno.test("wikitext2 joins its lines with an empty line, empty records included", async () => {
  const { texts, dataset } = await loadCorpus(getCorpus("wikitext2"), { data });
  const text = texts.join(getCorpus("wikitext2").joiner);
  const mill = "The Tarn Mill is a 19th @-@ century mill ; it ground 1 @,@ 200 sacks a year .";
  assertEquals(text, `\n\n = Tarn Mill = \n\n\n ${mill} \n`);
  assertEquals([dataset.split, dataset.source], ["test", "wikitext2-test.jsonl"]);
});

Deno.test("wikitext detokenises pages as lm-evaluation-harness does", async () => {
  const corpus = getCorpus("wikitext");
  const { texts } = await loadCorpus(corpus, { data });
  assertEquals(texts.map((page) => corpus.detokenise!(page)), [
    " = Tarn Mill =\n\nThe Tarn Mill is a 19th-century mill (now closed); it ground 1,200 sacks.\n",
    ' = Oss =\n\n== Course ==\n\nThe Oss falls 3.5 m at "Low Gate", near Ely.\n',
    " = Kite =\n\nA kite's tail steadies it: no N° needed!\n",
  ]);
});

Deno.test("wikitext2 makes pages of lines: titles begin one, sections do not", () => {
  const lines = ["", " = Oss = \n", "", " = = Course = = \n", " It falls . \n", "", " = Kite = \n", " It flies . \n"];
  const found = getCorpus("wikitext2").documents!(lines);
  assertEquals(found, [" = Oss = \n \n = = Course = = \n It falls . \n ", " = Kite = \n It flies . \n"]);
  // Plain text is read as records without line ends.
  const plain = getCorpus("wikitext2").documents!([" ", " = Kite = ", " It flies . ", ""]);
  assertEquals(plain, [" = Kite = \n It flies . \n"]);
});

Deno.test("ptb and c4 use the splits and joiners of the papers", async () => {
  const ptb = getCorpus("ptb-test-space");
  const { texts } = await loadCorpus(ptb, { data });
  const text = "the mill <unk> said profit rose N N to $ N million mr. tarn is chairman of oss n.v. the ferry group ";
  assertEquals(texts.join(ptb.joiner), `${text}it did n't name a buyer`);
  assertEquals([getCorpus("ptb-valid-nl2").evaluationSplit, getCorpus("ptb-valid-nl2").joiner], ["validation", "\n\n"]);
  const c4 = getCorpus("c4");
  const { texts: web, dataset } = await loadCorpus(c4, { data });
  assertEquals(web[0], "Our mill opens at nine.\nBring boots.");
  assertEquals([web.length, c4.joiner, dataset.split], [3, " ", "validation"]);
});

Deno.test("the registries have the seven tasks of the papers, each data set a licence, one place and the splits that are used", () => {
  const papers = ["boolq", "piqa", "hellaswag", "winogrande", "arc_easy", "arc_challenge", "openbookqa"];
  assertEquals([...tasks.keys()].filter((id) => papers.includes(id)), papers);
  for (const { id, licence, source, summary, hub, folder } of [...tasks.values(), ...corpora.values()]) {
    assertEquals([licence, source, summary].every((text) => text.length > 0), true, id);
    assertMatch(id, /^[a-z][a-z0-9]*([_-][a-z0-9]+)*$/);
    assertEquals(hub === undefined, folder !== undefined, id);
  }
  assertEquals([tasks.size, corpora.size], [11, 7]);
  for (const { splits, evaluationSplit, calibrationSplit } of corpora.values()) {
    assertEquals([evaluationSplit, calibrationSplit].filter((split) => !(split in splits)), []);
  }
});
