/** Memory of the process.
 *
 * @module
 */
import process from "node:process";

/** A number of bytes and what was measured. */
export interface MemoryReading {
  /** Size in bytes. */
  bytes: number;
  /** What the number is, for records. */
  measure: string;
}

/** Largest resident set of this process so far, device memory of a GPU not included.
 *
 * It is the operating system's own record (`getrusage`), so no moment is missed. On Linux that record begins with the
 * resident set of the process that launched this one: start cells from a small process. Where it is not kept, the
 * current resident set is given and named so. */
export function peakMemory(): MemoryReading {
  const { maxRSS } = process.resourceUsage();
  if (maxRSS > 0) return { bytes: maxRSS * 1024, measure: "peak resident set of the process (getrusage)" };
  return { bytes: Deno.memoryUsage().rss, measure: "resident set of the process at the end" };
}

/** Resident set of this process now, in bytes. */
export function residentMemoryBytes(): number {
  return Deno.memoryUsage().rss;
}
