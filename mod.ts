/** The public interface: the steps of a cell (`load`, `calibrate`, `prune`, `recover`, `score`, `time`), whole runs with
 * their records and reports, and the definition of methods.
 *
 * @example
 * ```ts ignore
 * import { runSweep, writeReport } from "@maskprune/bench";
 *
 * const { records } = await runSweep({
 *   methods: [{ id: "random" }, { id: "flap", options: { structure: "UL-UM" } }],
 *   sparsity: [0.25, 0.5],
 *   tasks: ["tiny-facts"],
 *   out: "results/mine",
 * });
 * await writeReport(records, "results/mine/report", { title: "Mine" });
 * ```
 *
 * @module
 */
export { EngineError, FileFormatError, UsageError } from "./core/util/errors.ts";
export type { Rng } from "./core/util/rng.ts";
export { cellRecordSchema, runConfigSchema } from "./core/schema/schema.ts";
export type {
  Cell,
  CellRecord,
  DoneRecord,
  EngineName,
  FailedRecord,
  FailureKind,
  RunConfig,
  TrainingReport,
  UnitType,
} from "./core/schema/schema.ts";
export type { DecoderConfig, HostTensor } from "./models/config.ts";
export type { LayerPlan, LayerShape } from "./models/units.ts";
export type { DecoderModel } from "./models/device.ts";
export type { PrunePlan } from "./models/plan.ts";
export type { BudgetTarget } from "./models/target.ts";
export { defineMethod } from "./methods/define.ts";
export type { LearningContext, Method, MethodContext, PruneResult, Statistics } from "./methods/define.ts";
export { getMethod, listMethods } from "./methods/mod.ts";
export type { SweepEvent } from "./benchmarks/sweep/progress.ts";
export { readRecords } from "./benchmarks/records/store.ts";
export type { StoredRecords } from "./benchmarks/records/store.ts";
export { runSweep } from "./benchmarks/sweep/sweep.ts";
export type { RunConfigInput, SweepOptions, SweepResult } from "./benchmarks/sweep/sweep.ts";
export { renderTable, writeReport } from "./benchmarks/commands/reports.ts";
export type { ReportOptions } from "./benchmarks/commands/reports.ts";
export type { TerminalOptions } from "./reports/terminal.ts";
export { calibrate, trainingData } from "./benchmarks/pipeline/calibrate.ts";
export type { CalibrationOptions, TextOptions, TrainingData, TrainingInput } from "./benchmarks/pipeline/calibrate.ts";
export { free, load, save } from "./benchmarks/pipeline/load.ts";
export type { LoadedModel, LoadOptions } from "./benchmarks/pipeline/load.ts";
export { compensate, prune } from "./benchmarks/pipeline/prune.ts";
export { resourceOf } from "./models/latency.ts";
export type { PrunedModel, PruneOptions } from "./benchmarks/pipeline/prune.ts";
export { recover } from "./benchmarks/pipeline/recover.ts";
export type { RecoverOptions } from "./benchmarks/pipeline/recover.ts";
export { score } from "./benchmarks/pipeline/score.ts";
export type { ScoreOptions } from "./benchmarks/pipeline/score.ts";
export type { StepOptions } from "./benchmarks/pipeline/step.ts";
export { time } from "./benchmarks/pipeline/time.ts";
export type { TimeOptions } from "./benchmarks/pipeline/time.ts";
