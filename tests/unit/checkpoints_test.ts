import { assertEquals, assertRejects } from "@std/assert";
import { join } from "node:path";
import { findCheckpoints } from "../../benchmarks/configuration/checkpoints.ts";
import { UsageError } from "../../core/util/errors.ts";
import { prunedSource } from "../../models/export_source.ts";
import { exportGguf } from "../../models/export_gguf.ts";
import { openModel } from "../../models/load.ts";
import { ggufTokenizerMetadata } from "../../core/formats/tokenizer_gguf_write.ts";
import { byteLevelDefinition, exportToy, PLANS, writeModelFolder } from "../support/export_fixture.ts";
import { folderTest } from "../support/weights_fixture.ts";
import { atEnd } from "../support/values.ts";

folderTest("findCheckpoints() says what a model lost, and names what makes it no pruned version", async (root) => {
  const dense = join(root, "dense");
  const pruned = join(root, "pruned");
  const wide = join(root, "wide");
  const other = join(root, "other");
  const small = prunedSource(exportToy(), PLANS.uniform);
  writeModelFolder(dense, exportToy(), byteLevelDefinition());
  writeModelFolder(pruned, small, byteLevelDefinition());
  const shape = { kvGroups: 3, queryHeadsPerGroup: 2, ffnChannels: 25 };
  writeModelFolder(wide, exportToy({ layers: [shape, shape] }), byteLevelDefinition());
  const definition = byteLevelDefinition();
  const { vocab } = definition.tokenizer.model as { vocab: Record<string, number> };
  const [a = "", b = ""] = Object.keys(vocab).slice(-2);
  [vocab[a], vocab[b]] = [vocab[b] ?? 0, vocab[a] ?? 0];
  writeModelFolder(other, small, definition);
  const opened = await openModel(dense);
  // Heads of 8 in maps of 32: 4 of 6 go with 1 group of 3 and 1 head of 2 in each; 17 of 24 channels of 3 maps.
  const lost = (2 * 32 * 8 * 4 + 2 * 32 * 8 * 1 + 3 * 32 * 17) / (2 * 32 * 8 * 6 + 2 * 32 * 8 * 3 + 3 * 32 * 24);
  const find = (label: string, model: string, ...more: { label: string; model: string }[]) =>
    findCheckpoints([{ label, model }, ...more], opened, [0, 0.2, lost + 0.004]);
  using _end = atEnd(() => opened.source.close());
  const gguf = join(root, "pruned.gguf");
  exportGguf(small, {
    to: gguf,
    type: "F32",
    tokenizer: ggufTokenizerMetadata(byteLevelDefinition(), opened.tokenizer, 300),
  });
  for (const path of [pruned, gguf]) {
    const [found] = await find("mine", path);
    assertEquals([found?.label, found?.sparsity], ["mine", lost + 0.004]);
    const [apart] = await findCheckpoints([{ label: "mine", model: path }], opened, [0.2, lost + 0.006]);
    assertEquals(apart?.sparsity, Number(lost.toFixed(4)));
  }
  const refused = (call: Promise<unknown>, problem: string) => assertRejects(() => call, UsageError, problem);
  await refused(find("flap", pruned), 'label "flap" is taken');
  await refused(find("mine", pruned, { label: "mine", model: dense }), 'label "mine" is taken');
  await refused(find("mine", wide), "layer 0 has 25 FFN channels, more than 24");
  await refused(find("mine", other), "of its tokenizer is");
  await refused(find("mine", join(root, "nowhere")), "nowhere");
});
