/** The budget of one cell: how much may stay, and the uniform widths that meet it.
 *
 * @module
 */
import type { LayerShape } from "./config.ts";
import type { UnitType } from "./plan.ts";

/** What every method of a comparison must meet. Made by the harness from the sparsity level; see `resolveTarget`. */
export interface BudgetTarget {
  /** Asked fraction of the prunable parameters to remove, in [0, 1). */
  sparsity: number;
  /** Unit types that may be touched. */
  units: readonly UnitType[];
  /** Parameters of the decoder's linear maps in the dense model (attention and FFN matrices, all layers). */
  prunableParameters: number;
  /** Most prunable parameters that may remain: floor((1 - sparsity) * prunableParameters). */
  budgetParameters: number;
  /** FFN widths are multiples of this. */
  ffnMultiple: number;
  /** The layer-wise uniform widths that meet the budget: attention units removed at the asked ratio (rounded down),
   * FFN channels fill the rest, so that one more unit per layer would exceed the budget. One entry per layer. */
  uniform: LayerShape[];
}
