import { z } from "zod";
import { choicesAfter, defineTask, type Task } from "./define.ts";

/** PIQA: which of two solutions reaches an everyday goal. */
export const piqa: Task = defineTask({
  id: "piqa",
  version: 1,
  summary: "PIQA: which of two solutions reaches an everyday physical goal",
  source: "Bisk et al. 2019, arXiv:1911.11641",
  licence: "not stated on the data card",
  hub: { repo: "baber/piqa" },
  split: "validation",
  record: z.looseObject({
    goal: z.string(),
    sol1: z.string(),
    sol2: z.string(),
    label: z.union([z.literal(0), z.literal(1)]),
  }),
  toExample: ({ goal, sol1, sol2, label }) => ({
    choices: choicesAfter(`Question: ${goal}\nAnswer:`, [sol1, sol2]),
    gold: label,
  }),
  metrics: ["acc", "acc_norm"],
});
