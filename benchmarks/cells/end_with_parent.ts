/** Ends the process when its standard input does, which the parent holds. A worker of its own: a cell that hangs would
 * not look.
 *
 * @module
 */
for await (const _chunk of Deno.stdin.readable) { /* nothing is said */ }
Deno.kill(Deno.pid, "SIGKILL");
