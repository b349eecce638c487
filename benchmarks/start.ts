/** The program behind `deno task bench`. In a fresh clone it downloads the npm packages before it loads their users.
 *
 * @module
 */
import { join } from "node:path";
import { goToUserFolder, ROOT } from "../core/util/user_folder.ts";
import { isThere } from "../core/util/paths.ts";

async function installPackages(): Promise<void> {
  console.error("First start: downloading npm packages into node_modules (400 MB, about a minute) ...");
  const { code } = await new Deno.Command("deno", {
    args: ["install", "--quiet"],
    cwd: ROOT,
    stdout: "null",
    stderr: "inherit",
  }).output();
  if (code === 0) return;
  console.error("Cannot download the npm packages: check the network, then run `deno install`.");
  Deno.exit(2);
}

if (!isThere(join(ROOT, "node_modules", ".deno"))) await installPackages();
// Deno loads a literal path before this file runs, and with it the packages.
const commandLine = "./cli.ts";
const { main } = await import(commandLine);
goToUserFolder();
Deno.exit(await main(Deno.args));
