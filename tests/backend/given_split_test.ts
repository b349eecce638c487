/** The documentation's example of a variant of a shipped method. */
import { assert, assertEquals, assertRejects } from "@std/assert";
import { UsageError } from "../../core/util/errors.ts";
import { givenSplit } from "../../docs/examples/given_split.ts";
import { keptParameters } from "../../models/count.ts";
import { plannedShapes } from "../../models/plan.ts";
import { testOnEngines } from "../support/engines.ts";
import { learningOptions, methodContext, toyWindows } from "../support/method_context.ts";
import { toySource } from "../support/toy.ts";
import { onDevice } from "../support/device_models.ts";

testOnEngines("given-split keeps the given groups in every layer and fills the budget with channels", async () => {
  const layers = [0, 1].map(() => ({ kvGroups: 3, queryHeadsPerGroup: 1, ffnChannels: 40 }));
  using model = await onDevice(toySource({ layers, seed: 2 }));
  const context = (kvGroups: number) =>
    methodContext({
      model,
      options: givenSplit.options.parse({ kvGroups }),
      calibration: toyWindows(3, 9),
      learning: { options: learningOptions({ steps: 2, batch: 1, tokens: 9, rank: 2 }), windows: toyWindows(2, 9) },
      sparsity: 0.3,
    });
  for (const kvGroups of [1, 3]) {
    const given = context(kvGroups);
    const shapes = plannedShapes(model.config, (await givenSplit.prune(given)).plan);
    assertEquals(shapes.map((shape) => shape.kvGroups), [kvGroups, kvGroups]);
    const room = given.target.budget - keptParameters({ ...model.config, layers: shapes });
    const channel = 3 * model.config.width * layers.length;
    assert(room >= 0 && (room < channel || shapes.every(({ ffnChannels }) => ffnChannels === 40)), `${room}`);
  }
  await assertRejects(() => givenSplit.prune(context(4)), UsageError, "at most the model's 3");
});
