/** A Slurm of one node on this machine, in a folder of its own. */
import { join } from "node:path";

/** A started cluster. */
export interface Cluster {
  /** Value of the environment variable `SLURM_CONF`. */
  conf: string;
  /** Ends the daemons. */
  stop(): void;
}

function sh(script: string, env: Record<string, string> = {}): { ok: boolean; text: string } {
  const { success, stdout, stderr } = new Deno.Command("sh", { args: ["-c", script], env }).outputSync();
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  return { ok: success, text: text(stdout) + text(stderr) };
}

/** Why no cluster can be started here; null where one can. */
export function missing(): string | null {
  const { ok, text } = sh("command -v slurmctld slurmd munged sbatch >/dev/null && test $(id -u) -eq 0");
  return ok ? null : `needs root and the packages slurmctld, slurmd and munge ${text}`.trim();
}

function configuration(folder: string): string {
  const host = Deno.hostname();
  const cpus = navigator.hardwareConcurrency;
  // Two clusters at once must not meet: ports of this process's own.
  const port = 16000 + 2 * (Deno.pid % 8000);
  return `ClusterName=test
SlurmctldHost=${host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
StateSaveLocation=${folder}/state
SlurmdSpoolDir=${folder}/spool
SlurmctldPidFile=${folder}/slurmctld.pid
SlurmdPidFile=${folder}/slurmd.pid
SlurmctldLogFile=${folder}/slurmctld.log
SlurmdLogFile=${folder}/slurmd.log
SlurmctldPort=${port}
SlurmdPort=${port + 1}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
KillWait=2
NodeName=${host} NodeAddr=127.0.0.1 CPUs=${cpus} RealMemory=1000 State=UNKNOWN
PartitionName=test Nodes=${host} Default=YES MaxTime=INFINITE State=UP
`;
}

/** Starts munge and Slurm.
 * @throws {Error} with the daemons' words when the node does not become idle. */
export async function startCluster(): Promise<Cluster> {
  const folder = Deno.makeTempDirSync();
  const conf = join(folder, "slurm.conf");
  for (const name of ["state", "spool"]) Deno.mkdirSync(join(folder, name));
  Deno.writeTextFileSync(conf, configuration(folder));
  const munge = sh(
    "pgrep -x munged >/dev/null || { mkdir -p /run/munge && chown munge: /run/munge && " +
      "{ test -s /etc/munge/munge.key || { head -c 1024 /dev/urandom >/etc/munge/munge.key && " +
      "chown munge: /etc/munge/munge.key && chmod 400 /etc/munge/munge.key; }; } && " +
      "setpriv --reuid=munge --regid=munge --clear-groups munged && echo started; }",
  );
  const stop = () => {
    sh(`for f in ${folder}/*.pid; do kill $(cat $f); done; sleep 1`);
    if (munge.text.includes("started")) sh("kill $(cat /run/munge/munged.pid)");
    Deno.removeSync(folder, { recursive: true });
  };
  const started = sh("slurmctld && slurmd", { SLURM_CONF: conf });
  for (let tries = 0; tries < 120; tries++) {
    if (sh("sinfo --noheader --format=%T", { SLURM_CONF: conf }).text.trim() === "idle") return { conf, stop };
    await new Promise((resolve) => setTimeout(resolve, 500));
  }
  const { text } = sh(`tail -n 20 ${folder}/*.log; sinfo`, { SLURM_CONF: conf });
  stop();
  throw new Error(`Slurm did not start: ${munge.text} ${started.text} ${text}`);
}
