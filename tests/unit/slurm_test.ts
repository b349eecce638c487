import { assert, assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import { RUN_FLAGS, runManner } from "../../benchmarks/commands/run_flags.ts";
import { arrayScript, checkSlurmOptions } from "../../benchmarks/sweep/slurm.ts";
import { UsageError } from "../../core/util/errors.ts";

const ARRAY = {
  ...{ name: "a run; rm -rf /", comment: "123", count: 4, list: "/x/it's/list", folder: "/x/$(touch a)/slurm" },
  ...{ jobs: "/x/jobs", logs: "/x/logs", out: "/x" },
};

Deno.test("arrayScript() keeps paths and names from becoming commands", () => {
  const asked = { gres: "gpu:1", maxParallel: 2, sbatch: ["--mem=8G"] };
  const script = arrayScript(ARRAY, asked, { ffi: true, timeoutS: 9 });
  const options = script.split("\n").flatMap((line) => line.startsWith("#SBATCH ") ? [line.slice(8)] : []);
  const fixed = ["--job-name=a_run__rm_-rf__", "--comment=123", "--array=0-3%2", "--requeue", "--open-mode=append"];
  assertEquals(options, [...fixed, "--gres=gpu:1", "--mem=8G"]);
  assertStringIncludes(script, `'/x/it'\\''s/list'`);
  assertStringIncludes(script, `>'/x/$(touch a)/slurm'/`);
  assertStringIncludes(script, "timeout --kill-after=10 9 ");
});

Deno.test("arrayScript() lets cells that may run on CUDA ask nvidia-smi, and no others run anything", () => {
  const script = (cuda: boolean) => arrayScript(ARRAY, { sbatch: [] }, { ffi: true, cuda });
  assertStringIncludes(script(true), "'--allow-run=nvidia-smi'");
  assert(!script(false).includes("--allow-run"));
});

Deno.test("checkSlurmOptions() refuses what would leave its line", () => {
  checkSlurmOptions({ partition: "gpu", time: "1-02:00:00", sbatch: ["--exclusive", "--mail-user=a@b.c"] });
  for (const word of ["--mem=8G\nrm", "mem=8G", "--mem=$(x)", "--mem=`x`", "--mem=a b", "--Mem=1"]) {
    assertThrows(() => checkSlurmOptions({ sbatch: [word] }), UsageError, "is not an option of sbatch");
  }
  assertThrows(() => checkSlurmOptions({ partition: "a\nb", sbatch: [] }), UsageError, "--partition");
});

Deno.test("runManner() takes options of Slurm only with Slurm, and limits above zero", () => {
  const none = Object.fromEntries(RUN_FLAGS.map((name) => [name, undefined]));
  assertEquals(runManner(none), { json: false, dryRun: false });
  assertThrows(() => runManner({ ...none, gres: "gpu:1" }), UsageError, "--gres needs --executor slurm");
  assertThrows(() => runManner({ ...none, executor: "pbs" }), UsageError, "must be local or slurm");
  const message = "--timeout must be a number of seconds above 0";
  assertThrows(() => runManner({ ...none, timeout: "-1" }), UsageError, message);
  const { slurm } = runManner({ ...none, executor: "slurm", "max-parallel": "3", sbatch: "mem=8G --exclusive" });
  assertEquals(slurm, {
    ...{ partition: undefined, gres: undefined, time: undefined },
    maxParallel: 3,
    sbatch: ["--mem=8G", "--exclusive"],
  });
  assert(runManner({ ...none, executor: "slurm", retry: "oom" }).retry?.includes("out-of-memory"));
});
