/** The list of methods: one line each.
 *
 * @module
 */
import type { z } from "zod";
import { unknownName, UsageError } from "../core/util/errors.ts";
import { describeIssue } from "../core/util/issues.ts";
import type { Method } from "./define.ts";
import { blockInfluence } from "./block_influence.ts";
import { flap } from "./flap.ts";
import { gisp } from "./gisp.ts";
import { grasprune } from "./grasprune.ts";
import { llmPruner } from "./llm_pruner/mod.ts";
import { magnitude } from "./magnitude.ts";
import { maskPrune } from "./mask_prune/mod.ts";
import { multipruner } from "./multipruner.ts";
import { obs } from "./obs/mod.ts";
import { random } from "./random.ts";
import { sheared } from "./sheared/mod.ts";
import { wandaSp } from "./wanda_sp.ts";

const registry = new Map<string, Method>();

/** Adds a method to the list.
 * @throws {TypeError} when its id is taken. */
export function register(method: Method): void {
  if (registry.has(method.id)) throw new TypeError(`A method with the id "${method.id}" is already registered`);
  registry.set(method.id, method);
}

register(random);
register(magnitude);
register(wandaSp);
register(llmPruner);
register(flap);
register(obs);
register(blockInfluence);
register(multipruner);
register(gisp);
register(sheared);
register(grasprune);
register(maskPrune);

/** Every method, in the order of registration. */
export function listMethods(): Method[] {
  return [...registry.values()];
}

/** The method `id`.
 * @throws {UsageError} when there is none, with the nearest name. */
export function getMethod(id: string): Method {
  const method = registry.get(id);
  if (!method) throw unknownName("method", id, [...registry.keys()]);
  return method;
}

/** Checks the options of a method and fills in the defaults.
 * @throws {UsageError} that names every wrong option, its value and what is allowed. */
export function parseOptions<Schema extends z.ZodType>(method: Method<Schema>, raw: unknown): z.infer<Schema> {
  const parsed = method.options.safeParse(raw);
  if (parsed.success) return parsed.data;
  const known = Object.keys((method.options as unknown as { shape?: object }).shape ?? {});
  const problems = parsed.error.issues.map((issue) => describeIssue(issue, raw, () => known));
  throw new UsageError(`Method "${method.id}": ${problems.join("; ")}`);
}
