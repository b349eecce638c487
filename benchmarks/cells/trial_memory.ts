/** Trials of batch sizes on disk, so that the cells of a run share them.
 *
 * @module
 */
import { join } from "node:path";
import { z } from "zod";
import { sha256OfJson } from "../../core/schema/cell_names.ts";
import type { Engine } from "../../core/engine/engine.ts";
import { batchTrialSchema } from "../../core/schema/schema.ts";
import { writeAtomically } from "../../core/util/write_file.ts";
import type { WeightSource } from "../../models/config.ts";
import type { TrialMemory } from "../evaluation/batched_scoring.ts";
import { runPaths } from "../records/store.ts";

/** What trials hold for. */
export interface TrialScope {
  source: { origin: Pick<WeightSource["origin"], "sha256"> };
  engine: Pick<Engine, "name" | "library" | "device">;
}

/** Trials of batch sizes for the cells of a run: all use the latest, now and when the run is measured further. Cells that
 * begin at the same time each make their own. */
export function createTrialMemory(out: string, { source, engine }: TrialScope): TrialMemory {
  const { name, library, device } = engine;
  const scope = sha256OfJson([source.origin.sha256, name, library, device]);
  const path = join(runPaths(out).cache, `batch-trials-${scope.slice(0, 16)}.json`);
  return {
    read: () => {
      try {
        return z.array(batchTrialSchema).parse(JSON.parse(Deno.readTextFileSync(path)));
      } catch {
        // None yet, or no whole file: trials may be made again.
        return [];
      }
    },
    write: (trials) => {
      Deno.mkdirSync(runPaths(out).cache, { recursive: true });
      writeAtomically(path, `${JSON.stringify(trials)}\n`);
    },
  };
}
