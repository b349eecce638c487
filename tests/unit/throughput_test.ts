import { assert, assertEquals } from "@std/assert";
import { timeInTurns, watchOtherCores } from "../../benchmarks/timing/throughput.ts";

Deno.test("timeInTurns() passes once untimed, then there and back, so that a drift of the machine meets all alike", async () => {
  let order = "";
  // A pass gives its place.
  const pass = (name: string) => () => Promise.resolve((order += name).length);
  assertEquals(await timeInTurns(4, [pass("d"), pass("p")]), [[3, 6, 7, 10], [4, 5, 8, 9]]);
  assertEquals(order, "dp" + "dp" + "pd" + "dp" + "pd");
  order = "";
  assertEquals(await timeInTurns(2, [pass("a"), pass("b"), pass("c")]), [[4, 9], [5, 8], [6, 7]]);
  assertEquals(order, "abc" + "abc" + "cba");
  order = "";
  assertEquals(await timeInTurns(3, [pass("p")]), [[2, 3, 4]]);
});

Deno.test("watchOtherCores() is what the machine did besides this program, per second", () => {
  const readings = [{ wall: 1000, machine: 50_000, own: 700 }, { wall: 3000, machine: 53_500, own: 2600 }];
  assertEquals(watchOtherCores(() => readings.shift()!)(), (3500 - 1900) / 2000);
  // Clocks of coarse steps may run backwards by one; a system may not tell.
  const coarse = [{ wall: 0, machine: 50, own: 0 }, { wall: 100, machine: 60, own: 12 }];
  assertEquals(watchOtherCores(() => coarse.shift()!)(), 0);
  assertEquals(watchOtherCores(() => ({ wall: 0, machine: 0, own: 0 }))(), null);
  // The real clocks: a loop of this program is its own.
  const cores = watchOtherCores();
  for (const until = performance.now() + 200; performance.now() < until;);
  const others = cores();
  assert(others !== null && others >= 0 && others <= navigator.hardwareConcurrency, `${others} cores`);
});
