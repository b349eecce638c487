/** How busy other programs keep the machine while something is timed.
 *
 * @module
 */
import os from "node:os";
import process from "node:process";

/** Clocks in milliseconds. */
export interface Clocks {
  wall: number;
  /** Processor time of all programs, all cores together; 0 where the system does not tell. */
  machine: number;
  /** Processor time of this program, all threads together. */
  own: number;
}

function readClocks(): Clocks {
  const { user, system } = process.cpuUsage();
  const machine = os.cpus().reduce((sum, { times: { user, nice, sys, irq } }) => sum + user + nice + sys + irq, 0);
  return { wall: performance.now(), machine, own: (user + system) / 1000 };
}

/** Starts to watch.
 * @returns what tells the processor cores that other programs kept busy since then, on average, to two decimals; null
 * where the system does not tell */
export function watchOtherCores(read: () => Clocks = readClocks): () => number | null {
  const before = read();
  return () => {
    const now = read();
    if (now.machine === 0) return null;
    const others = (now.machine - before.machine) - (now.own - before.own);
    return Math.max(0, Math.round(100 * others / (now.wall - before.wall)) / 100);
  };
}
