/** What happens during a run, and how stderr shows it: a live line on a terminal, else one line per event.
 *
 * @module
 */
import { phaseWords } from "../../core/schema/failure.ts";
import { counted } from "../../core/util/words.ts";

/** Something that happened during a run. */
export type SweepEvent =
  | { event: "note"; message: string }
  | { event: "start"; cells: number; finished: number; retried: number; kept: number; jobs: number; out: string }
  | { event: "cell-start"; name: string; label: string }
  | { event: "cell-phase"; name: string; label: string; phase: string }
  | { event: "cell-done"; name: string; label: string; seconds: number }
  | { event: "cell-failed"; name: string; label: string; kind: string; message: string; phase?: string; log: string }
  | { event: "timing"; models: number }
  | { event: "cell-timed"; name: string; label: string; seconds: number }
  | {
    event: "end";
    done: number;
    failed: number;
    skipped: number;
    kept: number;
    seconds: number;
    interrupted: boolean;
  };

/** Where progress goes; `Deno.stderr` fits. */
export interface ProgressStream {
  writeSync(bytes: Uint8Array): number;
  isTerminal(): boolean;
}

/** Seconds as people say them: `8.4 s`, `2 min 05 s`, `1 h 02 min`. */
export function formatSeconds(seconds: number): string {
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const pad = (n: number) => String(n).padStart(2, "0");
  return hours > 0 ? `${hours} h ${pad(minutes)} min` : `${minutes} min ${pad(rest)} s`;
}

/** Time between two lines about a running cell, without a live line. */
const HEARTBEAT_MS = 30_000;

function plainLine(event: SweepEvent, counter: string): string | undefined {
  switch (event.event) {
    case "note":
      return event.message;
    case "start": {
      const finished = event.finished > 0 ? `, ${event.finished} finished earlier` : "";
      const retried = event.retried > 0 ? `, ${event.retried} failed earlier and are retried` : "";
      const kept = event.kept > 0 ? `, ${event.kept} failed earlier and are not retried` : "";
      const jobs = event.jobs > 1 ? `, ${event.jobs} at once` : "";
      return `${counted(event.cells, "cell")} into ${event.out}${finished}${retried}${kept}${jobs}`;
    }
    case "cell-start":
      return `start   ${event.label}`;
    case "cell-phase":
      return `at      ${event.label}: ${event.phase}`;
    case "cell-done":
      return `done    ${event.label} in ${formatSeconds(event.seconds)} ${counter}`;
    case "cell-failed":
      return `failed  ${event.label} (${event.kind}${
        event.phase === undefined ? "" : `, ${phaseWords(event.phase)}`
      }): ${event.message.replace(/\s+/g, " ")}. Log: ${event.log} ${counter}`;
    case "timing":
      return `timing  ${counted(event.models, "model")}, one at a time`;
    case "cell-timed":
      return `timed   ${event.label} in ${formatSeconds(event.seconds)}`;
    case "end": {
      const skipped = event.skipped > 0 ? `, ${event.skipped} finished earlier` : "";
      const kept = event.kept > 0 ? `, ${event.kept} failed earlier` : "";
      const cells = `${counted(event.done, "cell")} done, ${event.failed} failed${skipped}${kept}`;
      const outcome = `${cells} in ${formatSeconds(event.seconds)}`;
      return event.interrupted ? `Stopped: ${outcome}. Repeat the command to resume.` : outcome;
    }
  }
}

/** A function that shows events as they come; with `json`, each as one JSON line. */
export function createProgress(
  stream: ProgressStream = Deno.stderr,
  options: { json?: boolean; columns?: () => number; now?: () => number } = {},
): (event: SweepEvent) => void {
  const { json = false, columns = () => Deno.consoleSize().columns, now = () => performance.now() } = options;
  const live = !json && stream.isTerminal();
  const encoder = new TextEncoder();
  const write = (text: string) => {
    try {
      stream.writeSync(encoder.encode(text));
    } catch {
      // The reader is gone, or the disk is full: the run continues.
    }
  };
  const phases = new Map<string, string>();
  /** When a cell was last heard of. */
  const heard = new Map<string, number>();
  let total = 0;
  let ended = 0;
  let toRun = 0;
  let startedAt = now();

  const liveLine = (): string => {
    const elapsed = (now() - startedAt) / 1000;
    const ran = ended - (total - toRun);
    const left = ran > 0 && ran < toRun ? `, about ${formatSeconds(elapsed / ran * (toRun - ran))} left` : "";
    const text = `[${ended}/${total}${left}] ${[...phases.values()].join(" | ")}`.trimEnd();
    const width = Math.max(20, columns() - 1);
    return text.length > width ? `${text.slice(0, width - 1)}…` : text;
  };

  return (event) => {
    if (json) {
      write(JSON.stringify(event) + "\n");
      return;
    }
    if (event.event === "start") {
      const before = event.finished + event.kept;
      [total, ended, toRun, startedAt] = [event.cells, before, event.cells - before, now()];
    }
    if (event.event === "cell-start") phases.set(event.name, event.label);
    if (event.event === "cell-phase") phases.set(event.name, `${event.label}: ${event.phase}`);
    if (event.event === "cell-done" || event.event === "cell-failed" || event.event === "cell-timed") {
      phases.delete(event.name);
      // A finished cell whose timing fails has been counted.
      if (event.event !== "cell-timed") ended = Math.min(total, ended + 1);
    }
    // On a terminal the live line shows starts and phases.
    const isLive = live && (event.event === "cell-start" || event.event === "cell-phase");
    const isEarly = event.event === "cell-phase" && now() - (heard.get(event.name) ?? -Infinity) < HEARTBEAT_MS;
    if ("name" in event && !isEarly) heard.set(event.name, now());
    const line = isLive || isEarly ? undefined : plainLine(event, `[${ended}/${total}]`);
    if (live) write("\r\x1b[K");
    if (line !== undefined) write(`${line}\n`);
    if (event.event === "end") total = 0;
    if (live && total > 0) write(liveLine());
  };
}
