import { assertEquals, assertRejects } from "@std/assert";
import type { TrainingReport } from "../../core/schema/schema.ts";
import { createPhaseClock, timingsOf } from "../../benchmarks/cells/phase_clock.ts";

const none = { loadS: 0, pruneS: 0, learnS: 0, evaluateS: 0, throughputS: 0, waitS: 0 };

Deno.test("createPhaseClock() counts every second for one phase, inner phases too", async () => {
  let ms = 1000;
  const clock = createPhaseClock("loadS", () => ms);
  const pass = (seconds: number) => Promise.resolve(ms += 1000 * seconds);
  await pass(2);
  clock.enter("pruneS");
  await pass(3);
  await clock.during("waitS", () => pass(4));
  await clock.during("learnS", async () => {
    await pass(5);
    await clock.during("waitS", () => pass(6));
    await pass(7);
  });
  await assertRejects(() => clock.during("waitS", () => Promise.reject(new RangeError("no"))), RangeError);
  await pass(8);
  clock.enter("evaluateS");
  await pass(9);
  assertEquals(clock.seconds(), { ...none, loadS: 2, pruneS: 11, waitS: 10, learnS: 12, evaluateS: 9 });
  await pass(1);
  assertEquals(clock.seconds().evaluateS, 10);
});

Deno.test("timingsOf() takes what a training says of itself out of pruning, and adds to earlier measurements", () => {
  const stage = { stage: "learning" as const, steps: 1, tokens: 1, seconds: 30, curve: [] } satisfies TrainingReport;
  const first = timingsOf({ ...none, loadS: 2, pruneS: 40, evaluateS: 5, waitS: 1 }, [stage]);
  assertEquals(first, { ...none, loadS: 2, pruneS: 10, learnS: 30, evaluateS: 5, waitS: 1 });
  // A recovery is timed by the clock; the seconds of its report are no part of pruning.
  assertEquals(timingsOf({ ...none, pruneS: 4, learnS: 30 }, [stage]), { ...none, pruneS: 4, learnS: 30 });
  // Most of the training was done by a process that was killed.
  assertEquals(timingsOf({ ...none, pruneS: 12 }, [stage]), { ...none, learnS: 12 });
  const old = { ...first, throughputS: null, waitS: null };
  const second = timingsOf({ ...none, loadS: 2, throughputS: 7 }, [stage], old);
  assertEquals(second, { ...first, loadS: 4, throughputS: 7, waitS: 0 });
});
