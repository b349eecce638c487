/** Checks of a run before its first cell.
 *
 * @module
 */
import { unknownName, UsageError } from "../../core/util/errors.ts";
import type { RunConfig } from "../../core/schema/schema.ts";
import { checkProtocol } from "../../datasets/define.ts";
import { corpora, getCorpus } from "../../datasets/mod.ts";
import { SELF_TEXT } from "../../datasets/self_text.ts";
import { isFileName } from "../../datasets/text_file.ts";
import type { RunSettings } from "../../methods/define.ts";
import { getMethod, parseOptions } from "../../methods/mod.ts";
import type { DecoderConfig } from "../../models/config.ts";
import type { Resource } from "../../models/resource.ts";
import { afterDepth, resolveTarget } from "../../models/target.ts";
import { depthsOf, isOn, type ReadyConfig } from "./expand.ts";

/** Most tokens of text that a cell may be asked to hold, as 32-bit integers. */
const MOST_TOKENS = 2 ** 30;

/** Checks every name, and fills in the defaults of the methods' options, so that a cell names all that decides it.
 * `taskNames` are those that the run may use.
 * @throws {UsageError} on an unknown name or a wrong option. */
export function resolveNames(config: RunConfig, taskNames: readonly string[]): RunConfig {
  const limited = [config.limit, config.numFewshot].flatMap((own) => own instanceof Object ? Object.keys(own) : []);
  const task = [...config.tasks, ...limited].find((name) => !taskNames.includes(name));
  if (task !== undefined) throw unknownName("task", task, taskNames);
  const { calibration, training, perplexity } = config;
  const learned = [calibration?.corpus, training?.corpus].filter((name) => name !== undefined);
  const checkCorpora = (names: readonly string[], known: readonly string[]) => {
    const unknown = names.find((name) => !isFileName(name) && !known.includes(name));
    if (unknown !== undefined) throw unknownName("corpus", unknown, known);
  };
  checkCorpora(perplexity.map(({ corpus }) => corpus), [...corpora.keys()]);
  checkCorpora(learned, [...corpora.keys(), SELF_TEXT]);
  for (const { corpus, protocol } of perplexity) checkProtocol(getCorpus(corpus), protocol);
  if (calibration?.corpus === SELF_TEXT && calibration.draw === "distinct-rows") {
    throw new UsageError("Text that the model writes has no rows: leave out distinct-rows of the calibration");
  }
  const methods = config.methods.map(({ id, options }) => ({
    id,
    options: parseOptions(getMethod(id), options) as Record<string, unknown>,
  }));
  return { ...config, methods };
}

/** Checks that no two results share a name in lm-evaluation-harness's files, which know tasks and corpora alone. Window
 * lengths are known: equal choices are one.
 * @throws {UsageError} that names a corpus of protocol c. */
export function checkResultNames({ perplexity, tasks }: Pick<RunConfig, "perplexity" | "tasks">): void {
  const rolling = perplexity.filter(({ protocol }) => protocol === "c").map(({ corpus }) => corpus);
  const repeated = rolling.find((name, i) => tasks.includes(name) || rolling.indexOf(name) !== i);
  if (repeated !== undefined) {
    throw new UsageError(`"${repeated}" is measured twice, by protocol c and under the same name: use a run for each`);
  }
}

/** Checks that everything can go by layers if the run does: one gives activations and weights, but no gradients.
 * @throws {UsageError} that names what cannot. */
export function checkLayerwise(config: RunConfig): void {
  const { layerwise, methods, recover, compensate, calibration, dropLayers, units } = config;
  if (!layerwise) return;
  const whole = methods.find(({ id }) => !getMethod(id).layerwise);
  const needsAll = [
    whole && `method ${whole.id}`,
    isOn(recover) && `--recover ${recover}`,
    isOn(compensate) && `--compensate ${compensate}`,
    calibration?.corpus === SELF_TEXT && "--calibration self",
    dropLayers?.some((count) => count > 0) && "--drop-layers",
    units.includes("layers") && "--units layers",
  ].find((what) => what);
  if (needsAll) {
    throw new UsageError(
      `--layerwise holds one layer at a time, but ${needsAll} needs all layers: leave out one of them`,
    );
  }
}

/** Checks lengths, counts and levels against the model.
 * @throws {UsageError} that names the setting. */
export function checkAgainstModel(config: ReadyConfig, model: DecoderConfig, resource?: Resource): void {
  const { maxPositions: positions } = model;
  const { perplexity, calibration, training, throughput } = config;
  const lengths: [what: string, tokens: number | undefined][] = [
    ...perplexity.map(({ corpus, protocol, windowTokens }): [string, number] => [
      `windowTokens of perplexity ${corpus} (write ${corpus}:${protocol}:${positions})`,
      windowTokens,
    ]),
    ["calibration.tokens", calibration.tokens],
    ["training.tokens", training?.tokens],
    ["throughput.prefillTokens", throughput?.prefillTokens],
    ["throughput.decodeTokens", throughput?.decodeTokens],
  ];
  const [what, tokens] = lengths.find(([, tokens = 0]) => tokens > positions) ?? [];
  if (what !== undefined) {
    throw new UsageError(`${what} must be at most the ${positions} positions of the model: current ${tokens}`);
  }
  const counts = {
    "calibration sequences x tokens": calibration.sequences * calibration.tokens,
    "training steps x batch x tokens": training ? training.steps * training.batch * training.tokens : 0,
  };
  const [large, count] = Object.entries(counts).find(([, count]) => count > MOST_TOKENS) ?? [];
  if (large !== undefined) throw new UsageError(`${large} must be at most ${MOST_TOKENS}: current ${count}`);
  checkLevels(config, model, resource);
}

type Levels = Pick<ReadyConfig, "sparsity" | "units" | "dropLayers" | "ffnMultiple" | "methods"> & RunSettings;

/** Checks that the units of the run can reach its levels on this model, and that each method can keep its options.
 * @throws {UsageError} that names the level or the method. */
export function checkLevels(
  { sparsity, methods, ...run }: Levels,
  model: DecoderConfig,
  resource?: Resource,
): void {
  const { units, ffnMultiple } = run;
  for (const level of new Set(sparsity.filter((level) => level > 0))) {
    for (const { id, options } of methods) {
      const method = getMethod(id);
      for (const dropLayers of depthsOf(method, run)) {
        const target = resolveTarget(model, { sparsity: level, units, dropLayers, ffnMultiple, resource });
        const own = afterDepth(method, model, target);
        try {
          method.check?.(own.config, own.target, options, run);
        } catch (error) {
          throw new UsageError(`Method "${id}": ${(error as Error).message ?? error}`);
        }
      }
    }
  }
}

/** Checks that every cell at once has a GPU of its own.
 * @throws {UsageError} when there are too few or their number is unknown. */
export function checkGpus(jobs: number, gpus: number): void {
  if (jobs <= Math.max(1, gpus)) return;
  throw new UsageError(
    gpus === 0
      ? `--jobs ${jobs} needs a GPU for each cell, but nvidia-smi does not list any: leave out --jobs`
      : `--jobs ${jobs} needs a GPU for each cell, but there are ${gpus}: give --jobs ${gpus}`,
  );
}
