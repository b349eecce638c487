/** Runs through a real Slurm: arrays, failures, limits, and a run that goes on where its follower was killed. */
import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { join } from "node:path";
import { at } from "../../core/util/indexing.ts";
import { readRecords, runPaths } from "../../benchmarks/records/store.ts";
import { benchWith, finish, statesOf } from "../support/bench_process.ts";
import { missing, startCluster } from "../support/slurm_cluster.ts";

const RIGHTS = [
  ...["--allow-read", "--allow-write", "--allow-env", "--allow-sys", "--allow-ffi"],
  "--allow-run=deno,git,sbatch,squeue,scontrol",
];

const run = (out: string, ...flags: string[]) => [
  ...["run", "--preset", "smoke", "--engine", "wasm", "--no-throughput", "--out", out],
  ...["--executor", "slurm", "--max-parallel", "2", ...flags],
];

const slurm = (...args: string[]) => benchWith({ rights: RIGHTS }, ...args);

function command(name: string, ...args: string[]): string {
  const { stdout, stderr, success } = new Deno.Command(name, { args }).outputSync();
  assert(success, new TextDecoder().decode(stderr));
  return new TextDecoder().decode(stdout).trim();
}

const reason = missing();
if (reason) console.log(`Slurm's tests are left out: ${reason}`);

Deno.test({
  name: "bench run goes through Slurm",
  ignore: reason !== null,
  fn: async (t) => {
    const cluster = await startCluster();
    Deno.env.set("SLURM_CONF", cluster.conf);
    const root = Deno.makeTempDirSync();
    let cells = 0;
    try {
      await t.step("a dry run shows the script and submits nothing", async () => {
        const { code, stdout, stderr } = await finish(slurm(...run(join(root, "dry"), "--dry-run")));
        assertEquals(code, 0, stderr);
        const pattern = /^#!\/bin\/sh\n#SBATCH --job-name=bench-smoke\n#SBATCH --comment=\d+\n#SBATCH --array=0-2%2\n/;
        assertMatch(stdout, pattern);
        assertEquals(command("squeue", "--noheader"), "");
      });

      await t.step("every cell becomes a record", async () => {
        const out = join(root, "it's all");
        const { code, stderr } = await finish(slurm(...run(out, "--partition", "test", "--time", "5")));
        assertEquals(code, 0, stderr);
        assertStringIncludes(stderr, "3 cells submitted to Slurm as job");
        assertEquals(statesOf(out), ["done", "done", "done"]);
        cells += 3;
        const again = await finish(slurm(...run(out)));
        assertEquals(again.code, 0, again.stderr);
        assertStringIncludes(again.stderr, "3 finished earlier");
        assertEquals((await finish(slurm(...run(out, "--dry-run")))).stdout, "");
      });

      await t.step("a run whose follower was killed is followed, not submitted again", async () => {
        const out = join(root, "followed");
        const first = slurm(...run(out, "--sbatch", "begin=now+30"), "--json");
        for await (const chunk of first.stderr.pipeThrough(new TextDecoderStream())) {
          if (chunk.includes("submitted")) break;
        }
        first.kill("SIGKILL");
        await first.stdout.cancel();
        await first.status;
        // As if the run had been killed before it knew the job.
        const { slurm: folder } = runPaths(out);
        const { name } = [...Deno.readDirSync(folder)].find(({ name }) => name.endsWith(".json"))!;
        const { job: _job, ...submission } = JSON.parse(Deno.readTextFileSync(join(folder, name)));
        Deno.writeTextFileSync(join(folder, name), JSON.stringify(submission));
        const nowhere = join(root, "nowhere.conf");
        Deno.writeTextFileSync(nowhere, "");
        Deno.env.set("SLURM_CONF", nowhere);
        const silent = await finish(slurm(...run(out)));
        Deno.env.set("SLURM_CONF", cluster.conf);
        assertEquals(silent.code, 2, silent.stderr);
        assertStringIncludes(silent.stderr, "Slurm's controller does not answer about the tasks of this folder");
        const { code, stderr } = await finish(slurm(...run(out)));
        assertEquals(code, 0, stderr);
        assertStringIncludes(stderr, "3 cells are in Slurm's queue already");
        assert(!stderr.includes("submitted"), stderr);
        assertEquals(statesOf(out), ["done", "done", "done"]);
        cells += 3;
      });

      await t.step("a limit and a cancelled job are failures with a class, and run again when asked", async () => {
        const out = join(root, "failed");
        const one = ["--methods", "random", "--sparsity", "0"];
        const limited = await finish(slurm(...run(out, ...one, "--timeout", "0.05")));
        assertEquals(limited.code, 1, limited.stderr);
        assertEquals(statesOf(out), ["timeout"]);
        const follower = slurm(...run(out, ...one, "--retry", "timeout", "--sbatch", "begin=now+60"), "--json");
        const [shown, waited] = follower.stderr.tee();
        for await (const chunk of shown.pipeThrough(new TextDecoderStream())) {
          if (!chunk.includes("submitted")) continue;
          command("scancel", at(/job (\d+)/.exec(chunk)!, 1));
          break;
        }
        await Promise.all([new Response(waited).text(), follower.stdout.cancel()]);
        assertEquals((await follower.status).code, 1);
        assertEquals(statesOf(out), ["error"]);
        const last = await finish(slurm(...run(out, ...one, "--retry", "error")));
        assertEquals(last.code, 0, last.stderr);
        assertEquals(statesOf(out), ["done"]);
        cells += 3;
        assert([...Deno.readDirSync(runPaths(out).logs)].some(({ name }) => name.startsWith("slurm-")));
      });
      await t.step("a cell that Slurm ends at --time is a failure of class timeout", async () => {
        const out = join(root, "overtime");
        const flags = ["--methods", "random", "--sparsity", "0", "--time", "1", "--sbatch", "begin=now+5"];
        const follower = slurm(...run(out, ...flags), "--json");
        const [shown, waited] = follower.stderr.tee();
        let held: Deno.FsFile | undefined;
        for await (const chunk of shown.pipeThrough(new TextDecoderStream())) {
          if (!chunk.includes("submitted")) continue;
          // A cell waits for the lock of its job, which costs no processor time.
          const job = at([...Deno.readDirSync(runPaths(out).jobs)], 0);
          held = Deno.openSync(join(runPaths(out).jobs, job.name), { read: true, write: true });
          held.lockSync(true);
          break;
        }
        await Promise.all([new Response(waited).text(), follower.stdout.cancel()]);
        held?.close();
        assertEquals((await follower.status).code, 1);
        const record = at(readRecords(out).records, 0);
        assert(record.state === "failed");
        assertEquals(record.failure.kind, "timeout");
        assertStringIncludes(record.failure.message, "give a longer --time");
      });
      await t.step("why a finished cell cannot be measured further is said with its class", async () => {
        const out = join(root, "damaged");
        const flags = ["--preset", "smoke", "--engine", "wasm", "--no-throughput", "--methods", "flap", "--out", out];
        const first = await finish(slurm("run", ...flags));
        assertEquals(first.code, 0, first.stderr);
        Deno.removeSync(runPaths(out).weights, { recursive: true });
        const { code, stderr } = await finish(slurm("eval", out, "--tasks", "tiny-agreement", "--executor", "slurm"));
        assertEquals(code, 1, stderr);
        assertMatch(stderr, /failed {2}flap.* \(usage, during loading\): .*rebuild\.safetensors/);
      });
      console.log(`${cells} cells run through Slurm`);
    } finally {
      cluster.stop();
      Deno.removeSync(root, { recursive: true });
    }
  },
});
