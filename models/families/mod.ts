/** The families of models. A new one is a file in this folder and a line below.
 *
 * @module
 */
import type { DecoderConfig } from "../config.ts";
import type { Family } from "./family.ts";
import { GEMMA3 } from "./gemma3.ts";
import { GRANITE } from "./granite.ts";
import { LLAMA } from "./llama.ts";
import { MISTRAL } from "./mistral.ts";
import { QWEN2, QWEN3 } from "./qwen.ts";
import { SMOLLM3 } from "./smollm3.ts";

/** All of them, the plain decoder first. */
export const FAMILIES: readonly Family[] = [LLAMA, MISTRAL, QWEN2, QWEN3, SMOLLM3, GRANITE, GEMMA3];

/** The family of a model; the plain decoder's if the configuration names none. */
export function familyOf({ family = LLAMA.id }: DecoderConfig): Family {
  const found = FAMILIES.find(({ id }) => id === family);
  if (!found) {
    throw new RangeError(
      `There is no family of models "${family}": must be ${FAMILIES.map(({ id }) => id).join(", ")}`,
    );
  }
  return found;
}

/** The family's entry in a configuration: none for the plain decoder. */
export function namedFamily({ id }: Family): Pick<DecoderConfig, "family"> {
  return id === LLAMA.id ? {} : { family: id };
}

/** The family whose `config.json` a model gets, with the reason if it is not its own. */
export function hfFamilyOf(config: DecoderConfig): { family: Family; reason?: string } {
  const family = familyOf(config);
  return family.standIn?.(config) ?? { family };
}
