/** Ends the process when the parent closes its standard input. It runs in a worker, because a hanging cell would not
 * notice.
 *
 * @module
 */
for await (const _chunk of Deno.stdin.readable) { /* nothing is said */ }
Deno.kill(Deno.pid, "SIGKILL");
