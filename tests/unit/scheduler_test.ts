import { assert, assertEquals, assertRejects } from "@std/assert";
import fc from "fast-check";
import { runConcurrently } from "../../benchmarks/executors/scheduler.ts";

const never = new AbortController().signal;
const ticks = async (n: number) => {
  for (let i = 0; i < n; i++) await Promise.resolve();
};

Deno.test("runConcurrently() runs everything, at most `jobs` at once, and nothing beside who has a turn", async () => {
  const worker = fc.record({
    before: fc.nat(6),
    during: fc.nat(6),
    after: fc.nat(6),
    timed: fc.boolean(),
    ends: fc.constantFrom("normally", "while waiting", "while alone"),
  });
  await fc.assert(
    fc.asyncProperty(fc.array(worker, { maxLength: 9 }), fc.integer({ min: 1, max: 4 }), async (workers, jobs) => {
      const started: number[] = [];
      let computing = 0;
      let alive = 0;
      let alone = false;
      await runConcurrently(
        workers.map((work, i) => ({ ...work, i })),
        { jobs, signal: never },
        async (work, turns) => {
          started.push(work.i);
          alive++;
          computing++;
          assert(alive <= jobs, "too many at once");
          assert(!alone, "started beside a turn");
          await ticks(work.before);
          computing--;
          if (work.timed) {
            const turn = turns.take();
            if (work.ends !== "while waiting") {
              await turn;
              assertEquals([computing, alone], [0, false]);
              alone = true;
              await ticks(work.during);
              assertEquals(computing, 0);
              alone = false;
              if (work.ends === "normally") {
                turns.give();
                computing++;
                await ticks(work.after);
                computing--;
              }
            }
          }
          alive--;
        },
      );
      assertEquals(started, workers.map((_, i) => i));
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
