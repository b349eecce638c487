/** Steps of `deno task check:gpu`: each ends alone and in time, and the report says the verdict first. */
import { assert, assertEquals } from "@std/assert";
import { type Check, markdown, outcomeOf, type Step } from "../../tools/gpu/check_gpu.ts";

const engine = {
  name: "webgpu",
  library: "tfjs",
  device: "a GPU",
  memory: { place: "the GPU", totalBytes: 1e9 },
  decoderOps: false,
} as const;
const check: Check = { engine, smallest: false, onGpu: true, folder: "" };

const step = (name: string, run: Step["run"], limitS = 100): Step => ({ name, limitS, run });

Deno.test("a step holds, fails, is skipped or is stopped, and says why", async () => {
  const wrong = [{ what: "reads", value: "3 | 4", holds: false }, { what: "rate", value: "1" }];
  let started = 0;
  const cases: [Step, state: string, reason: string | undefined, leftS?: number][] = [
    [step("right", () => Promise.resolve([{ what: "reads", value: "1", holds: true }])), "holds", undefined],
    [step("wrong", () => Promise.resolve(wrong)), "failed", "does not hold: reads"],
    [step("crash", () => Promise.reject(new Error("no driver"))), "failed", "no driver"],
    [step("absent", () => Promise.resolve("no torch")), "skipped", "no torch"],
    [step("hangs", () => new Promise(() => {}), 0.05), "failed", "it was stopped after 0.05 s"],
    [
      step("late", () => Promise.resolve([]).finally(() => started++)),
      "skipped",
      "it may take 100 s, and 99 s are left",
      99,
    ],
  ];
  const outcomes = [];
  for (const [step, state, reason, leftS = 100] of cases) {
    const outcome = await outcomeOf(step, check, leftS);
    assertEquals([outcome.step, outcome.state, outcome.reason], [step.name, state, reason]);
    outcomes.push(outcome);
  }
  assertEquals(started, 0);
  const report = markdown(check, outcomes).split("\n");
  assertEquals(report[0], "# 3 of 4 steps failed");
  assertEquals(report.filter((line) => line.startsWith("- ")), [
    "- wrong: does not hold: reads",
    "- crash: no driver",
    "- hangs: it was stopped after 0.05 s",
    "- absent: no torch",
    "- late: it may take 100 s, and 99 s are left",
  ]);
  assert(report.includes("| reads | **failed** | 3 \\| 4 |"));
});
