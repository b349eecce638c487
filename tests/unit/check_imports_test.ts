import { assertEquals, assertStringIncludes } from "@std/assert";
import { importCircles, importProblem } from "../../tools/checks/check_imports.ts";

Deno.test("importProblem() allows what goes down the layers", () => {
  const allowed: [string, string][] = [
    ["core/a.ts", "core/b.ts"],
    ["core/a.ts", "npm:zod@4"],
    ["models/a.ts", "core/b.ts"],
    ["methods/a.ts", "methods/_shared/b.ts"],
    ["methods/a/mod.ts", "methods/_shared/b.ts"],
    ["methods/a/mod.ts", "methods/a/b.ts"],
    ["methods/mod.ts", "methods/a.ts"],
    ["methods/mod.ts", "methods/a/mod.ts"],
    ["benchmarks/a.ts", "methods/mod.ts"],
    ["benchmarks/cli.ts", "benchmarks/commands/a.ts"],
    ["benchmarks/commands/report.ts", "reports/a.ts"],
    ["benchmarks/cells/a.ts", "benchmarks/records/b.ts"],
    ["benchmarks/cells/a.ts", "benchmarks/cells/b.ts"],
    ["reports/a.ts", "core/schema/schema.ts"],
    ["models/a.ts", "npm:@tensorflow/tfjs@4"],
    ["tests/unit/a.ts", "tools/b.ts"],
  ];
  for (const [from, to] of allowed) assertEquals(importProblem(from, to), undefined, `${from} -> ${to}`);
});

Deno.test("importProblem() says which rule an import breaks", () => {
  const refused: [string, string, string][] = [
    ["core/a.ts", "models/b.ts", "core may import nothing else"],
    ["models/a.ts", "methods/b.ts", "models may import core"],
    ["datasets/a.ts", "models/b.ts", "datasets may import core"],
    ["methods/a.ts", "methods/b.ts", "a method may not import another one"],
    ["methods/a/mod.ts", "methods/b/c.ts", "a method may not import another one"],
    ["methods/_shared/a.ts", "methods/b/c.ts", "a method may not import another one"],
    ["methods/a.ts", "datasets/b.ts", "methods may import core, models"],
    ["benchmarks/a.ts", "methods/random.ts", "methods/mod.ts"],
    ["benchmarks/records/a.ts", "benchmarks/cells/b.ts", "benchmarks/records may import pipeline, evaluation"],
    ["benchmarks/pipeline/a.ts", "benchmarks/records/b.ts", "benchmarks/pipeline may import evaluation, timing"],
    ["benchmarks/evaluation/a.ts", "benchmarks/records/b.ts", "benchmarks/evaluation may import timing"],
    ["benchmarks/configuration/a.ts", "benchmarks/sweep/b.ts", "benchmarks/configuration may import records"],
    ["benchmarks/timing/a.ts", "benchmarks/commands/b.ts", "no other room"],
    ["benchmarks/cells/a.ts", "benchmarks/cli.ts", "benchmarks/cells may import"],
    ["benchmarks/cells/a.ts", "reports/b.ts", "benchmarks may import"],
    ["reports/a.ts", "core/formats/gguf.ts", "core/schema, core/util"],
    ["core/a.ts", "mod.ts", "core may import"],
    ["benchmarks/a.ts", "tests/b.ts", "benchmarks may import"],
    ["benchmarks/a.ts", "npm:@tensorflow/tfjs@4", "TensorFlow.js may be imported in"],
  ];
  for (const [from, to, rule] of refused) assertStringIncludes(importProblem(from, to) ?? "allowed", rule);
});

Deno.test("importCircles() finds every circle, and none where files only share what they import", () => {
  const circles = (edges: string) => {
    const imports = new Map<string, string[]>();
    for (const [from = "", to = ""] of edges.split(" ").map((edge) => edge.split(">"))) {
      imports.set(from, [...imports.get(from) ?? [], to]);
    }
    return importCircles(imports).map((files) => files.join());
  };
  assertEquals(circles("a>b a>c b>d c>d"), []);
  assertEquals(circles("a>b b>c c>a c>d d>e"), ["a,b,c"]);
  assertEquals(circles("a>b b>a a>c c>d d>c e>a").sort(), ["a,b", "c,d"]);
  assertEquals(circles("a>a a>b"), ["a"]);
});
