import { assertEquals, assertThrows } from "@std/assert";
import { wantedSplits } from "../../benchmarks/commands/fetch.ts";
import { UsageError } from "../../core/util/errors.ts";
import { cachedSplit, hubSettings, selectSplit } from "../../datasets/hub_cache.ts";
import { loadTask } from "../../datasets/load.ts";
import { getTask } from "../../datasets/mod.ts";
import { folderTest } from "../support/weights_fixture.ts";

const settings = (env: Record<string, string>) => hubSettings((name) => env[name]);

Deno.test("hubSettings() follows the variables of Python's libraries", () => {
  assertEquals(settings({ HOME: "/u" }), {
    cache: "/u/.cache/huggingface/hub",
    endpoint: "https://huggingface.co",
    isOffline: false,
  });
  assertEquals(settings({ HOME: "/u", XDG_CACHE_HOME: "/x" }).cache, "/x/huggingface/hub");
  assertEquals(settings({ HOME: "/u", XDG_CACHE_HOME: "/x", HF_HOME: "~/hf" }).cache, "/u/hf/hub");
  assertEquals(settings({ HF_HOME: "/h", HUGGINGFACE_HUB_CACHE: "/old", HF_HUB_CACHE: "/c" }).cache, "/c");
  assertEquals(settings({ HF_ENDPOINT: "https://mirror.example/" }).endpoint, "https://mirror.example");
  const found = ["1", "ON", "true", "0", ""].map((value) => settings({ HF_HUB_OFFLINE: value }).isOffline);
  assertEquals(found, [true, true, true, false, false]);
  assertEquals(settings({ HF_TOKEN: "hf_x" }).token, "hf_x");
});

Deno.test("selectSplit() finds a split in the layouts that repositories have", () => {
  const select = (files: string[], split: string, config?: string, exact: string[] = []) =>
    selectSplit(files, { config, split, exact });
  const arc = ["README.md", "ARC-Easy/train-00000-of-00001.parquet", "ARC-Easy/test-00000-of-00001.parquet"];
  const both = [...arc, "ARC-Challenge/test-00000-of-00001.parquet"];
  assertEquals(select(both, "test", "ARC-Easy"), ["ARC-Easy/test-00000-of-00001.parquet"]);
  const shards = ["data/train-00001-of-00002.parquet", "data/train-00000-of-00002.parquet", "data/test.parquet"];
  assertEquals(select(shards, "train"), ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"]);
  const converted = ["penn_treebank/validation/0000.parquet", "penn_treebank/test/0000.parquet"];
  assertEquals(select(converted, "validation", "penn_treebank"), ["penn_treebank/validation/0000.parquet"]);
  assertEquals(select(["a/valid.jsonl", "a/dev.parquet"], "validation"), ["a/dev.parquet"]);
  const c4 = ["en/c4-validation.00001-of-00008.json.gz", "en/c4-validation.00000-of-00008.json.gz"];
  assertEquals(select(c4, "validation", "en", ["c4-validation.jsonl", "c4-validation.00000-of-00008.json.gz"]), [
    "en/c4-validation.00000-of-00008.json.gz",
  ]);
  // A word inside another one is no split, and other files are no data.
  assertEquals(select(["contest.parquet", "test.md", "latest/x.parquet"], "test"), []);
  assertEquals(select(["a/test.parquet"], "test", "b"), []);
});

const commit = "c".repeat(40);

folderTest("cachedSplit() and loadTask() read what Python's libraries left in the cache", async (cache) => {
  const repository = `${cache}/datasets--allenai--openbookqa`;
  const snapshot = `${repository}/snapshots/${commit}/main`;
  for (const folder of [snapshot, `${repository}/refs`, `${repository}/blobs`]) {
    await Deno.mkdir(folder, { recursive: true });
  }
  const hub = { repo: "allenai/openbookqa", config: "main" };
  const find = () => cachedSplit(hub, { split: "test", exact: [], cache });
  const golden = new URL("../golden/parquet/openbookqa.parquet", import.meta.url);
  await Deno.copyFile(golden, `${repository}/blobs/abc`);
  await Deno.symlink("../../../blobs/abc", `${snapshot}/test-00000-of-00001.parquet`);
  // Without a branch that names the commit nothing is known of it.
  assertEquals(find(), undefined);
  await Deno.writeTextFile(`${repository}/refs/main`, commit);
  assertEquals(find(), {
    paths: [`${snapshot}/test-00000-of-00001.parquet`],
    names: ["main/test-00000-of-00001.parquet"],
    revision: commit,
  });
  const { examples, dataset } = await loadTask(getTask("openbookqa"), { cache });
  assertEquals(examples.length, 3);
  assertEquals([dataset.source, dataset.revision], ["allenai/openbookqa/main/test-00000-of-00001.parquet", commit]);
  // Half of a split is none.
  await Deno.rename(`${snapshot}/test-00000-of-00001.parquet`, `${snapshot}/test-00000-of-00002.parquet`);
  assertEquals(find(), undefined);
});

Deno.test("wantedSplits() reads names with splits and refuses what cannot be fetched", () => {
  const splits = (...names: string[]) => wantedSplits(names).map(({ source, split }) => `${source.id}/${split}`);
  const found = splits("arc_easy", "arc_easy/train", "wikitext2", "c4/validation");
  assertEquals(found, ["arc_easy/test", "arc_easy/train", "wikitext2/test", "wikitext2/train", "c4/validation"]);
  assertThrows(() => wantedSplits([]), UsageError, "No task or corpus given");
  assertThrows(() => wantedSplits(["arc_esay"]), UsageError, 'Did you mean "arc_easy"?');
  assertThrows(() => wantedSplits(["tiny-facts"]), UsageError, "comes with this program");
  assertThrows(() => wantedSplits(["wikitext2/dev"]), UsageError, "use one of train");
  assertThrows(() => wantedSplits(["piqa/test"]), UsageError, "use validation, or train for few-shot examples");
});
