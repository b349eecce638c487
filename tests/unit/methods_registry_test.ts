import { assert, assertEquals, assertThrows } from "@std/assert";
import { z } from "zod";
import { UsageError } from "../../core/util/errors.ts";
import { defineMethod, type Method } from "../../methods/define.ts";
import { getMethod, listMethods, parseOptions, register } from "../../methods/mod.ts";

const sample = (id: string, options: z.ZodType = z.strictObject({})): Method =>
  defineMethod({
    id,
    version: 1,
    summary: "a sample",
    source: "none",
    kind: "one-shot",
    needs: { calibration: false },
    options,
    uniformLayers: () => true,
    prune: () => Promise.resolve({ plan: { layers: [] } }),
  });

Deno.test("defineMethod() refuses ids that are not kebab-case, options without a default and colours that are none", () => {
  for (const id of ["", "Flap", "flap_2", "2flap", "flap-", "-flap"]) {
    assertThrows(() => sample(id), TypeError, "kebab");
  }
  assertThrows(() => sample("x", z.strictObject({ rate: z.number() })), TypeError, "default");
  const display = { order: 1, colour: "red" };
  assertThrows(() => defineMethod({ ...sample("x"), display }), TypeError, 'must be #RRGGBB: current "red"');
});

Deno.test("shipped methods have places and colours of their own", () => {
  const shown = listMethods().map(({ display }) => display);
  for (const key of ["order", "colour"] as const) {
    assertEquals(new Set(shown.map((one) => one?.[key])).size, shown.length, key);
  }
});

Deno.test("register() refuses an id that is taken", () => {
  const before = listMethods().length;
  assertThrows(() => register(sample("random")), TypeError, `"random" is already registered`);
  assertEquals(listMethods().length, before);
});

Deno.test("getMethod() finds every method and suggests a near name", () => {
  for (const method of listMethods()) assert(getMethod(method.id) === method);
  assertThrows(() => getMethod("wanda"), UsageError, "Known: ");
  assertThrows(() => getMethod("magnitud"), UsageError, `Did you mean "magnitude"?`);
});

Deno.test("parseOptions() fills in defaults and says what is wrong and what is allowed", () => {
  const flap = getMethod("flap");
  assertEquals(parseOptions(flap, { structure: "UL-UM" }), {
    structure: "UL-UM",
    metric: "WIFV",
    variance: "running",
    biasCompensation: true,
  });
  assertThrows(() => parseOptions(flap, { structur: "UL-UM" }), UsageError, `Did you mean "structure"?`);
  const message = `Method "flap": structure must be one of AL-AM, AL-MM, UL-MM, UL-UM: current "UL"`;
  assertThrows(() => parseOptions(flap, { structure: "UL" }), UsageError, message);
  assertThrows(() => parseOptions(flap, { biasCompensation: "yes" }), UsageError, `current "yes"`);
  assertThrows(() => parseOptions(flap, 3), UsageError, `Method "flap"`);
});
