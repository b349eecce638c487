/** llama.cpp beside us, through `node-llama-cpp`: no dependency of the project, but fetched into Deno's cache when
 * asked for the first time.
 *
 * @module
 */
import { join } from "node:path";
import { type Peer, startPeer } from "./peer_process.ts";

/** Starts llama.cpp's process, without this project's configuration, so that neither its lock file nor its node_modules
 * see the package.
 * @throws {UsageError} when it does not start: there is no network, or no build for this machine. */
export function startLlamaCpp(): Promise<Peer> {
  return startPeer("llama.cpp", "deno", [
    ...["run", "--quiet", "--no-config", "--no-lock", "--node-modules-dir=none", "--allow-all"],
    join(import.meta.dirname!, "llama_cpp_process.ts"),
  ]);
}
