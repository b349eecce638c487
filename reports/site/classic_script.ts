/** Modules as one classic script. Browsers load no module from `file://`, and the page shares its statistics with the
 * reports: this joins both without a bundler.
 *
 * @module
 */
import { stripTypeScriptTypes } from "node:module";
import { fileURLToPath } from "node:url";

/** Packages whose browser builds the page loads as scripts of their own, by the variable that they define. */
const GLOBALS: Record<string, string> = { "simple-statistics": "ss", "vega-util": "vega" };

const IMPORT = /^import\s*\{([^}]*)\}\s*from\s*["']([^"']+)["'];?$/gm;
const EXPORT_LIST = /^export\s*\{([^}]*)\};?$/gm;
const EXPORT = /^export (?=(?:async )?function\*? (\w+)|(?:const|let|class) (\w+))/gm;

/** `a as b, c` as the members of an object pattern or literal: `a: b, c`. */
const members = (names: string): string =>
  names.split(",").map((name) => name.trim()).filter((name) => name !== "" && !name.startsWith("type "))
    .map((name) => name.replace(/\s+as\s+/, ": ")).join(", ");

/** `a as b` of an export list as a member of an object literal: `b: a`. */
const exported = (names: string): string[] =>
  names.split(",").map((name) => name.trim()).filter((name) => name !== "")
    .map((name) => name.split(/\s+as\s+/).reverse().join(": "));

/** The module `entry` and all that it imports by name, as the text of a classic script. Types are removed.
 * @throws {SyntaxError} for imports and exports of other forms. */
export function classicScript(entry: URL): string {
  const numbers = new Map<string, number>();
  const parts: string[] = [];
  const add = (url: string): string => {
    const known = numbers.get(url);
    if (known !== undefined) return `module${known}`;
    const text = Deno.readTextFileSync(fileURLToPath(url));
    const source = url.endsWith(".ts") ? stripTypeScriptTypes(text) : text;
    const names: string[] = [];
    const body = source
      .replace(IMPORT, (_, list: string, from: string) => {
        const target = GLOBALS[from] ?? add(from.startsWith(".") ? new URL(from, url).href : import.meta.resolve(from));
        return `const {${members(list)}} = ${target};`;
      })
      .replace(EXPORT_LIST, (_, list: string) => {
        names.push(...exported(list));
        return "";
      })
      .replace(EXPORT, (_, ofFunction?: string, ofValue?: string) => {
        names.push(ofFunction ?? ofValue ?? "");
        return "";
      })
      .replace(/^\/\/# sourceMappingURL=.*$/gm, "");
    const left = /^(?:import|export)\b.*/m.exec(body);
    if (left) throw new SyntaxError(`${url} has an import or export that a classic script cannot hold: ${left[0]}`);
    const number = numbers.size;
    numbers.set(url, number);
    parts.push(`const module${number} = (() => {\n${body.trim()}\nreturn { ${names.join(", ")} };\n})();\n`);
    return `module${number}`;
  };
  add(entry.href);
  return `"use strict";\n(() => {\n${parts.join("")}})();\n`;
}
