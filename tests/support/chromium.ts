/** A headless Chromium, driven over its DevTools protocol.
 *
 * @module
 */
import { join } from "node:path";
import { UsageError } from "../../core/util/errors.ts";

const FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
  .concat(["--disable-background-networking", "--disable-component-update", "--remote-debugging-port=0"]);
const PATIENCE_MS = 60_000;

/** A page that is open. */
export interface Page {
  /** Calls a method of the protocol. */
  send(method: string, params?: Record<string, unknown>): Promise<Record<string, unknown>>;
  /** Value of an expression in the page, awaited there. */
  evaluate<T>(expression: string): Promise<T>;
  /** Uncaught exceptions and errors on the console so far. */
  problems: string[];
  /** Addresses asked for so far. */
  requests: string[];
}

function spawn(profile: string): Deno.ChildProcess {
  try {
    const args = [...FLAGS, `--user-data-dir=${profile}`, "about:blank"];
    return new Deno.Command("chromium", { args, stdout: "null", stderr: "null" }).spawn();
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    throw new UsageError("No browser was found: install chromium (Debian: apt-get install chromium)");
  }
}

/** Waits until the browser has written where it listens. */
async function debuggingPort(profile: string): Promise<string> {
  for (const end = Date.now() + PATIENCE_MS; Date.now() < end;) {
    try {
      const [port] = Deno.readTextFileSync(join(profile, "DevToolsActivePort")).split("\n");
      if (port) return port;
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  throw new Error(`The browser did not start within ${PATIENCE_MS / 1000} s`);
}

async function connect(port: string): Promise<{ page: Page; close: () => Promise<void> }> {
  const targets: { type: string; webSocketDebuggerUrl: string }[] =
    await (await fetch(`http://127.0.0.1:${port}/json/list`)).json();
  const socket = new WebSocket(targets.find(({ type }) => type === "page")!.webSocketDebuggerUrl);
  await new Promise((resolve, reject) => {
    socket.onopen = resolve;
    socket.onerror = reject;
  });
  const waiting = new Map<number, PromiseWithResolvers<Record<string, unknown>>>();
  let last = 0;
  const page: Page = {
    problems: [],
    requests: [],
    send: (method, params = {}) => {
      const answer = Promise.withResolvers<Record<string, unknown>>();
      waiting.set(++last, answer);
      socket.send(JSON.stringify({ id: last, method, params }));
      return answer.promise;
    },
    evaluate: async <T>(expression: string) => {
      const options = { expression, returnByValue: true, awaitPromise: true };
      const { result, exceptionDetails } = await page.send("Runtime.evaluate", options) as {
        result: { value: T };
        exceptionDetails?: { text: string; exception?: { description?: string } };
      };
      if (exceptionDetails) throw new Error(exceptionDetails.exception?.description ?? exceptionDetails.text);
      return result.value;
    },
  };
  socket.onmessage = ({ data }) => {
    const { id, result, error, method, params } = JSON.parse(data);
    if (id !== undefined) {
      if (error) waiting.get(id)?.reject(new Error(error.message));
      else waiting.get(id)?.resolve(result);
      waiting.delete(id);
    } else if (method === "Runtime.exceptionThrown") page.problems.push(params.exceptionDetails.text);
    else if (method === "Log.entryAdded" && params.entry.level === "error") page.problems.push(params.entry.text);
    else if (method === "Network.requestWillBeSent") page.requests.push(params.request.url);
  };
  for (const domain of ["Page", "Runtime", "Log", "Network"]) await page.send(`${domain}.enable`);
  const close = async () => {
    const closed = new Promise((resolve) => socket.onclose = resolve);
    socket.send(JSON.stringify({ id: ++last, method: "Browser.close" }));
    await closed;
  };
  return { page, close };
}

/** Runs `use` with a page of a browser that is started for it and ended after it.
 * @throws {UsageError} when no browser is installed. */
export async function withPage(use: (page: Page) => Promise<void>): Promise<void> {
  const profile = Deno.makeTempDirSync();
  const child = spawn(profile);
  try {
    const { page, close } = await connect(await debuggingPort(profile));
    try {
      await use(page);
    } finally {
      await close();
    }
  } finally {
    try {
      child.kill("SIGKILL");
    } catch { /* it has ended */ }
    await child.status;
    await removeProfile(profile);
  }
}

/** Opens an address at a width in pixels, with the colours asked for. */
export async function openPage(
  page: Page,
  url: string,
  { width, dark = false }: { width: number; dark?: boolean },
): Promise<void> {
  const metrics = { width, height: 900, deviceScaleFactor: 1, mobile: width < 600 };
  await page.send("Emulation.setDeviceMetricsOverride", metrics);
  const scheme = { name: "prefers-color-scheme", value: dark ? "dark" : "light" };
  await page.send("Emulation.setEmulatedMedia", { features: [scheme] });
  await page.send("Page.navigate", { url });
}

/** A PNG of the whole page, which the folder that `MASKPRUNE_SCREENSHOTS` names keeps. */
export async function screenshot(page: Page, name: string): Promise<Uint8Array> {
  const { data } = await page.send("Page.captureScreenshot", { captureBeyondViewport: true }) as { data: string };
  const png = Uint8Array.fromBase64(data);
  const folder = Deno.env.get("MASKPRUNE_SCREENSHOTS");
  if (folder !== undefined) {
    Deno.mkdirSync(folder, { recursive: true });
    Deno.writeFileSync(join(folder, `${name}.png`), png);
  }
  return png;
}

/** Clicks a place of the page with the mouse. */
export async function clickAt(page: Page, place: { x: number; y: number }): Promise<void> {
  for (const type of ["mousePressed", "mouseReleased"]) {
    await page.send("Input.dispatchMouseEvent", { type, ...place, button: "left", clickCount: 1 });
  }
}

/** The browser's helper processes still write into the profile for a moment after the browser itself has ended. */
async function removeProfile(profile: string): Promise<void> {
  for (const end = Date.now() + PATIENCE_MS;;) {
    try {
      return Deno.removeSync(profile, { recursive: true });
    } catch (error) {
      if (Date.now() > end) throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}
