import { assertEquals, assertRejects } from "@std/assert";
import fc from "fast-check";
import { runConcurrently } from "../../benchmarks/sweep/local_executor.ts";

const never = new AbortController().signal;
const ticks = async (n: number) => {
  for (let i = 0; i < n; i++) await Promise.resolve();
};

Deno.test("runConcurrently() runs everything once, in order, at most `jobs` at once", async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(fc.nat(9), { maxLength: 9 }), fc.integer({ min: 1, max: 4 }), async (lengths, jobs) => {
      const started: number[] = [];
      let alive = 0;
      let most = 0;
      await runConcurrently([...lengths.entries()], { jobs, signal: never }, async ([i, length]) => {
        started.push(i);
        most = Math.max(most, ++alive);
        await ticks(length);
        alive--;
      });
      assertEquals(started, [...lengths.keys()]);
      assertEquals(most, Math.min(jobs, lengths.length));
    }),
  );
});

Deno.test("runConcurrently() starts nothing after the signal, and waits for what runs", async () => {
  const controller = new AbortController();
  const ended: number[] = [];
  await runConcurrently([1, 2, 3, 4], { jobs: 2, signal: controller.signal }, async (item) => {
    if (item === 2) controller.abort();
    await ticks(5);
    ended.push(item);
  });
  assertEquals(ended, [1, 2]);
});

Deno.test("runConcurrently() passes on the first exception after the others have ended", async () => {
  const ended: number[] = [];
  const run = runConcurrently([1, 2, 3], { jobs: 2, signal: never }, async (item) => {
    if (item === 1) throw new RangeError("one");
    await ticks(9);
    ended.push(item);
  });
  await assertRejects(() => run, RangeError, "one");
  assertEquals(ended, [2]);
});
