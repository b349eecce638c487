/** A program beside ours that answers one JSON line with another.
 *
 * @module
 */
import { join } from "node:path";
import { linesOf } from "../../core/util/deno_run.ts";
import { UsageError } from "../../core/util/errors.ts";

/** A running peer. */
export interface Peer {
  versions: string;
  /** Sends one object and waits for the answer.
   * @throws {UsageError} with the message of an answer {"error": …}, or when the peer has ended: its own message is on
   *   standard error then. */
  ask<Answer>(question: unknown): Promise<Answer>;
  close(): Promise<void>;
}

/** Starts `command`; the peer's first line is {"versions": …}.
 * @throws {UsageError} when it does not start. */
export async function startPeer(name: string, command: string, args: string[]): Promise<Peer> {
  const child = new Deno.Command(command, { args, stdin: "piped", stdout: "piped", stderr: "inherit" }).spawn();
  const writer = child.stdin.getWriter();
  const lines = linesOf(child.stdout);
  const nextAnswer = async () => {
    const { value, done } = await lines.next();
    if (done) throw new UsageError(`${name} ended early: its message is above`);
    return JSON.parse(value);
  };
  const { versions } = await nextAnswer();
  return {
    versions,
    ask: async (question) => {
      // The pipe of a peer that ended is broken; reading says what happened.
      await writer.write(new TextEncoder().encode(`${JSON.stringify(question)}\n`)).catch(() => {});
      const answer = await nextAnswer();
      if (typeof answer.error === "string") throw new UsageError(`${name}: ${answer.error}`);
      return answer;
    },
    close: async () => {
      await writer.close().catch(() => {});
      await child.status;
      await lines.return();
    },
  };
}

/** Starts llama.cpp through `node-llama-cpp`, which is fetched into Deno's cache at its first use: neither this
 * project's lock file nor its node_modules see the package.
 * @throws {UsageError} when it does not start: there is no network, or no build for this machine. */
export function startLlamaCpp(): Promise<Peer> {
  return startPeer("llama.cpp", "deno", [
    ...["run", "--quiet", "--no-config", "--no-lock", "--node-modules-dir=none", "--allow-all"],
    join(import.meta.dirname!, "llama_cpp_process.ts"),
  ]);
}
