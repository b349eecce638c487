/** The last part of a run: its models are timed one at a time on an idle machine. Models of one shape share a
 * measurement: speed depends on shapes, not on values.
 *
 * @module
 */
import { canonicalJson } from "../../core/util/canonical_json.ts";
import { at } from "../../core/util/indexing.ts";
import type { NamedCell } from "../../core/schema/cell_names.ts";
import type { DoneRecord, ThroughputResult } from "../../core/schema/schema.ts";
import type { Executor, ExecutorContext } from "./executor.ts";
import { missingMeasurements, throughputOf } from "../records/measured.ts";
import { doneRecord, writeRecord } from "../records/store.ts";

/** A cell that finished. */
interface Finished {
  named: NamedCell;
  record: DoneRecord;
}

/** What a model's speed depends on besides the machine. */
function shapeOf({ cell, size, changedWeights }: DoneRecord): string {
  const { engine, arithmetic, weights, training, checkpoint } = cell;
  const { layers, hidden, parameters } = size;
  // Changed matrices grow from 16 to 32 bits.
  const form = weights && { weights, changedWeights, isTrained: training !== undefined, checkpoint };
  return canonicalJson({ engine, ...arithmetic && { arithmetic }, layers, hidden, parameters, ...form });
}

/** Whether the run kept what {@linkcode keptModel} needs. */
const isKept = ({ record: { changedWeights, rebuild, storedWeights, cell } }: Finished) =>
  !changedWeights || rebuild || storedWeights || cell.checkpoint;

/** Times models of finished cells that lack throughput: the first of each shape that was kept; the others reuse its
 * results. A cell whose timing fails keeps its record. `begin` gets the number of timed models, unless it is 0. */
export async function timeModels(
  executor: Executor,
  context: ExecutorContext,
  host: { begin(models: number): void; timed(named: NamedCell, seconds: number): void },
): Promise<void> {
  const { cells, config: { out }, fingerprint: { data } } = context.run;
  const finished = cells.flatMap((named): Finished[] => {
    const record = doneRecord(out, named);
    return record && named.cell.throughput ? [{ named, record }] : [];
  });
  const lacking = ({ named, record }: Finished) =>
    missingMeasurements(named.cell, record, data).throughput !== undefined;
  const groups = [...Map.groupBy(finished, ({ record }) => shapeOf(record)).values()];
  const toTime = groups.flatMap((group) => group.every(lacking) ? [group.find(isKept) ?? at(group, 0)] : []);
  // A record's seconds are the sum over all its processes.
  const before = new Map(toTime.map(({ named, record }) => [named.id, record.timings.throughputS ?? 0]));
  if (toTime.length > 0) {
    host.begin(toTime.length);
    await executor.run(toTime.map(({ named }) => named), {
      ...context,
      alone: true,
      started: (named) => context.phase(named, "loading"),
      ended: (named, record) => {
        if (record.state === "done") host.timed(named, (record.timings.throughputS ?? 0) - before.get(named.id)!);
        else context.ended(named, record);
      },
    });
  }
  for (const group of groups) {
    const sources = group.flatMap(({ named }) => {
      const record = doneRecord(out, named);
      if (!record || missingMeasurements(named.cell, record, data).throughput) return [];
      return [{ id: record.id, results: throughputOf(named.cell, record) }];
    });
    const [source] = sources;
    if (!source) continue;
    const shared: ThroughputResult[] = source.results.map((result) => ({ sharedFrom: source.id, ...result }));
    for (const { named } of group.filter(lacking)) {
      const record = doneRecord(out, named);
      if (!record || sources.some(({ id }) => id === record.id)) continue;
      writeRecord(out, { ...record, cell: named.cell, throughput: [...record.throughput, ...shared] });
    }
  }
}
