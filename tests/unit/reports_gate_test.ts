import { assert, assertEquals, assertMatch, assertThrows } from "@std/assert";
import { at } from "../../core/util/indexing.ts";
import { sectionsOf } from "../../benchmarks/commands/reports.ts";
import { closedGates, parseConditions } from "../../reports/gate.ts";
import type { DoneRecord } from "../../core/schema/schema.ts";
import { doneRecord, failedRecord } from "../support/reports_fixture.ts";
import { known } from "../support/values.ts";

Deno.test("parseConditions() reads names, operators, signs and percent", () => {
  assertEquals(parseConditions("perplexity > +2%, acc<-1 ,tg128 <= -.5 %"), [
    { text: "perplexity > +2%", name: "perplexity", operator: ">", limit: 2, relative: true },
    { text: "acc<-1", name: "acc", operator: "<", limit: -1, relative: false },
    { text: "tg128 <= -.5 %", name: "tg128", operator: "<=", limit: -0.5, relative: true },
  ]);
  const names = ["notes.txt", "mean accuracy", "a/my notes, part 2.txt", "file:mine.ts", "größe"];
  assertEquals(parseConditions(names.map((name) => ` ${name} >1%`).join(",")).map(({ name }) => name), names);
  for (const wrong of ["", "perplexity", "perplexity > x", "perplexity = 2", "> 2", "acc < 1 < 2", "acc < 1,"]) {
    assertThrows(() => parseConditions(wrong), SyntaxError, "is not a condition");
  }
});

const cell = { method: "flap", sparsity: 0.2, damage: 0.5 };
/** The same cell with its perplexity times `factor`, and `points` more on ARC-Easy. */
function changed(factor: number, points = 0): DoneRecord {
  const record = doneRecord(cell);
  at(record.perplexity, 0).perplexity *= factor;
  known(at(record.tasks, 0).metrics.acc).value += points / 100;
  return record;
}
const gates = (text: string, before: DoneRecord[], after: (DoneRecord | ReturnType<typeof failedRecord>)[]) =>
  closedGates(sectionsOf(before), sectionsOf(after), parseConditions(text));

Deno.test("closedGates() holds a condition exactly where the change passes the limit", () => {
  const before = [doneRecord(cell)];
  assertEquals(gates("perplexity > +2%", before, [changed(1.019)]), []);
  const pattern = /flap at 20 %: wikitext2 changed by \+2\.10 %/;
  assertMatch(at(gates("perplexity > +2%", before, [changed(1.021)]), 0), pattern);
  assertEquals(gates("perplexity < -2%", before, [changed(1.021)]), []);
  assertEquals(gates("arc_easy < -1", before, [changed(1, -0.9)]), []);
  const form = /arc_easy changed by -1\.10.*"arc_easy < -1" holds/;
  assertMatch(at(gates("arc_easy < -1", before, [changed(1, -1.1)]), 0), form);
  const named = changed(1.03);
  at(named.perplexity, 0).corpus = "file:my/notes.txt";
  const plain = doneRecord(cell);
  at(plain.perplexity, 0).corpus = "file:my/notes.txt";
  assertMatch(at(gates("notes.txt > 1%", [plain], [named]), 0), /notes\.txt changed by \+3\.00 %/);
  assertEquals(gates("mean accuracy < -1", before, [changed(1, -9)]).length, 1);
  // `acc` is every task, and a second condition does not hide the first.
  assertEquals(gates("acc < -1, perplexity > 0", before, [changed(1.01, -2)]).length, 2);
});

Deno.test("closedGates() compares the seeds that both have, and all where they share none", () => {
  const run = (perplexities: Record<number, number>) =>
    Object.entries(perplexities).map(([seed, perplexity]) => {
      const record = doneRecord({ ...cell, seed: Number(seed) });
      at(record.perplexity, 0).perplexity = perplexity;
      return record;
    });
  const change = (before: Record<number, number>, after: Record<number, number>) =>
    /changed by (.*) %.*:/.exec(gates("perplexity > +2%", run(before), run(after)).join())?.[1];
  assertEquals(change({ 0: 20 }, { 0: 20, 1: 30, 2: 30 }), undefined);
  assertEquals(change({ 0: 20 }, { 0: 21, 1: 1, 2: 1 }), "+5.00");
  assertEquals(change({ 0: 20, 1: 30 }, { 1: 33, 2: 20 }), "+10.00");
  assertEquals(change({ 0: 20 }, { 1: 22 }), "+10.00");
});

Deno.test("acc is no perplexity of a task", () => {
  const rolling = (value: number) => {
    const record = doneRecord({ ...cell, tasks: ["arc_easy"] });
    const [task] = record.tasks;
    assert(task);
    task.metrics = { word_perplexity: { value, stderr: null, higherIsBetter: false } };
    return record;
  };
  assertThrows(() => gates("acc < -1", [rolling(30)], [rolling(20)]), SyntaxError, "acc");
  assertEquals(gates("arc_easy > 1", [rolling(20)], [rolling(30)]).length, 1);
});

Deno.test("closedGates() lets no missing result and no unknown name pass", () => {
  const before = [doneRecord(cell)];
  assertThrows(() => gates("constructor > 1", before, [changed(1)]), SyntaxError, "constructor");
  assertThrows(() => gates("boolq < -1", before, [changed(1)]), SyntaxError, 'no "boolq" on the same data');
  const two = [...before, doneRecord({ ...cell, sparsity: 0.4 })];
  const lost = gates("perplexity > +2%", two, [changed(1), failedRecord({ ...cell, sparsity: 0.4 })]);
  assertMatch(lost.join(), /flap at 40 %: has no result in the other run/);
});

Deno.test("closedGates() lets no result pass that is gone or was measured on other data, and no lost seed", () => {
  const seeds = (...own: number[]) => own.map((seed) => doneRecord({ ...cell, method: "mask-prune", seed }));
  const before = [doneRecord(cell), ...seeds(0, 1, 2)];
  const otherData = changed(1, -30);
  at(otherData.tasks, 0).dataset.sha256 = "0".repeat(64);
  const dropped = { ...doneRecord(cell), tasks: doneRecord(cell).tasks.slice(1) };
  for (const after of [otherData, dropped]) {
    assertEquals(gates("acc < -1", before, [after, ...seeds(0, 1, 2)]), [
      "SmolLM2-135M.gguf on tensorflow: flap at 20 %: arc_easy acc, n=200 of 2376, has no result on the same data any more",
    ]);
    assertEquals(gates("perplexity > +2%", before, [after, ...seeds(0, 1, 2)]), []);
  }
  const failed = [1, 2].map((seed) => failedRecord({ ...cell, method: "mask-prune", seed }));
  for (const [condition, count] of [["acc < -1", 2], ["speed < -90%", 2]] as const) {
    const closed = gates(condition, before, [doneRecord(cell), ...seeds(0), ...failed]);
    assertEquals(closed.filter((text) => text.endsWith("has results of 1 of 3 seeds")).length, count);
    assertEquals(closed.length, count);
  }
  // One seed of the row lacks one of its results.
  const [whole, part] = [seeds(0, 1), seeds(2).map((record) => ({ ...record, perplexity: [] }))];
  assertMatch(gates("perplexity > +90%", before, [doneRecord(cell), ...whole, ...part]).join(), /of 2 of 3 seeds$/);
  assertEquals(gates("mean < -90", [doneRecord(cell), ...whole], before), []);
});
