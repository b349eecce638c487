import { assertEquals, assertThrows } from "@std/assert";
import { parseLiteral, parseTemplate } from "../../datasets/lm_eval/jinja.ts";

/** A record and templates with what `lm_eval.utils.apply_template` (lm-evaluation-harness 0.4.13, Jinja2 3.1) gives. */
const golden: { doc: Record<string, unknown>; rendered: [template: string, text: string][] } = JSON.parse(
  Deno.readTextFileSync(new URL("../golden/jinja.json", import.meta.url)),
);

Deno.test("templates are rendered as Jinja2 renders them", () => {
  for (const [template, text] of golden.rendered) {
    assertEquals(parseTemplate(template)(golden.doc).text, text, template);
  }
});

Deno.test("a template of one expression gives the value that literal_eval makes of its text", () => {
  const value = (template: string) => parseTemplate(template)(golden.doc).value;
  assertEquals(value("{{opts}}"), ["x", "it's"]);
  assertEquals(value("{% set last = opts[1] %}{{[last, 'a\\nb']}}"), ["it's", "a\nb"]);
  assertEquals(value("{{n - 1}}"), 1);
  assertEquals(value("{{text}}"), undefined);
  assertEquals(value("{{n}} "), undefined);
});

Deno.test("what Jinja2 refuses is refused, and what is not supported by name", () => {
  const render = (template: string) => () => parseTemplate(template)(golden.doc);
  for (const template of ["{{missing}}", "{{choices.missing}}", "{% if missing %}a{% endif %}"]) {
    assertThrows(render(template), RangeError, '"missing" is not defined');
  }
  assertThrows(render("{{opts[7]}}"), RangeError, "an index is beyond the end of its list");
  assertThrows(render("a{{n"), RangeError, "a{{n");
  assertThrows(render("{{text|regex_replace('a', 'b')}}"), RangeError, "regex_replace");
  assertThrows(render("{{text.zfill(3)}}"), RangeError, '"zfill"');
  assertThrows(render("{{range(10000000)|list}}"), RangeError, "100000");
  assertThrows(render("{{opts.index('none')}}"), RangeError, "not in the list");
});

Deno.test("parseLiteral() reads Python's lists and refuses names", () => {
  assertEquals(parseLiteral(`['a', "it's", 1, None, True, ('\\x41', -2)]`), ["a", "it's", 1, null, true, ["A", -2]]);
  assertEquals(parseLiteral("['}} {% if %}']"), ["}} {% if %}"]);
  for (const text of ["[a]", "[1,", "abc", "range(3)", "['a'] + ['b']", ""]) {
    assertThrows(() => parseLiteral(text), RangeError, "Python's notation");
  }
});
