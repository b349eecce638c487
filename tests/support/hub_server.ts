/** A server on this machine that answers as the Hugging Face Hub does: data set information, trees in pages, redirects to
 * another host for the files, ranges. Faults are asked for one by one.
 *
 * @module
 */
import { createHash } from "node:crypto";
import { at } from "../../core/util/indexing.ts";

/** What a repository holds. */
export interface FakeRepository {
  /** Branches and the files of their one commit. */
  branches: Record<string, Record<string, Uint8Array<ArrayBuffer>>>;
  /** Whether a token is needed. */
  isPrivate?: boolean;
}

/** A fault of the files' host. */
export interface Faults {
  /** How many transfers break off after `breakAfter` bytes. */
  breaks?: number;
  breakAfter?: number;
  /** How many transfers have a byte changed. */
  corruptions?: number;
}

/** The running servers. */
export interface FakeHub extends AsyncDisposable {
  endpoint: string;
  faults: Faults;
  /** Requests to the files' host that asked for more than the size: range or `all`. */
  transfers: string[];
  /** Authorization headers that the files' host saw. */
  leaked: string[];
}

/** The token that private repositories want. */
export const TOKEN = "hf_test";

/** Full name of a branch's commit. */
export const commitOf = (branch: string): string => createHash("sha1").update(branch).digest("hex");

const isLarge = (bytes: Uint8Array) => bytes.length > 1000;

function treeEntry(path: string, bytes: Uint8Array) {
  const sha1 = createHash("sha1").update(`blob ${bytes.length}\0`).update(bytes).digest("hex");
  const sha256 = createHash("sha256").update(bytes).digest("hex");
  const lfs = { oid: sha256, size: bytes.length, pointerSize: 130 };
  return isLarge(bytes)
    ? { type: "file", path, size: bytes.length, oid: "f".repeat(40), lfs }
    : { type: "file", path, size: bytes.length, oid: sha1 };
}

/** Sends `bytes` and then breaks off. */
function broken(bytes: Uint8Array<ArrayBuffer>): ReadableStream<Uint8Array<ArrayBuffer>> {
  let sent = false;
  return new ReadableStream({
    pull: async (controller) => {
      if (sent) {
        await new Promise((done) => setTimeout(done, 50));
        controller.error(new Error("broken off"));
      } else controller.enqueue(bytes);
      sent = true;
    },
  });
}

function sendFile(request: Request, bytes: Uint8Array<ArrayBuffer>, hub: FakeHub): Response {
  const { faults } = hub;
  const range = /^bytes=(\d+)-(\d+)?$/.exec(request.headers.get("range") ?? "");
  const isProbe = range?.[1] === "0" && range[2] === "0";
  if (!isProbe) hub.transfers.push(range ? `${range[1]}-${range[2]}` : "all");
  const authorization = request.headers.get("authorization");
  if (authorization !== null) hub.leaked.push(authorization);
  const isPart = range !== null;
  const [from, to] = isPart ? [Number(range[1]), Number(range[2] ?? bytes.length - 1)] : [0, bytes.length - 1];
  const part = bytes.slice(from, to + 1);
  if (!isProbe && (faults.corruptions ?? 0) > 0) {
    faults.corruptions!--;
    part[0] = at(part, 0) ^ 1;
  }
  const headers = {
    etag: `"${createHash("sha256").update(bytes).digest("hex")}"`,
    "content-length": String(part.length),
    ...isPart ? { "content-range": `bytes ${from}-${to}/${bytes.length}` } : {},
  };
  let body: BodyInit = part;
  if (!isProbe && (faults.breaks ?? 0) > 0) {
    faults.breaks!--;
    body = broken(part.slice(0, faults.breakAfter));
  }
  return new Response(body, { status: isPart ? 206 : 200, headers });
}

/** Starts the Hub with these repositories, and the host of their files. */
export function startHub(repositories: Record<string, FakeRepository>): FakeHub {
  const local = { hostname: "127.0.0.1", port: 0, onListen: () => {} };
  const find = (name: string, commit: string) =>
    Object.entries(repositories[name]?.branches ?? {}).find(([branch]) => commitOf(branch) === commit)?.[1];
  const files = Deno.serve(local, (request) => {
    const [, name = "", commit = "", path = ""] =
      /^\/(.+?\/.+?)\/([0-9a-f]{40})\/(.+)$/.exec(new URL(request.url).pathname) ?? [];
    const bytes = find(name, commit)?.[path];
    return bytes ? sendFile(request, bytes, hub) : new Response("no such file", { status: 404 });
  });
  const filesUrl = `http://127.0.0.1:${files.addr.port}`;

  const answer = async (request: Request): Promise<Response> => {
    const url = new URL(request.url);
    const [, name = ""] = /^\/(?:api\/)?datasets\/([^/]+\/[^/]+)/.exec(url.pathname) ?? [];
    const repository = repositories[name];
    const isAllowed = !repository?.isPrivate || request.headers.get("authorization") === `Bearer ${TOKEN}`;
    if (!repository || !isAllowed) {
      // The Hub does not tell whether a repository exists.
      return Response.json({ error: "Invalid username or password." }, { status: repository ? 401 : 404 });
    }
    const rest = decodeURIComponent(url.pathname.slice(url.pathname.indexOf(name) + name.length));
    const [, branch] = /^\/revision\/(.+)$/.exec(rest) ?? [];
    if (branch !== undefined) {
      if (!Object.hasOwn(repository.branches, branch)) {
        return Response.json({ error: `Invalid rev id: ${branch}` }, { status: 404 });
      }
      return Response.json({ _id: "1", id: name, sha: commitOf(branch), lastModified: "2026-01-01T00:00:00Z" });
    }
    const [, commit, folder] = /^\/tree\/([0-9a-f]{40})(?:\/(.+))?$/.exec(rest) ?? [];
    if (commit !== undefined) {
      const entries = Object.entries(find(name, commit) ?? {})
        .filter(([path]) => folder === undefined || path.startsWith(`${folder}/`))
        .map(([path, bytes]) => treeEntry(path, bytes));
      if (entries.length === 0) return Response.json({ error: "not found" }, { status: 404 });
      // One entry a page.
      const page = Number(url.searchParams.get("cursor") ?? 0);
      url.searchParams.set("cursor", String(page + 1));
      const headers = page + 1 < entries.length ? { link: `<${url}>; rel="next"` } : undefined;
      return Response.json(entries.slice(page, page + 1), headers && { headers });
    }
    const [, asked] = /^\/paths-info\/([0-9a-f]{40})$/.exec(rest) ?? [];
    if (asked !== undefined) {
      const { paths } = await request.json() as { paths: string[] };
      return Response.json(paths.flatMap((path) => {
        const bytes = find(name, asked)?.[path];
        return bytes ? [treeEntry(path, bytes)] : [];
      }));
    }
    const [, resolved, path] = /^\/resolve\/([0-9a-f]{40})\/(.+)$/.exec(rest) ?? [];
    if (resolved !== undefined) return Response.redirect(`${filesUrl}/${name}/${resolved}/${path}`, 302);
    return new Response("not found", { status: 404 });
  };
  const hubServer = Deno.serve(local, answer);
  const hub: FakeHub = {
    endpoint: `http://127.0.0.1:${hubServer.addr.port}`,
    faults: {},
    transfers: [],
    leaked: [],
    [Symbol.asyncDispose]: async () => {
      await Promise.all([hubServer.shutdown(), files.shutdown()]);
    },
  };
  return hub;
}
