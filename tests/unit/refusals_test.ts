/** What is refused before the first cell: in one sentence, as wrong use, and without leaving anything behind. */
import { assert, assertEquals, assertRejects } from "@std/assert";
import { join } from "node:path";
import { type RunConfigInput, runSweep } from "../../benchmarks/sweep/sweep.ts";
import { prepareRun } from "../../benchmarks/configuration/prepare.ts";
import { parsePerplexity } from "../../benchmarks/configuration/short_forms.ts";
import { runConfigSchema } from "../../core/schema/schema.ts";
import { UsageError } from "../../core/util/errors.ts";
import { byteLevelDefinition, exportToy, writeModelFolder } from "../support/export_fixture.ts";
import { folderTest, setting } from "../support/weights_fixture.ts";

folderTest("runSweep() refuses what cannot run before the first cell, and writes nothing", async (folder) => {
  const file = join(folder, "file");
  Deno.writeTextFileSync(file, "");
  const [model, text, short] = ["model", "scored.txt", "short.txt"].map((name) => join(folder, name));
  writeModelFolder(model!, exportToy({ maxPositions: 256 }), byteLevelDefinition());
  Deno.writeTextFileSync(short!, "Once upon a time");
  Deno.writeTextFileSync(text!, "Once upon a time there was a bird. ".repeat(99));
  const method = (id: string, options = {}) => ({ methods: [{ id, options }] });
  const smallest: Omit<RunConfigInput, "out"> = { engine: "wasm", ...method("random"), sparsity: [0.5] };
  const cases: [config: Partial<RunConfigInput>, says: string][] = [
    [{ perplexity: [{ corpus: "tiny-world", windowTokens: 513 }] }, "the 512 positions of the model: current 513"],
    [{ calibration: { corpus: "tiny-world", tokens: 513 } }, "calibration.tokens must be at most the 512 positions"],
    [{ throughput: { decodeTokens: 600 } }, "throughput.decodeTokens must be at most the 512 positions"],
    [{ ...method("sheared"), training: { tokens: 600 } }, "training.tokens must be at most the 512 positions"],
    [{ tasks: ["piqa"], data: folder }, "`bench fetch piqa` downloads it"],
    [{ tasks: ["piqqa"] }, 'Unknown task "piqqa". Did you mean "piqa"? Known: '],
    [{ perplexity: [{ corpus: `file:${folder}/no.txt`, windowTokens: 8 }] }, "no.txt"],
    [method("flap", { metric: "none" }), 'Method "flap": metric must be one of'],
    [method("flap", { atention: 1 }), 'Method "flap": Unknown key "atention"'],
    [method("sheared", { targetFfn: 100_000 }), 'Method "sheared": targetFfn must be at most'],
    [{ sparsity: [0.5, 0.99] }, "Sparsity 0.99 cannot be reached with units ffn, kv-groups"],
    // Text of the user's own that is scored is not calibrated on.
    [{
      ...method("wanda-sp"),
      model,
      perplexity: [{ corpus: `file:${text}` }],
    }, '"wikitext2", the default, was not found. Give --calibration file:TEXT'],
    [{ perplexity: [{ corpus: `file:${short}`, windowTokens: 64 }] }, "fewer than one window of 64"],
    [{ perplexity: [{ corpus: `file:${file}` }] }, "file"],
    [
      { ...method("wanda-sp"), calibration: { corpus: `file:${short}`, tokens: 64 } },
      "one window of 64 for calibration",
    ],
    [{ ...method("mask-prune"), training: { corpus: `file:${short}`, tokens: 64 } }, "one window of 64 for training"],
    [{ ...method("mask-prune"), training: { corpus: `file:${file}` } }, "holds no records"],
    [{ out: join(file, "run") }, "cannot be written"],
    [{ out: "/proc/run" }, "cannot be written"],
  ];
  using _home = setting("HF_HOME", folder);
  for (const [config, says] of cases) {
    const run = () => runSweep({ ...smallest, out: join(folder, "run"), ...config });
    const error = await assertRejects(run, UsageError, says);
    assert(!error.message.includes("\n"), error.message);
  }
  const left = [...Deno.readDirSync(folder)].map(({ name }) => name).sort();
  assertEquals(left, ["file", "model", "scored.txt", "short.txt"]);
});

folderTest("prepareRun() gives perplexity the window that model and text have, once each", async (folder) => {
  const [model, text, short] = ["model", "long.txt", "short.txt"].map((name) => join(folder, name));
  writeModelFolder(model!, exportToy({ maxPositions: 256 }), byteLevelDefinition());
  Deno.writeTextFileSync(text!, "Once upon a time there was a bird. ".repeat(99));
  Deno.writeTextFileSync(short!, "Once upon a time");
  const perplexity = [`file:${text}`, `file:${short}`, `file:${text}:a:256`].map(parsePerplexity);
  const asked = { model, engine: "wasm", methods: [], sparsity: [0.5], perplexity, out: join(folder, "run") };
  const { config } = await prepareRun(runConfigSchema.parse(asked), () => {});
  const [long, all] = config.perplexity.map(({ windowTokens }) => windowTokens);
  assertEquals([config.perplexity.length, long], [2, 256]);
  assert(all !== undefined && all >= 2 && all <= 16, `${all}`);
});
