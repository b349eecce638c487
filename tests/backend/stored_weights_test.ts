import { assertEquals, assertRejects, assertThrows } from "@std/assert";
import { join } from "node:path";
import { exportCell } from "../../benchmarks/commands/export_cell.ts";
import { writeRecord } from "../../benchmarks/records/store.ts";
import { openStoredWeights, storeWeights } from "../../benchmarks/records/kept_weights.ts";
import { FileFormatError, UsageError } from "../../core/util/errors.ts";
import type { DoneRecord } from "../../core/schema/schema.ts";
import { expectedTensors, tensorNames } from "../../models/config.ts";
import type { DecoderModel } from "../../models/device.ts";
import { openFolderModel, openModel } from "../../models/load.ts";
import type { PrunePlan } from "../../models/plan.ts";
import { hostTensor, pruneModel } from "../../models/surgery.ts";
import { toyTokens } from "../support/toy.ts";
import { byteLevelDefinition, exportToy, PLANS, recordOf, writeModelFolder } from "../support/export_fixture.ts";
import { withFolder } from "../support/weights_fixture.ts";
import { assertClose, testOnEngines } from "../support/engines.ts";
import { at } from "../../core/util/indexing.ts";
import { freed, logitsOf, onDevice } from "../support/device_models.ts";
import { atEnd } from "../support/values.ts";

const TOKENS = toyTokens({ count: 11 });

interface Stored {
  out: string;
  record: DoneRecord & { storedWeights: NonNullable<DoneRecord["storedWeights"]> };
  /** As it was measured. */
  model: DecoderModel;
}

/** A run with one learned cell whose weights were changed and stored. */
async function inRun(
  bias: boolean,
  test: (stored: Stored) => Promise<void>,
  plan: PrunePlan = PLANS.uniform,
): Promise<void> {
  await withFolder(async (folder) => {
    const path = join(folder, "toy-llama");
    writeModelFolder(path, exportToy(), byteLevelDefinition());
    const opened = openFolderModel(path);
    using _end = atEnd(() => opened.close());
    using dense = await onDevice(opened);
    const name = tensorNames.weight(1, "down");
    const changed = await hostTensor(dense, name);
    const replaced = {
      [name]: { ...changed, data: changed.data.map((w, i) => w + Math.sin(i)) },
      ...bias && { [tensorNames.bias(0, "output")]: { shape: [32], data: new Float32Array(32).fill(0.25) } },
    };
    using model = freed(await pruneModel(dense, plan, replaced));
    const out = join(folder, "run");
    const base = recordOf(opened, { plan, method: "mask-prune" });
    const record = { ...base, storedWeights: await storeWeights(out, base, model) };
    writeRecord(out, record);
    await test({ out, record, model });
  });
}

testOnEngines("stored weights are the measured ones to the bit in an export", async () => {
  const check = async ({ out, record, model }: Stored) => {
    const to = join(out, "exported");
    await exportCell({ record, out, format: "hf", to });
    const { source } = await openModel(to);
    for (const name of expectedTensors(model.config).keys()) {
      assertEquals(source.read(name), await hostTensor(model, name), name);
    }
    source.close();
  };
  for (const plan of [PLANS.uniform, PLANS.shallow]) await inRun(false, check, plan);
});

testOnEngines("stored weights keep biases that a method added", async () => {
  await inRun(true, async ({ out, record, model }) => {
    const source = openFolderModel(record.cell.model);
    const stored = openStoredWeights(out, record, source);
    using again = await onDevice(stored);
    assertEquals(again.config.biases, ["output"]);
    assertClose(await logitsOf(again, TOKENS), await logitsOf(model, TOKENS), { atol: 0, rtol: 0 });
    for (const each of [stored, source]) each.close();
  });
}, { except: ["webgpu"] });

testOnEngines("weights that are missing or are not those of the record are refused", async () => {
  await inRun(false, async ({ out, record }) => {
    const source = openFolderModel(record.cell.model);
    const path = join(out, "weights", record.storedWeights.file);
    const bytes = Deno.readFileSync(path);
    bytes[bytes.length - 1] = at(bytes, bytes.length - 1) ^ 1;
    Deno.writeFileSync(path, bytes);
    assertThrows(() => openStoredWeights(out, record, source), FileFormatError, "the record names");
    Deno.removeSync(path);
    const options = { record, out, format: "hf" as const, to: join(out, "x") };
    await assertRejects(() => exportCell(options), UsageError, record.storedWeights.file);
    source.close();
  });
}, { except: ["webgpu", "tensorflow"] });
