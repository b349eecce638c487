/** The bundled model's card.
 *
 * @module
 */
import { at } from "../../../core/util/indexing.ts";
import { queryHeads } from "../../../models/config.ts";
import type { StateScores, TinyScores } from "./score.ts";

const percent = (value: number) => `${(100 * value).toFixed(1)} %`;

function table(states: readonly StateScores[]): string {
  const { tasks } = at(states, 0);
  const rows = [
    ["units masked", "perplexity", ...tasks.map(({ id }) => id)],
    ["---", "---", ...tasks.map(() => "---")],
    ["(chance)", "", ...tasks.map(({ chance }) => percent(chance))],
    ...states.map((state) => [
      state.masked === 0 ? "none" : `${Math.round(100 * state.masked)} %, at random`,
      `${state.perplexity.toFixed(2)} ± ${state.perplexityStderr.toFixed(2)}`,
      ...state.tasks.map(({ accuracy, stderr }) => `${percent(accuracy)} ± ${(100 * stderr).toFixed(1)}`),
    ]),
  ];
  return rows.map((row) => `| ${row.join(" | ")} |`).join("\n");
}

/** Markdown of the card. */
export function modelCard({ config, parameters, testTokens, states }: TinyScores): string {
  const shape = at(config.layers, 0);
  const { examples } = at(at(states, 0).tasks, 0);
  return `# The bundled tiny model

A LLaMA-family decoder of ${
    (parameters / 1e6).toFixed(2)
  } M parameters, made to be pruned: small enough for a laptop, trained
until every task below is well above chance, so that a method that removes the wrong units shows it.

- ${config.layers.length} layers, width ${config.width}, ${queryHeads(shape)} heads of ${config.headSize} (multi-head
  attention), ${shape.ffnChannels} FFN channels, vocabulary ${config.vocabSize}, ${
    config.tiedHead ? "tied" : "untied"
  } output projection, ${config.maxPositions} positions, F16.
- Tokenizer: byte-level BPE trained on the same text; no token is put before a text by default. Documents end with
  \`</s>\` where they began with \`<s>\`.
- Data: little stories about one made-up valley, told by the generator in \`datasets/tiny_world\`. Nothing was copied from
  any data set. Texts and questions of the train, calibration, validation and test splits share no sentence. The model saw
  documents of the train split only, each once.
- Licence: MIT, as the rest of the repository.

## Scores

Test split: ${testTokens} tokens (protocol (a), windows of 128) and ${examples} questions a task, ± one standard error. The
lower rows show the same model with query heads and FFN channels of every layer set to zero at random, without
recovery.

${table(states)}

What the tasks ask: tiny-facts, who lives where or what an animal eats (four answers; the world is the same in all
splits, its wording is not); tiny-counting, how many there are after some come or go (four); tiny-agreement, the verb that
fits a subject (two); tiny-coreference, who or what a pronoun means (three).

## Commands

    deno task train:tiny               # data, tokenizer, training and this card; needs the tensorflow engine
    deno task train:tiny --card-only   # these scores again, from the committed model
    deno task train:tiny --data-only   # the committed texts and questions, the same to the byte
`;
}
