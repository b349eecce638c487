import { assertEquals, assertThrows } from "@std/assert";
import { at } from "../../core/util/indexing.ts";
import { UsageError } from "../../core/util/errors.ts";
import { compareExamples, isSound } from "../../tools/checks/check_lm_eval.ts";
import { type CheckedExample, readSamples } from "../../tools/checks/lm_eval_harness.ts";

const tolerance = 1e-5;

const example = (values: number[], greedy = values.map(() => false)): CheckedExample => ({
  answers: values.map((logLikelihood, i) => ({ logLikelihood, isGreedy: greedy[i] })),
  lengths: [4, 8].slice(0, values.length),
  ...{ hashes: ["t", "p", "d"], fields: 1 },
  outcomes: { acc: Number(at(values, 0) > at(values, 1)) },
});

Deno.test("compareExamples() counts differences, decisions, ties, greedy flags and hashes", () => {
  const ours = [example([-4, -6]), example([-4, -4.000001]), example([-3, -9]), example([-1, -5])];
  const equal = compareExamples(ours, ours, tolerance);
  assertEquals([equal.examples, equal.answers, equal.worst, isSound(equal)], [4, 8, 0, true]);
  const theirs = [
    { ...example([-4, -6]), hashes: ["t", "p", "e"] },
    // A tie of acc falls the other way; by length the decision is the same.
    example([-4.000001, -4]),
    // acc stays, acc_norm turns.
    example([-3, -5]),
    example([-1, -5], [true, false]),
  ];
  const found = compareExamples(ours, theirs, tolerance);
  assertEquals([found.differing, found.decisions, found.ties, found.greedy, found.hashes], [1, 1, 1, 1, 1]);
  assertEquals([found.worst, isSound(found)], [4, false]);
  // A record with more fields than ours is known by prompt and target.
  const [first] = ours as [CheckedExample];
  const other = (...hashes: string[]) => [{ ...first, hashes, fields: 3 }];
  assertEquals(compareExamples([first], other("t", "p", "e"), tolerance).hashes, 0);
  assertEquals(compareExamples([first], other("t", "q", "d"), tolerance).hashes, 1);
  assertEquals(found.means, { acc: { ours: 1, theirs: 0.75 } });
});

Deno.test("compareExamples() counts NaN as a difference and refuses another number of examples or choices", () => {
  const whole = (logLikelihood: number): CheckedExample => ({
    answers: [{ logLikelihood }],
    lengths: [],
    ...{ hashes: [], fields: 0 },
    outcomes: {},
  });
  assertEquals(compareExamples([whole(NaN)], [whole(-1)], tolerance).differing, 1);
  assertThrows(() => compareExamples([whole(-1)], [], tolerance), UsageError, "The harness has 0 examples");
  assertThrows(() => compareExamples([whole(-1)], [example([-1, -2])], tolerance), UsageError, "2 answers");
});

Deno.test("readSamples() reads choices and whole documents", () => {
  const lines = [
    { filtered_resps: [["-3.25", "False"], ["-1e-07", "True"]], metrics: ["acc"], acc: 1 },
    { filtered_resps: ["-812.4"], metrics: ["word_perplexity"], word_perplexity: [-812.4, 9] },
  ].map((line) => ({ ...line, doc: {}, doc_hash: "d", prompt_hash: "p", target_hash: "t" })).map((line) =>
    `${JSON.stringify(line)}\n`
  ).join("");
  assertEquals(readSamples(lines), [
    {
      answers: [{ logLikelihood: -3.25, isGreedy: false }, { logLikelihood: -1e-7, isGreedy: true }],
      lengths: [],
      ...{ hashes: ["t", "p", "d"], fields: 0 },
      outcomes: { acc: 1 },
    },
    { answers: [{ logLikelihood: -812.4 }], lengths: [], hashes: ["t", "p", "d"], fields: 0, outcomes: {} },
  ]);
});
