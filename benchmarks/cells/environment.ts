/** Machine and versions of a record.
 *
 * @module
 */
import os from "node:os";
import { visibleSetting } from "../../core/engine/cuda.ts";
import type { Engine } from "../../core/engine/engine.ts";
import { canonicalJson } from "../../core/util/canonical_json.ts";
import type { DoneRecord, Environment } from "../../core/schema/schema.ts";
import { ROOT } from "../../core/util/user_folder.ts";

/** The environment of this process with the started `engine`. */
export function describeEnvironment(engine: Engine, commit: string | null): Environment {
  const { name, library, device, arithmetic, threads } = engine;
  const visibleDevices = visibleSetting();
  return {
    engine: name,
    library,
    device,
    ...visibleDevices !== undefined && { visibleDevices },
    arithmetic,
    threads,
    deno: Deno.version.deno,
    os: `${os.type()} ${os.release()} ${os.arch()}`,
    cpu: os.cpus()[0]?.model.trim() || "unknown",
    commit,
  };
}

/** The environments of a record that is measured further here: the first stays the record's. */
export function environmentsWith(
  here: Environment,
  before?: Pick<DoneRecord, "environment" | "laterEnvironments">,
): Pick<DoneRecord, "environment" | "laterEnvironments"> {
  if (!before) return { environment: here };
  const { environment, laterEnvironments = [] } = before;
  const isKnown = [environment, ...laterEnvironments].some((known) => canonicalJson(known) === canonicalJson(here));
  const later = isKnown ? laterEnvironments : [...laterEnvironments, here];
  return { environment, ...later.length > 0 && { laterEnvironments: later } };
}

/** Git commit of the harness, with `-dirty` if tracked files other than stored results differ; null without git or
 * outside a repository. */
export function harnessCommit(): string | null {
  const git = (...args: string[]): string | null => {
    try {
      const { success, stdout } = new Deno.Command("git", { args: ["-C", ROOT, ...args], stderr: "null" }).outputSync();
      return success ? new TextDecoder().decode(stdout).trim() : null;
    } catch {
      return null;
    }
  };
  const commit = git("rev-parse", "HEAD");
  if (commit === null) return null;
  return git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!results") === ""
    ? commit
    : `${commit}-dirty`;
}
