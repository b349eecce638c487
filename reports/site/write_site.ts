/** The folder of the page over many runs.
 *
 * @module
 */
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { writeAtomically } from "../../core/util/write_file.ts";
import { classicScript } from "./classic_script.ts";
import { type LoggedTask, siteData, type SiteRun } from "./site_data.ts";

const PAGE = ["index.html", "style.css"];

/** Browser builds that are copied, by package. */
const BUILDS: [name: string, from: string, path: string][] = [
  ["vega.js", "vega", "vega.min.js"],
  ["vega-lite.js", "vega-lite", "vega-lite.min.js"],
  ["simple-statistics.js", "simple-statistics", "simple-statistics.min.js"],
];

/** Packages whose code the page holds. */
const LICENSED = ["vega", "vega-lite", "vega-interpreter", "simple-statistics", "pure-rand"];

/** The licence of a package, from its folder. */
const licenceOf = (name: string): string => {
  const module = import.meta.resolve(name === "pure-rand" ? "pure-rand/generator/xoroshiro128plus" : name);
  const folder = fileURLToPath(module).split(`/node_modules/${name}/`)[0];
  return Deno.readTextFileSync(`${folder}/node_modules/${name}/LICENSE`);
};

/** Data as a script: no text in it can end a script element, and none breaks a line. */
const dataScript = (assignment: string, value: unknown): string =>
  `${assignment}(${
    JSON.stringify(value).replace(/[<\u2028\u2029]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`)
  });\n`;

/** A script of examples, which are read when it is written. */
export interface SiteSamples extends LoggedTask {
  id: string;
  /** Of each example: `context`, `choices`, `logLikelihoods`, the number `gold` of the right choice, and whether the
   * model was `right`. */
  read(): object[];
}

/** Writes `index.html` and what it loads into `out`; `samples` become scripts that the page loads when it is asked to.
 * @returns the path of `index.html` */
export function writeSite(out: string, runs: readonly SiteRun[], samples: readonly SiteSamples[]): string {
  const write = (name: string, content: string | Uint8Array) => writeAtomically(join(out, name), content);
  for (const name of PAGE) write(name, Deno.readFileSync(new URL(`page/${name}`, import.meta.url)));
  for (const [name, from, path] of BUILDS) {
    // Packages export their modules alone; the builds for browsers lie in the same folder.
    const module = fileURLToPath(import.meta.resolve(from));
    write(name, Deno.readFileSync(join(module, "..", path)));
  }
  write("app.js", classicScript(new URL("page/app.js", import.meta.url)));
  write("data.js", dataScript("window.BENCH = ", siteData(runs)));
  write("licences.txt", LICENSED.map((name) => `${name}\n\n${licenceOf(name)}`).join("\n\n"));
  for (const { file, id, task, read } of samples) {
    write(`samples/${file}`, dataScript("window.addSamples", { id, task, examples: read() }));
  }
  return join(out, "index.html");
}
