import { assertEquals, assertMatch, assertThrows } from "@std/assert";
import { at } from "../../core/indexing.ts";
import { closedGates, parseConditions } from "../../reports/gate.ts";
import type { DoneRecord } from "../../core/schema.ts";
import { doneRecord, failedRecord } from "../support/reports_fixture.ts";
import { known } from "../support/values.ts";

Deno.test("parseConditions() reads names, operators, signs and percent", () => {
  assertEquals(parseConditions("perplexity > +2%, acc<-1 ,tg128 <= -.5 %"), [
    { text: "perplexity > +2%", name: "perplexity", operator: ">", limit: 2, relative: true },
    { text: "acc<-1", name: "acc", operator: "<", limit: -1, relative: false },
    { text: "tg128 <= -.5 %", name: "tg128", operator: "<=", limit: -0.5, relative: true },
  ]);
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
  closedGates(before, after, parseConditions(text));

Deno.test("closedGates() holds a condition exactly where the change passes the limit", () => {
  const before = [doneRecord(cell)];
  assertEquals(gates("perplexity > +2%", before, [changed(1.019)]), []);
  assertMatch(
    at(gates("perplexity > +2%", before, [changed(1.021)]), 0),
    /flap at 20 %: wikitext2 changed by \+2\.10 %/,
  );
  assertEquals(gates("perplexity < -2%", before, [changed(1.021)]), []);
  assertEquals(gates("arc_easy < -1", before, [changed(1, -0.9)]), []);
  assertMatch(
    at(gates("arc_easy < -1", before, [changed(1, -1.1)]), 0),
    /arc_easy changed by -1\.10.*"arc_easy < -1" holds/,
  );
  // `acc` is every task, and a second condition does not hide the first.
  assertEquals(gates("acc < -1, perplexity > 0", before, [changed(1.01, -2)]).length, 2);
});

Deno.test("closedGates() lets no missing result and no unknown name pass", () => {
  const before = [doneRecord(cell)];
  assertThrows(() => gates("boolq < -1", before, [changed(1)]), SyntaxError, 'no "boolq" on the same data');
  const two = [...before, doneRecord({ ...cell, sparsity: 0.4 })];
  const lost = gates("perplexity > +2%", two, [changed(1), failedRecord({ ...cell, sparsity: 0.4 })]);
  assertMatch(lost.join(), /flap at 40 %: has no result any more/);
});
