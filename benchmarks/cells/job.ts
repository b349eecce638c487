/** Messages between a run and the process of one cell.
 *
 * @module
 */
import { z } from "zod";
import { cellSchema, failedRecordSchema, latencyTableSchema, PAPER_TABLES } from "../../core/schema/schema.ts";
import { taskGroupSchema } from "../records/run_file.ts";

/** The job of a cell's process. */
export const cellJobSchema = z.strictObject({
  id: z.string(),
  cell: cellSchema,
  out: z.string().describe("the run's folder"),
  weights: z.strictObject({ sha256: z.string(), atMs: z.number() }).optional()
    .describe("hash of the model, and when the run took it"),
  data: z.string().optional().describe("folder with data sets"),
  taskDefinitions: z.array(z.strictObject({ path: z.string(), config: z.record(z.string(), z.unknown()) })).optional()
    .describe("the cell's tasks from files"),
  taskGroups: z.array(taskGroupSchema).optional().describe("groups of the cell's tasks"),
  hashes: z.record(z.string(), z.string()).describe(
    "SHA-256 of the run's data sets, and numbers of examples in prompts, by use",
  ),
  paper: z.enum(PAPER_TABLES).optional().describe("published table of the run"),
  latency: latencyTableSchema.optional().describe("times of layers, where the budget is a time"),
  device: z.string().optional().describe("device of the engine; any when absent"),
  batchTokens: z.strictObject({ perplexity: z.array(z.number()), tasks: z.array(z.number()) })
    .optional().describe("of each measurement; as the engine and its memory suggest when absent"),
  commit: z.string().nullable().describe("git commit of the harness"),
  keepWeights: z.boolean().optional().describe(
    "whether changed weights are stored; if nothing less makes the model again when absent",
  ),
  layerwise: z.boolean().optional().describe("whether one dense layer at a time is on the device while pruning"),
  logSamples: z.boolean().describe("whether every example is written with its scores"),
  coordinated: z.boolean().describe("a parent holds standard input: the process ends with it"),
});
/** The job of a cell's process. */
export type CellJob = z.infer<typeof cellJobSchema>;

/** Events of a cell's process, one JSON line each. */
const cellEventSchema = z.discriminatedUnion("event", [
  z.strictObject({ event: z.literal("phase"), phase: z.string() }),
  z.strictObject({ event: z.literal("recorded") }),
  z.strictObject({
    event: z.literal("failed"),
    failure: failedRecordSchema.shape.failure.describe(
      "why a finished cell was not measured further: its record stays",
    ),
  }),
]);
/** An event of a cell's process. */
export type CellEvent = z.infer<typeof cellEventSchema>;

/** The event of a line; undefined if it is none: native libraries may print to standard output. */
export function parseEvent(line: string): CellEvent | undefined {
  try {
    return cellEventSchema.parse(JSON.parse(line));
  } catch {
    return undefined;
  }
}
