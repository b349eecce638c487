import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import { canonicalJson } from "../../core/util/canonical_json.ts";
import { cellLabels, cellName, labelCells } from "../../core/schema/cell_names.ts";
import { type Cell, cellSchema, trainingSchema } from "../../core/schema/schema.ts";

type Changes = Omit<Partial<Cell>, "method">;

/** A cell of `method` with these options, whose default is 0 each unless `changed` is unknown. */
function cell(
  id: string | null,
  options: Record<string, unknown> = {},
  changes: Changes = {},
  { isOld = false }: { isOld?: boolean } = {},
): Cell {
  const all = { a: 0, b: 0, split: "learned", regrowth: true, ...options };
  const changed = Object.keys(options);
  return cellSchema.parse({
    model: "tiny",
    engine: "wasm",
    method: id === null ? null : { id, options: all, ...isOld ? {} : { changed } },
    sparsity: id === null ? 0 : 0.5,
    seed: 0,
    units: ["ffn", "kv-groups"],
    ffnMultiple: 1,
    calibration: { corpus: "c4" },
    perplexity: [],
    tasks: [],
    ...changes,
  });
}

Deno.test("canonicalJson() is the same for any order of keys, and parses to the same value", () => {
  const shuffle = (value: unknown): unknown =>
    value !== null && typeof value === "object" && !Array.isArray(value)
      ? Object.fromEntries(Object.entries(value).reverse().map(([key, item]) => [key, shuffle(item)]))
      : Array.isArray(value)
      ? value.map(shuffle)
      : value;
  fc.assert(fc.property(fc.jsonValue(), (value) => {
    assertEquals(canonicalJson(shuffle(value)), canonicalJson(value));
    assertEquals(JSON.parse(canonicalJson(value)), JSON.parse(JSON.stringify(value)));
  }));
});

Deno.test("cellName() is a file name that begins with method, level and seed", () => {
  assertEquals(cellName({ id: "0123456789abcdef", cell: cell(null) }), "dense-0123456789abcdef");
  const flap = cell("flap", {}, { seed: 3 });
  assertEquals(cellName({ id: "0123456789abcdef", cell: flap }), "flap-0.5-s3-0123456789abcdef");
});

Deno.test("labelCells() names options of a method alone, and no other setting", () => {
  const training = trainingSchema.parse({ steps: 7 });
  const cells = [cell(null), cell("flap", { a: 1 }), cell("random", {}, { recover: "lora", training })];
  assertEquals(labelCells(cells), ["dense", "flap, a 1", "random"]);
});

Deno.test("labelCells() names recovery and compensation where a method occurs with and without", () => {
  const training = trainingSchema.parse({});
  const recovered = { recover: "lora", training } as const;
  assertEquals(labelCells([cell("wanda-sp"), cell("wanda-sp", {}, recovered)]), ["wanda-sp", "wanda-sp + LoRA"]);
  const corrected = cell("flap", {}, { compensate: "least-squares" });
  assertEquals(labelCells([corrected, cell("flap")]), ["flap, least squares", "flap"]);
  const both = cell("flap", { a: 1 }, { compensate: "least-squares", ...recovered });
  assertEquals(labelCells([both, cell("flap")]), ["flap + LoRA, least squares, a 1", "flap"]);
});

Deno.test("labelCells() gives the default the plain name, also where another variant is more frequent", () => {
  const variants = [{}, { a: 1 }, { a: 1, b: 1 }, { a: 1, split: "fixed" }];
  const expected = ["mask-prune", "mask-prune, a 1", "mask-prune, a 1, b 1", "mask-prune, a 1, split fixed"];
  assertEquals(labelCells(variants.map((options) => cell("mask-prune", options))), expected);
  const flaps = (...options: Record<string, unknown>[]) => labelCells(options.map((each) => cell("flap", each)));
  assertEquals(flaps({ split: "fixed" }, {}), ["flap, split fixed", "flap"]);
  assertEquals(flaps({ regrowth: false }, { a: 2 }), ["flap, regrowth off", "flap, a 2"]);
  assertEquals(flaps({ a: 1 }, { a: 2 }), ["flap, a 1", "flap, a 2"]);
});

Deno.test("labelCells() of records that do not know the defaults names all that differs", () => {
  const old = (options: Record<string, unknown>) => cell("mask-prune", options, {}, { isOld: true });
  const found = labelCells([{}, { a: 1 }, { a: 1, b: 1 }].map(old));
  assertEquals(found, ["mask-prune, a 0, b 0", "mask-prune, a 1, b 0", "mask-prune, a 1, b 1"]);
});

Deno.test("labelCells() names what was calibrated and trained on where it differs, and only then", () => {
  const calibration = { corpus: "c4", sequences: 8, tokens: 128 };
  const calibrated = [cell("flap"), cell("flap", {}, { calibration })];
  assertEquals(labelCells(calibrated), ["flap", "flap, calibration sequences 8"]);
  const learning = [100, 200].map((steps) => cell("sheared", {}, { training: trainingSchema.parse({ steps }) }));
  assertEquals(labelCells(learning), ["sheared", "sheared, training steps 200"]);
});

Deno.test("labelCells() is the same for equal settings and differs for others", () => {
  const options = fc.record({ a: fc.integer({ min: 0, max: 2 }), b: fc.integer({ min: 0, max: 1 }) });
  const settings = fc.record({
    options,
    compensate: fc.constantFrom(undefined, "least-squares" as const),
    ffnMultiple: fc.constantFrom(1, 8),
    isOld: fc.boolean(),
  });
  fc.assert(fc.property(fc.array(settings, { minLength: 1, maxLength: 8 }), (all) => {
    const cells = all.map(({ options, compensate, ffnMultiple, isOld }) => {
      const changed = Object.fromEntries(Object.entries(options).filter(([, value]) => value !== 0));
      return cell("flap", changed, { ffnMultiple, ...compensate && { compensate } }, { isOld });
    });
    const labels = labelCells(cells);
    const identity = (one: Cell) => canonicalJson({ ...one, method: one.method?.options });
    for (const [i, one] of cells.entries()) {
      for (const [j, other] of cells.entries()) {
        assert((identity(one) === identity(other)) === (labels[i] === labels[j]), `${labels[i]} and ${labels[j]}`);
      }
    }
  }));
});

Deno.test("cellLabels() adds the level, and the seed where there are several", () => {
  const named = (...cells: Cell[]) => [...cellLabels(cells.map((cell, i) => ({ id: String(i), cell }))).values()];
  assertEquals(named(cell(null), cell("flap", {}, { sparsity: 0.25, seed: 3 })), ["dense", "flap 25 %"]);
  const seeds = named(cell("flap", { a: 1 }), cell("flap", {}, { seed: 1 }));
  assertEquals(seeds, ["flap, a 1 50 % seed 0", "flap 50 % seed 1"]);
});
