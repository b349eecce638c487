import { assertEquals, assertMatch, assertStringIncludes, assertThrows } from "@std/assert";
import { z } from "zod";
import { parseMethods } from "../../benchmarks/configuration/short_forms.ts";
import { flagName, flagOptions, FLAGS, flagSource, parseStrictly } from "../../benchmarks/configuration/flags.ts";
import { checkResultNames, resolveNames } from "../../benchmarks/configuration/checks.ts";
import { resolveConfig, yamlSource } from "../../benchmarks/configuration/resolve.ts";
import { run } from "../../benchmarks/commands/run.ts";
import { FileFormatError, UsageError } from "../../core/util/errors.ts";
import { runConfigSchema } from "../../core/schema/schema.ts";

const MINIMAL = "methods: [random]\nsparsity: [0.5]\nout: x\n";

const parseFlags = (args: string[]) => ({ source: flagSource(parseStrictly(args, flagOptions())) });
const fromYaml = (text: string) => resolveConfig([yamlSource(text, "a.yaml")]);
const fromFlags = (...args: string[]) => resolveConfig([parseFlags(args).source]);

Deno.test("FLAGS has one flag for every key of the schema, and --help shows each with its description", () => {
  const keys = Object.keys(runConfigSchema.shape) as (keyof typeof FLAGS)[];
  assertEquals(Object.keys(FLAGS).sort(), [...keys].sort());
  const help = run.help().replace(/\s+/g, " ");
  for (const key of keys) {
    assertStringIncludes(help, `--${flagName(key)}`);
    assertStringIncludes(help, runConfigSchema.shape[key].description!);
  }
});

Deno.test("parseFlags() understands the command of the README", () => {
  const config = fromFlags(
    ...("--model SmolLM2-135M.gguf --methods random,magnitude,wanda-sp --sparsity 0.2,0.4 --perplexity wikitext2 " +
      "--tasks arc_easy,openbookqa --data DIR --limit 200 --engine tensorflow --out results/smollm2").split(" "),
  );
  const { methods, sparsity, perplexity, tasks, limit, engine, throughput } = config;
  assertEquals(methods.map(({ id }) => id), ["random", "magnitude", "wanda-sp"]);
  assertEquals([sparsity, tasks], [[0.2, 0.4], ["arc_easy", "openbookqa"]]);
  assertEquals([perplexity, limit], [[{ corpus: "wikitext2", protocol: "a" }], 200]);
  assertEquals([engine, throughput], ["tensorflow", undefined]);
});

Deno.test("a file may limit each task; wrong numbers and tasks are named", () => {
  const tasks = `${MINIMAL}tasks: [arc_easy, boolq]\n`;
  const { limit, numFewshot } = fromYaml(`${tasks}limit: {boolq: 50}\nnumFewshot: {boolq: 2}`);
  assertEquals([limit, numFewshot], [{ boolq: 50 }, { boolq: 2 }]);
  const all = parseFlags(["--limit", "all"]).source;
  assertEquals(resolveConfig([yamlSource(`${tasks}limit: 5`, "a"), all]).limit, undefined);
  assertEquals(fromYaml(`${tasks}limit: all`).limit, undefined);
  const refused = { "{boolq: 0}": "limit.boolq must be more than 0: current 0", "x": "limit must be a number" };
  for (const [text, problem] of Object.entries(refused)) {
    assertThrows(() => fromYaml(`${tasks}limit: ${text}`), UsageError, problem);
  }
  const config = fromYaml(`${tasks}limit: {bolq: 50}`);
  assertThrows(() => resolveNames(config, config.tasks), UsageError, '"bolq"');
});

Deno.test("parseFlags() reads the flags of tasks", () => {
  const flags = ["--methods", "random", "--sparsity", "0.5", "--out", "x"];
  const found = [fromFlags(...flags, "--num-fewshot", "5", "--log-samples"), fromFlags(...flags)];
  assertEquals(found.map(({ numFewshot, logSamples }) => [numFewshot, logSamples]), [[5, true], [0, false]]);
  assertThrows(() => fromFlags(...flags, "--num-fewshot", ""), UsageError, "--num-fewshot needs a value: N");
  assertThrows(() => fromFlags(...flags, "--num-fewshot=-1"), UsageError, "numFewshot must be at least 0: current -1");
  const negative = [...flags, "--training", "distillation=-1"];
  const { message } = assertThrows(() => fromFlags(...negative), UsageError, "at least 0");
  assertEquals(message.includes("\n"), false);
});

Deno.test("parseMethods() gives options to the method before them", () => {
  assertEquals(parseMethods("random,flap:structure=UL-UM,bias=true,layers=4,keep=null,magnitude"), [
    { id: "random", options: {} },
    { id: "flap", options: { structure: "UL-UM", bias: true, layers: 4, keep: null } },
    { id: "magnitude", options: {} },
  ]);
  assertThrows(() => parseMethods("bias=true"), UsageError, '"bias=true" is not a method');
  assertThrows(() => parseMethods("flap:structure"), UsageError, "METHOD:OPTION=VALUE");
});

