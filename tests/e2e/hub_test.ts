/** Needs `--allow-net=127.0.0.1`.
 *
 * @module
 */
import { assert, assertEquals, assertRejects } from "@std/assert";
import { at } from "../../core/util/indexing.ts";
import { FileFormatError, UsageError } from "../../core/util/errors.ts";
import type { HubSource } from "../../datasets/define.ts";
import { cachedSplit } from "../../datasets/hub_cache.ts";
import { fetchSplit } from "../../datasets/hub_fetch.ts";
import { loadTask } from "../../datasets/load.ts";
import { getTask } from "../../datasets/mod.ts";
import { commitOf, type FakeHub, startHub, TOKEN } from "../support/hub_server.ts";
import { tempFolder } from "../support/weights_fixture.ts";

const parquet = await Deno.readFile(new URL("../golden/parquet/openbookqa.parquet", import.meta.url));
const lines = await Deno.readFile(new URL("../../datasets/fixtures/piqa.jsonl", import.meta.url));
const NAME = "main/test-00000-of-00001.parquet";
const openbookqa: HubSource = { repo: "allenai/openbookqa", config: "main" };

const repositories = {
  "allenai/openbookqa": {
    branches: { main: { "README.md": lines, "main/train-00000-of-00001.parquet": lines, [NAME]: parquet } },
  },
  // Comes as a program: only the Hub's conversion has data.
  "baber/piqa": {
    branches: { main: { "piqa.py": lines }, "refs/convert/parquet": { "default/validation/0000.parquet": parquet } },
  },
  "own/small": { branches: { main: { "data/validation.jsonl": lines.slice(0, 150) } } },
  "own/private": { branches: { main: { "test.parquet": parquet } }, isPrivate: true },
};

async function withHub(run: (hub: FakeHub, fetch: Fetch, cache: string) => Promise<void>): Promise<void> {
  await using hub = startHub(repositories);
  using temp = tempFolder();
  const cache = temp.path;
  const fetch: Fetch = (source, { split = "test", isOffline = false, token } = {}) =>
    fetchSplit(source, {
      split,
      exact: [],
      settings: { cache, endpoint: hub.endpoint, isOffline, ...token === undefined ? {} : { token } },
      retryMs: 1,
    });
  await run(hub, fetch, cache);
}

type Fetch = (
  source: HubSource,
  options?: { split?: string; isOffline?: boolean; token?: string },
) => ReturnType<typeof fetchSplit>;

Deno.test("fetchSplit() brings a split into the cache as Python's libraries do, once", () =>
  withHub(async (hub, fetch, cache) => {
    const found = await fetch(openbookqa);
    const repository = `${cache}/datasets--allenai--openbookqa`;
    assertEquals(found, {
      paths: [`${repository}/snapshots/${commitOf("main")}/${NAME}`],
      names: [NAME],
      revision: commitOf("main"),
    });
    assertEquals(await Deno.readFile(at(found.paths, 0)), parquet);
    const target = await Deno.readLink(at(found.paths, 0));
    assert(/^\.\.\/\.\.\/\.\.\/blobs\/[0-9a-f]{64}$/.test(target), `link ${target}`);
    assertEquals(await Deno.readTextFile(`${repository}/refs/main`), commitOf("main"));
    assertEquals([...Deno.readDirSync(`${repository}/blobs`)].length, 1);
    assertEquals(hub.transfers, ["all"]);
    assertEquals(await fetch(openbookqa, { isOffline: true }), found);
    assertEquals(hub.transfers.length, 1);
    const { dataset } = await loadTask(getTask("openbookqa"), { cache });
    assertEquals([dataset.revision, dataset.source], [commitOf("main"), `allenai/openbookqa/${NAME}`]);
  }));

Deno.test("fetchSplit() takes the Hub's conversion where the authors have no data files", () =>
  withHub(async (_hub, fetch) => {
    const converted = await fetch({ repo: "baber/piqa" }, { split: "validation" });
    const found = [converted.names, converted.revision];
    assertEquals(found, [["default/validation/0000.parquet"], commitOf("refs/convert/parquet")]);
    const { names } = await fetch({ repo: "own/small" }, { split: "validation" });
    assertEquals(names, ["data/validation.jsonl"]);
    await assertRejects(() => fetch({ repo: "own/small" }, { split: "test" }), UsageError, "has no Parquet");
  }));

Deno.test("fetchSplit() tries again after a broken transfer, also in a later call", () =>
  withHub(async (hub, fetch) => {
    hub.faults = { breaks: 1, breakAfter: 1000 };
    assertEquals(await Deno.readFile(at((await fetch(openbookqa)).paths, 0)), parquet);
    assertEquals(hub.transfers.length, 2);
    hub.faults = { breaks: 3, breakAfter: 700 };
    const converted: HubSource = { repo: "baber/piqa" };
    await assertRejects(() => fetch(converted, { split: "validation" }), UsageError, "cannot be fetched");
    assertEquals(cachedSplit(converted, { split: "validation", exact: [], cache: "none" }), undefined);
    const { paths } = await fetch(converted, { split: "validation" });
    assertEquals(await Deno.readFile(at(paths, 0)), parquet);
  }));

Deno.test("fetchSplit() keeps nothing whose checksum is wrong", () =>
  withHub(async (hub, fetch, cache) => {
    hub.faults = { corruptions: 1 };
    assertEquals(await Deno.readFile(at((await fetch(openbookqa)).paths, 0)), parquet);
    for (const [repo, split] of [["baber/piqa", "validation"], ["own/small", "validation"]] as const) {
      hub.faults = { corruptions: 9 };
      await assertRejects(() => fetch({ repo }, { split }), FileFormatError, "checksum");
      assertEquals([...Deno.readDirSync(`${cache}/datasets--${repo.replace("/", "--")}/blobs`)], []);
      hub.faults = {};
      await fetch({ repo }, { split });
    }
  }));

Deno.test("fetchSplit() says what to do about 401, 404, an unreachable Hub and the offline switch", () =>
  withHub(async (hub, fetch) => {
    const own: HubSource = { repo: "own/private" };
    await assertRejects(() => fetch(own), UsageError, "set HF_TOKEN");
    await assertRejects(() => fetch(own, { token: "x" }), UsageError, "must begin with hf_");
    await fetch(own, { token: TOKEN });
    // The files' host is another one: it must not learn the token.
    assertEquals(hub.leaked, []);
    await assertRejects(() => fetch({ repo: "own/none" }), UsageError, 'has no data set "own/none"');
    await assertRejects(() => fetch(openbookqa, { isOffline: true }), UsageError, "HF_HUB_OFFLINE");
    hub.endpoint = "http://127.0.0.1:1";
    await assertRejects(() => fetch({ repo: "a/b" }), UsageError, "cannot be fetched from http://127.0.0.1:1");
  }));

Deno.test("fetchSplit() fetches once when two ask at the same time", () =>
  withHub(async (hub, fetch) => {
    const [a, b] = await Promise.all([fetch(openbookqa), fetch(openbookqa)]);
    assertEquals(a, b);
    assertEquals(hub.transfers, ["all"]);
  }));
