/** `run.json` in a run's folder: what was asked, and of what.
 *
 * @module
 */
import { z } from "zod";
import { canonicalJson } from "../../core/cell_names.ts";
import { FileFormatError, UsageError } from "../../core/errors.ts";
import { runConfigSchema, SCHEMA_VERSION } from "../../core/schema.ts";
import { writeAtomically } from "../../core/write_file.ts";
import { runPaths, toJson } from "./store.ts";

/** `run.json`: the configuration as run, and what it was run on. */
const runFileSchema = z.object({
  schemaVersion: z.number(),
  config: runConfigSchema,
  engine: z.string(),
  fingerprint: z.object({ weights: z.string(), tokenizer: z.string(), data: z.record(z.string(), z.string()) }),
});

/** What `run.json` holds. */
export type RunFile = z.infer<typeof runFileSchema>;

/** What must be equal for numbers to stand beside each other in one folder. */
function protocolOf({ config, engine, fingerprint }: RunFile): Record<string, unknown> {
  const { units, ffnMultiple, calibration, perplexity, tasks, limit, numFewshot, throughput, training } = config;
  const { weights, tokenizer, data } = fingerprint;
  const { generate, generateTokens, ladder, requestEncoding } = config;
  const generations = generate.length === 0 ? null : { generate, generateTokens };
  const measured = {
    units,
    ffnMultiple,
    calibration,
    perplexity,
    tasks,
    limit,
    numFewshot,
    requestEncoding,
    throughput,
    generations,
    ladder,
  };
  return { weights, tokenizer, engine, ...measured, ...training && { training }, ...data };
}

/** Writes `run.json`, unless the folder holds a run whose numbers must not stand beside these.
 * @throws {UsageError} that names the settings that differ. */
export function writeRunFile({ config, engine, fingerprint }: Omit<RunFile, "schemaVersion">): void {
  const path = runPaths(config.out).run;
  const run = { schemaVersion: SCHEMA_VERSION, config, engine, fingerprint };
  const stored = readRunFile(config.out);
  if (stored) {
    const [before, now] = [protocolOf(stored), protocolOf(run)];
    // Data that only one of the two reads, such as calibration data of a method added later, cannot differ.
    const differing = Object.keys(now).filter((key) =>
      key in before && canonicalJson(before[key] ?? null) !== canonicalJson(now[key] ?? null)
    );
    if (differing.length > 0) {
      const which = differing.join(", ");
      throw new UsageError(
        `"${config.out}" holds a run with other settings (${which}), whose numbers cannot stand beside these: ` +
          "choose another --out",
      );
    }
  }
  writeAtomically(path, toJson(run));
}

/** What `run.json` of the folder `out` holds; undefined where there is none.
 * @throws {FileFormatError} when it is not one of this program's. */
export function readRunFile(out: string): RunFile | undefined {
  const path = runPaths(out).run;
  try {
    return runFileSchema.parse(JSON.parse(Deno.readTextFileSync(path)));
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    if (!(error instanceof SyntaxError || error instanceof z.ZodError)) throw error;
    throw new FileFormatError(path, "is not the run file of this version of the program: choose another --out");
  }
}