Deno.test("parseFlags() reads protocols, window lengths, calibration and training from short forms, the folder from the name", () => {
  const config = fromFlags(
    ...("--methods random --sparsity 0.5 --out x --perplexity wikitext2/validation:b:128,c4::512:40 --calibration c4:64:256 " +
      "--throughput").split(" "),
  );
  assertEquals(config.perplexity, [
    { corpus: "wikitext2", split: "validation", protocol: "b", windowTokens: 128 },
    { corpus: "c4", protocol: "a", windowTokens: 512, maxWindows: 40 },
  ]);
  assertEquals(config.calibration, { corpus: "c4", sequences: 64, tokens: 256 });
  assertEquals(config.throughput, { prefillTokens: 512, decodeTokens: 128, batch: 1, repeats: 5 });
  assertThrows(() => parseFlags(["--perplexity", "a:b:1:2:3"]), UsageError, "5 parts");
  const { out, training } = fromFlags(
    ..."--methods sheared --sparsity 0.1 --name pilot --training steps=7,corpus=file:a.b/c.txt".split(" "),
  );
  assertEquals([out, training?.steps, training?.corpus], ["results/pilot", 7, "file:a.b/c.txt"]);
});

Deno.test("parseFlags() refuses unknown flags, missing values and stray words", () => {
  assertThrows(() => parseFlags(["--sparcity", "0.5"]), UsageError, 'Did you mean "--sparsity"?');
  assertThrows(() => parseFlags(["--no-tasks"]), UsageError, 'Unknown flag "--no-tasks"');
  assertThrows(() => parseFlags(["--limit", "--out", "x"]), UsageError, "--limit needs a value: N");
  assertThrows(() => parseFlags(["--out"]), UsageError, "--out needs a value");
  assertThrows(() => parseFlags(["tiny"]), UsageError, 'Unexpected argument "tiny"');
});

Deno.test("resolveConfig() names the flag, the limit and the value", () => {
  const cases: Record<string, string> = {
    "--sparsity 0.2,1.5": "--sparsity: sparsity[1] must be less than 1: current 1.5",
    "--sparsity half": 'sparsity[0] must be a number: current "half"',
    "--sparsity 0.5 --limit 0": "limit must be more than 0: current 0",
    "--sparsity 0.5 --seeds 1.5,4294967296": "whole number: current 1.5\n--seeds: seeds[1] must be at most 4294967295",
    "--sparsity 0.5 --engine cuda": "one of wasm, tensorflow, webgpu, cpu, auto",
  };
  for (const [flags, message] of Object.entries(cases)) {
    assertThrows(() => fromFlags("--methods", "random", "--out", "x", ...flags.split(" ")), UsageError, message);
  }
  assertThrows(
    () => fromFlags("--out", "x"),
    UsageError,
    "No methods given: use --methods, --method-file or --checkpoints",
  );
});

Deno.test("resolveConfig() lets flags override the file, and --no-throughput drop what it asks for", () => {
  const file = yamlSource(`${MINIMAL}throughput: on\nlimit: 5\ntraining: { steps: 7, batch: 0 }\n`, "a.yaml");
  const flags = (...args: string[]) => resolveConfig([file, parseFlags(args).source]);
  assertEquals(flags("--training", "batch=3").throughput?.prefillTokens, 512);
  assertThrows(() => flags("--training", "rank=4"), UsageError, "a.yaml:");
  const config = flags("--limit", "7", "--no-throughput", "--training", "batch=3");
  assertEquals([config.limit, config.training?.steps, config.training?.batch], [7, 7, 3]);
  assertEquals(config.throughput, undefined);
  const timed = yamlSource(`${MINIMAL}throughput: { repeats: 15 }\nbudget: decode-ms\n`, "a.yaml");
  for (const flag of ["--throughput", "--no-throughput"]) {
    assertEquals(resolveConfig([timed, parseFlags([flag]).source]).throughput?.repeats, 15);
  }
  assertEquals(config.methods, [{ id: "random", options: {} }]);
});

Deno.test("yamlSource() reads the same short forms as flags, and the long ones", () => {
  const short = fromYaml(
    "methods: [random, 'flap:structure=UL-UM,bias=true']\nsparsity: [0.5]\nperplexity: ['wikitext2:b:128']\n" +
      "calibration: c4:64:256\nthroughput: off\nout: x\n",
  );
  const long = fromYaml(
    "methods:\n- id: random\n- id: flap\n  options: {structure: UL-UM, bias: true}\nsparsity: [0.5]\n" +
      "perplexity: [{corpus: wikitext2, protocol: b, windowTokens: 128}]\n" +
      "calibration: {corpus: c4, sequences: 64, tokens: 256}\nout: x\n",
  );
  assertEquals(short, long);
});

