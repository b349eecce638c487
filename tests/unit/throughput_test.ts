import { assert, assertEquals } from "@std/assert";
import { watchOtherCores } from "../../benchmarks/evaluation/machine_load.ts";
import { timeInTurns } from "../../benchmarks/evaluation/throughput.ts";

Deno.test("timeInTurns() passes once untimed, then alternates, so that a drift of the machine meets both alike", async () => {
  const order: string[] = [];
  const work = (name: string) => () => Promise.resolve(void order.push(name));
  const { firstMs, secondMs } = await timeInTurns(4, work("dense"), work("pruned"));
  assertEquals([firstMs.length, secondMs.length], [4, 4]);
  assertEquals(order.map((name) => name.slice(0, 1)).join(""), "dp" + "dp" + "pd" + "dp" + "pd");
  assertEquals((await timeInTurns(3, undefined, work("pruned"))).firstMs, []);
  assertEquals(order.slice(10), ["pruned", "pruned", "pruned", "pruned"]);
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
