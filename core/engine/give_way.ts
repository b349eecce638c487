/** Giving way to the event loop.
 *
 * @module
 */

/** Lets signals and timers run, then stops if the user asked to. Engines that compute synchronously never give way on
 * their own, so that an abort would go unseen. */
export async function giveWay(signal: AbortSignal): Promise<void> {
  await new Promise((resolve) => setTimeout(resolve, 0));
  signal.throwIfAborted();
}
