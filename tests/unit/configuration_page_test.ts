import { assertEquals } from "@std/assert";
import { resolveConfig, yamlSource } from "../../benchmarks/configuration/resolve.ts";
import {
  calibrationSchema,
  perplexityChoiceSchema,
  runConfigSchema,
  throughputChoiceSchema,
  trainingSchema,
} from "../../core/schema/schema.ts";

const page = Deno.readTextFileSync(new URL("../../docs/configuration.md", import.meta.url));

/** Keys in the first column of the tables under headings that `isWanted` accepts. */
const keysUnder = (isWanted: (heading: string) => boolean) =>
  page.split(/^## /m).slice(1).filter((text) => isWanted(text.slice(0, text.indexOf("\n")))).flatMap((text) =>
    [...text.matchAll(/^\| `(\w+)`/gm)].map(([, key]) => key)
  );

Deno.test("docs/configuration.md has a row for every key of a configuration, and none besides", () => {
  const sections = {
    "`calibration`": calibrationSchema,
    "`perplexity`": perplexityChoiceSchema,
    "`throughput`": throughputChoiceSchema,
    "`training`": trainingSchema,
  };
  for (const [heading, { shape }] of Object.entries(sections)) {
    assertEquals(keysUnder((one) => one === heading), Object.keys(shape), heading);
  }
  const expected = Object.keys(runConfigSchema.shape).sort();
  assertEquals(keysUnder((heading) => !Object.hasOwn(sections, heading)).sort(), expected);
});

Deno.test("the example of docs/configuration.md is a configuration", () => {
  const [, text = ""] = /```yaml\n(.*?)```/s.exec(page) ?? [];
  const { calibration, methods, perplexity } = resolveConfig([yamlSource(text, "example")]);
  assertEquals(calibration, { corpus: "wikitext2", sequences: 128, tokens: 256 });
  assertEquals(methods.map(({ id }) => id), ["flap", "mask-prune"]);
  assertEquals(perplexity.map(({ windowTokens }) => windowTokens), [512, 512]);
});
