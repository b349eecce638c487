import { arcTask } from "./arc_easy.ts";
import type { Task } from "./define.ts";

/** ARC-Challenge: grade-school science questions, the hard ones. */
export const arcChallenge: Task = {
  ...arcTask("arc_challenge", "ARC-Challenge", "hard"),
  primaryMetric: "acc_norm",
};