Deno.test("one item may stand for a list in a file, and in what a script gives", () => {
  const alone = "sparsity: 0.5, 0.6\nseeds: 3\ntasks: arc_easy\nunits: ffn\nperplexity: wikitext2,c4:b\n";
  const lists = "sparsity: [0.5, 0.6]\nseeds: [3]\ntasks: [arc_easy]\nunits: [ffn]\nperplexity: [wikitext2, c4:b]\n";
  assertEquals(fromYaml(`methods: flap\n${alone}`), fromYaml(`methods: [flap]\n${lists}`));
  const expected = runConfigSchema.parse({ methods: [{ id: "flap" }], sparsity: [0.5], out: "x" });
  assertEquals(runConfigSchema.parse({ methods: { id: "flap" }, sparsity: 0.5, out: "x" }), expected);
  const message = (text: string) => assertThrows(() => fromYaml(text), UsageError).message;
  const wanted = "a.yaml:2:11: sparsity[0] must be less than 1: current 1.5";
  assertEquals(message("methods: flap\nsparsity: 1.5\nout: x\n"), wanted);
  assertStringIncludes(message("methods: flap\nsparsity:\nout: x\n"), "sparsity must be a list: missing");
  assertStringIncludes(message(`${MINIMAL}perplexity: {corpus: c4, window: 3}\n`), "Known: corpus, split");
  for (const io of ["input", "output"] as const) {
    const { properties } = z.toJSONSchema(runConfigSchema, { io });
    assertEquals((properties?.sparsity as { type: string }).type, "array");
  }
});

Deno.test("yamlSource() and resolveConfig() point at line and column", () => {
  const message = (text: string) => assertThrows(() => fromYaml(text), UsageError).message;
  assertMatch(message("methods: [a\nsparsity: 1\n"), /^a\.yaml:2:1: /);
  assertMatch(message("- a\n"), /must be a mapping/);
  assertEquals(message(`${MINIMAL}sparsety: [1]\n`).split("\n").pop()!.slice(0, 12), "a.yaml:4:11:");
  assertStringIncludes(message(`${MINIMAL}sparsety: [1]\n`), 'Did you mean "sparsity"?');
  const part = "a.yaml:4:5: sparsity[1] must be less than 1";
  assertStringIncludes(message("methods: [random]\nsparsity:\n  - 0.2\n  - 1.5\nout: x\n"), part);
  assertStringIncludes(
    message(`${MINIMAL}calibration: {corpus: c4, sequence: 3}\n`),
    'a.yaml:4:37: Unknown key of calibration "sequence". Did you mean "sequences"? Known: corpus, sequences, tokens',
  );
  for (const text of ["", "[]"]) assertMatch(message(`${MINIMAL}training: ${text}\n`), /^a\.yaml:4:\d+: training must/);
  assertThrows(() => yamlSource("a: 1\na: 2\n", "b.yaml"), FileFormatError, "b.yaml:2:1");
});

Deno.test("yamlSource() refuses a file that grows without limit when its aliases are followed", () => {
  const bomb = ["a: &a [x,x,x,x,x,x,x,x,x]"];
  for (const [name, of] of ["ba", "cb", "dc", "ed"]) {
    bomb.push(`${name}: &${name} [${Array(9).fill(`*${of}`).join(",")}]`);
  }
  assertThrows(() => yamlSource(bomb.join("\n"), "bomb.yaml"), FileFormatError, "bomb.yaml");
});

Deno.test("checkResultNames() refuses results that would share a name in lm-evaluation-harness's files", () => {
  const check = (...args: string[]) =>
    checkResultNames(fromFlags("--methods", "flap", "--sparsity", "0.5", "--out", "x", ...args));
  check("--perplexity", "wikitext:c,wikitext2:a:64,wikitext2:a:128", "--tasks", "wikitext2");
  for (
    const args of [["--perplexity", "wikitext:c:64,wikitext:c:128"], [
      "--perplexity",
      "wikitext:c",
      "--tasks",
      "wikitext",
    ]]
  ) {
    assertThrows(() => check(...args), UsageError, '"wikitext" is measured twice');
  }
});

Deno.test("resolveNames() fills in defaults of options and refuses unknown names", () => {
  const config = (...args: string[]) => fromFlags("--sparsity", "0.5", "--out", "x", ...args);
  const { methods } = resolveNames(config("--methods", "flap,flap:biasCompensation=false"), []);
  assertEquals(methods.map(({ options }) => [options.biasCompensation, typeof options.structure]), [
    [true, "string"],
    [false, "string"],
  ]);
  const refused = (text: string, ...args: string[]) =>
    assertThrows(() => resolveNames(config("--methods", ...args), ["arc_easy"]), UsageError, text);
  refused('Unknown method "flop"', "flop");
  refused('Unknown task "arc_eazy". Did you mean "arc_easy"?', "flap", "--tasks", "arc_eazy");
  refused('Unknown corpus "wikitext3"', "flap", "--perplexity", "wikitext3");
  refused('Unknown corpus "c5"', "flap", "--calibration", "c5");
  refused('Unknown corpus "self"', "flap", "--perplexity", "self");
  refused('Protocol a is not defined for corpus "wikitext": use protocol c', "flap", "--perplexity", "wikitext:a");
  refused("has no rows", "flap", "--calibration", "self:4:32:distinct-rows");
});
