import { z } from "zod";
import { at } from "../core/util/indexing.ts";
import { capitalize, replaceEach, strip } from "../core/util/python_text.ts";
import { choicesAfter, defineTask, type Task } from "./define.ts";

/** HellaSwag's text without WikiHow's markup. As in lm-evaluation-harness, white space is stripped first, so a removed
 * mark may leave a space at either end. Each two spaces become one once, so three leave two. */
function clean(text: string): string {
  const sentences = replaceEach(strip(text), " [title]", ". ");
  return replaceEach(sentences.replace(/\[[^\n]*?\]/g, ""), "  ", " ");
}

/** HellaSwag: which of four endings continues a description. */
export const hellaswag: Task = defineTask({
  id: "hellaswag",
  version: 1,
  summary: "HellaSwag: which of four endings continues a description",
  source: "Zellers et al. 2019, arXiv:1905.07830",
  licence: "MIT (not stated on the data card)",
  hub: { repo: "Rowan/hellaswag" },
  split: "validation",
  record: z.looseObject({
    activity_label: z.string(),
    ctx_a: z.string(),
    ctx_b: z.string(),
    endings: z.array(z.string()).length(4),
    label: z.enum(["0", "1", "2", "3"]),
  }),
  toExample: ({ activity_label, ctx_a, ctx_b, endings, label }) => ({
    choices: choicesAfter(clean(`${activity_label}: ${ctx_a} ${capitalize(ctx_b)}`), endings.map(clean)),
    gold: Number(label),
  }),
  addedFields: ({ choices, gold }) => ({
    query: at(choices, 0).context,
    choices: choices.map(({ text }) => text),
    gold,
  }),
  metrics: ["acc", "acc_norm"],
  primaryMetric: "acc_norm",
});
