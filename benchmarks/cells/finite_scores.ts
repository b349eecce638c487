/** Scores that are taken over into a record are numbers.
 *
 * @module
 */
import { NumericError } from "../../core/util/errors.ts";
import type { DoneRecord } from "../../core/schema/schema.ts";

type Scores = Pick<DoneRecord, "perplexity" | "tasks">;

/** The scores that `measure` gives of the model that `method` left; null: the dense model.
 * @throws {NumericError} that names the method when a log-likelihood, a perplexity or a task's value is not finite. */
export async function finiteScores<S extends Scores>(method: string | null, measure: () => Promise<S>): Promise<S> {
  const model = method === null ? "The dense model" : `The model that method "${method}" left`;
  let scores: S;
  try {
    scores = await measure();
  } catch (error) {
    if (!(error instanceof NumericError)) throw error;
    throw new NumericError(`${model} has scores that are not finite: ${error.message}`, { cause: error });
  }
  const values: [string, number][] = [
    ...scores.perplexity.map(({ corpus, perplexity }): [string, number] => [`perplexity of ${corpus}`, perplexity]),
    ...scores.tasks.flatMap(({ task, metrics }) =>
      Object.entries(metrics).map(([metric, { value }]): [string, number] => [`${metric} of ${task}`, value])
    ),
  ];
  const bad = values.find(([, value]) => !Number.isFinite(value));
  if (bad) throw new NumericError(`${model} has ${bad[1]} as its ${bad[0]}, which must be finite`);
  return scores;
}
