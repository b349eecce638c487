/** Lets signals and timers run, and throws if `signal` was aborted. Engines that compute synchronously never yield
 * themselves, so an abort would be missed. */
export async function giveWay(signal: AbortSignal): Promise<void> {
  await new Promise((resolve) => setTimeout(resolve, 0));
  signal.throwIfAborted();
}
