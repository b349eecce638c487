/** A run that is killed again and again, at random moments, loses nothing: no record is torn, lost, duplicated or written
 * twice, and learned masks end with the plan of a run that nobody disturbed. */
import { assert, assertEquals } from "@std/assert";
import { join } from "node:path";
import { lockFolder, readRecord, readRecords, runPaths } from "../../benchmarks/records/store.ts";
import { ifThere, isThere } from "../../core/util/paths.ts";
import { createRng, type Rng } from "../../core/util/rng.ts";
import type { CellRecord, DoneRecord } from "../../core/schema/schema.ts";
import { bench, benchWith, finish, signalCell } from "../support/bench_process.ts";
import { known } from "../support/values.ts";
import { tempFolder } from "../support/weights_fixture.ts";

const KILLS = 50;
/** A kill comes after a random number of events, at most this part of what an undisturbed run tells; most hit the learning
 * of masks. Counted in events and not in seconds, so that a busy machine does not move them. */
const LATEST = 0.6;
/** Longest wait between the event and the kill, in milliseconds. */
const JITTER_MS = 100;
/** Cells: dense, `random` and `mask-prune`, whose training is long enough for several snapshots. */
const CELLS = 3;

const run = (out: string) => [
  ...["run", "--model", "tiny", "--engine", "wasm", "--methods", "random,mask-prune", "--sparsity", "0.25"],
  ...["--calibration", "tiny-world:4:32", "--training", "steps=60,batch=1,tokens=16,rank=2,teacherTokens=8"],
  ...["--perplexity", "tiny-world:a:64:2", "--no-throughput", "--jobs", "2", "--out", out],
];

/** What must not depend on kills. */
const outcome = ({ id, plan, perplexity, rebuild }: DoneRecord) => ({
  id,
  plan,
  nll: perplexity.map(({ windowNll }) => windowNll),
  adapters: rebuild?.sha256,
});

function outcomes(records: readonly CellRecord[]): ReturnType<typeof outcome>[] {
  return records.map((record) => {
    assert(record.state === "done", `${record.id} is not done`);
    return outcome(record);
  });
}

/** A way to kill, by name. */
type Killer = (child: Deno.ChildProcess, out: string) => void;
const killers: Record<string, Killer> = {
  "of all processes": ({ pid }) => {
    new Deno.Command("sh", { args: ["-c", `kill -KILL -- -${pid}`], stderr: "null" }).outputSync();
  },
  "of the run without its cells": (child) => {
    try {
      child.kill("SIGKILL");
    } catch { /* it has ended */ }
  },
  "of one cell": (_child, out) => void signalCell(out, "KILL"),
};

/** Checks every record of the folder, and that those of `finished` are as they were; adds the new ones to it. Returns the
 * number of finished cells. */
function assertNothingLost(out: string, finished: Map<string, string>): number {
  const { records } = runPaths(out);
  const files = ifThere(() => [...Deno.readDirSync(records)], null);
  if (files === null) return 0;
  const names = files.map(({ name }) => name).filter((name) => /\.json(\.gz)?$/.test(name));
  const stored = readRecords(out);
  assertEquals(stored.problems, [], "torn records");
  assertEquals(stored.records.length, names.length);
  assertEquals(new Set(stored.records.map(({ id }) => id)).size, names.length, "duplicated records");
  for (const [name, bytes] of finished) {
    assertEquals(Deno.readFileSync(join(records, name)).toHex(), bytes, `${name} was written again`);
  }
  for (const name of names) {
    const path = join(records, name);
    if (readRecord(path).state === "done") finished.set(name, Deno.readFileSync(path).toHex());
  }
  return finished.size;
}

/** Whether a training of the run has a snapshot to go on from. */
function hasSnapshot(out: string): boolean {
  const { cache } = runPaths(out);
  const isSnapshot = ({ name }: Deno.DirEntry) =>
    name.startsWith("training-") && isThere(join(cache, name, "latest.json"));
  return ifThere(() => [...Deno.readDirSync(cache)], []).some(isSnapshot);
}

const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/** Starts the run and calls `kill` once, after `events` of its events and a random wait. Returns how many events came and
 * whether it was killed. */
async function runAndKill(
  out: string,
  { events, random, kill }: { events: number; random: Rng; kill: (child: Deno.ChildProcess) => void },
): Promise<{ told: number; killed: boolean }> {
  const child = benchWith({ detached: true }, ...run(out), "--json");
  const told = { told: 0, killed: false };
  const due = async () => {
    if (told.told < events || told.killed) return;
    told.killed = true;
    await sleep(random.uniform() * JITTER_MS);
    kill(child);
  };
  await due();
  const output = new Response(child.stdout).arrayBuffer();
  for await (const chunk of child.stderr.pipeThrough(new TextDecoderStream())) {
    told.told += chunk.split("\n").length - 1;
    await due();
  }
  await Promise.all([child.status, output]);
  return told;
}

/** Runs `out` to its end, and compares with `expected`. */
async function assertEndsAs(out: string, expected: ReturnType<typeof outcomes>): Promise<void> {
  const { code, stderr } = await finish(bench(...run(out)));
  assertEquals(code, 0, stderr);
  assertEquals(outcomes(readRecords(out).records), expected);
  lockFolder(out)[Symbol.dispose]();
}

Deno.test(`a run that is killed ${KILLS} times ends as one that is not`, async () => {
  const seed = Date.now() % 1e9;
  const random = createRng(seed, "kill");
  using temp = tempFolder();
  const root = temp.path;
  const kills = Object.fromEntries(Object.keys(killers).map((name) => [name, 0]));
  let rounds = 0;
  let resumed = 0;
  const reference = join(root, "reference");
  const { told } = await runAndKill(reference, { events: Infinity, random, kill: () => {} });
  const expected = outcomes(readRecords(reference).records);
  assertEquals(expected.length, CELLS);

  let out = join(root, `${rounds}`);
  let finished = new Map<string, string>();
  for (let killed = 0; killed < KILLS;) {
    const name = random.pick(Object.keys(killers));
    const events = random.integer(Math.floor(LATEST * told));
    const end = await runAndKill(out, { events, random, kill: (child) => known(killers[name])(child, out) });
    if (end.killed) {
      kills[name] = known(kills[name]) + 1;
      killed++;
      if (hasSnapshot(out)) resumed++;
    }
    if (assertNothingLost(out, finished) === CELLS || killed === KILLS) {
      await assertEndsAs(out, expected);
      assertNothingLost(out, finished);
      out = join(root, `${++rounds}`);
      finished = new Map();
    }
  }
  const ways = Object.entries(kills).map(([name, count]) => `${count} ${name}`).join(", ");
  console.log(`${rounds} runs survived ${KILLS} kills: ${ways}; ${resumed} left a snapshot; seed ${seed}`);
  assert(resumed > 0, "no kill hit a training that had a snapshot");
});
