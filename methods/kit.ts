/** The module `@maskprune/bench/method` for methods in files of their own: the definition and the helpers of the
 * shipped methods. See `docs/adding-a-method.md`.
 *
 * @module
 */
export { UsageError } from "../core/util/errors.ts";
export { at, entry } from "../core/util/indexing.ts";
export type { Rng } from "../core/util/rng.ts";
export type { DecoderConfig, HostTensor, LinearName } from "../models/config.ts";
export type { LayerPlan, LayerShape } from "../models/units.ts";
export { eachLayer } from "../models/layerwise.ts";
export type { DecoderModel } from "../models/device.ts";
export type { ObservedSite } from "../models/layers.ts";
export type { PrunePlan } from "../models/plan.ts";
export type { UnitType } from "../core/schema/schema.ts";
export type { BudgetTarget } from "../models/target.ts";
export { defineMethod } from "./define.ts";
export type { LearningContext, Method, MethodContext, PruneResult, Statistics } from "./define.ts";
export { inputStatistics } from "./_shared/calibration.ts";
export type { LayerStatistics, SiteStatistics } from "./_shared/calibration.ts";
export { keepBest, keepWidths } from "./_shared/selection.ts";
export { scoresOfColumns, scoresOfGroups, siteWeights, weightSlots } from "./_shared/scoring.ts";
export type { HeadReduction, LayerScores, SiteColumns, SlotScores } from "./_shared/scoring.ts";
