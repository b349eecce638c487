/** Options of MaskPrune.
 *
 * @module
 */
import { z } from "zod";

const positive = z.number().positive();

/** The defaults were chosen on validation text of the bundled model and of SmolLM2-135M. */
export const options = z.strictObject({
  variant: z.enum(["choice", "paper"]).default("choice").describe(
    "choice: scores decide which units are open; paper: masks are values and ranks, widths are learned",
  ),
  uniform: z.boolean().default(true).describe("one width for all layers; false: a width for each layer"),
  scoreRate: positive.default(0.1).describe("peak rate of the scores, which start at mean 0 and deviation 1"),
  maskRate: positive.default(0.005).describe("peak rate of the masks of the paper's variant, which start at 1"),
  ramp: z.number().min(0).max(1).default(0.4).describe(
    "part of the steps over which the budget falls; 0: all units go before the first step",
  ),
  freeze: z.number().gt(0).max(1).default(0.6).describe(
    "with --compensate: part of the steps after which the choice is fixed and least squares follow",
  ),
  dualStart: z.number().min(0).default(0).describe("multiplier y of the sparsity penalty at first"),
  dualRate: z.number().min(0).default(0.1).describe("ascent rate of y"),
});
/** Options of MaskPrune. */
export type Options = z.infer<typeof options>;
