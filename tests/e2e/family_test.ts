import { assert, assertEquals, assertMatch } from "@std/assert";
import { join } from "node:path";
import { openModel } from "../../models/load.ts";
import { doneCells, succeed } from "../support/bench_process.ts";
import { byteLevelDefinition, writeModelFolder } from "../support/export_fixture.ts";
import { familyConfig } from "../../tools/checks/small_families.ts";
import { toySource } from "../support/toy.ts";
import { take } from "../support/values.ts";
import { folderTest } from "../support/weights_fixture.ts";

const RUN = (
  "--engine wasm --sparsity 0.4 --calibration tiny-world:4:32 --training steps=12,batch=2,tokens=32 --no-throughput " +
  "--perplexity tiny-world:a:48:4"
).split(" ");

folderTest("a Qwen3 is cut, compensated, recovered and exported as one", async (folder) => {
  const model = join(folder, "small-qwen3");
  const config = { ...familyConfig("qwen3"), vocabSize: 300, maxPositions: 64 };
  writeModelFolder(model, toySource({ ...config, seed: 5 }), byteLevelDefinition());
  const nll: number[] = [];
  const ways = { cut: [], recovered: ["--compensate", "least-squares", "--recover", "lora"] };
  for (const [name, more] of Object.entries(ways)) {
    const out = join(folder, name);
    await succeed("run", "--model", model, "--methods", "wanda-sp", ...RUN, ...more, "--keep-weights", "--out", out);
    const [, record] = take(doneCells(out), 2);
    nll.push(record.perplexity[0]?.nllPerToken ?? NaN);
    assertEquals(record.changedWeights, name === "recovered");
    const { stdout } = await succeed("export", record.id, "--run", out, "--format", "hf");
    const { source } = await openModel(stdout.trim());
    assertEquals([source.config.family, source.config.headNorms, source.config.headSize], ["qwen3", true, 16]);
    assertEquals(
      source.config.layers.map(({ ffnChannels }) => ffnChannels),
      record.size.layers.map((layer) => layer.ffnChannels),
    );
    source.close();
    const card = Deno.readTextFileSync(join(stdout.trim(), "README.md"));
    assertMatch(card, /tags: \[qwen3, pruned, [^]*\nA model of the family Qwen3, with/);
    assert(!card.includes(folder), card);
  }
  const [cut, recovered] = take(nll, 2);
  assert(recovered < cut - 0.1, `${recovered} must be well below ${cut}`);
});
