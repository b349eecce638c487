import { assertEquals } from "@std/assert";
import {
  capitalize,
  codePointLength,
  floatRepr,
  replaceEach,
  splitAtSpaces,
  strip,
  stripEnd,
  stripStart,
  utf8Length,
} from "../../core/util/python_text.ts";

Deno.test("strip() removes Python's white space and leaves what only JavaScript counts as such", () => {
  assertEquals(strip("\x1c\x85\u2003 a b \u3000\x1f\n"), "a b");
  assertEquals(strip("\ufeffa\ufeff"), "\ufeffa\ufeff");
  assertEquals(stripStart(" a "), "a ");
  assertEquals(stripEnd(" a "), " a");
  assertEquals(strip(" \t "), "");
});

Deno.test("strip() takes time in proportion to the text", () => {
  // Quadratic backtracking over an inner run of spaces would take minutes.
  const text = `a${" ".repeat(300_000)}b`;
  assertEquals(strip(text), text);
});

Deno.test("splitAtSpaces() keeps empty first and last pieces", () => {
  assertEquals(splitAtSpaces(" a  b\n"), ["", "a", "b", ""]);
  assertEquals(splitAtSpaces("a\x85b"), ["a", "b"]);
});

Deno.test("capitalize() lowers everything but the first character", () => {
  assertEquals(capitalize("the NASA engineer"), "The nasa engineer");
  assertEquals(capitalize("éCOLE"), "École");
  assertEquals(capitalize("ßA"), "Ssa");
  assertEquals(capitalize("aΣ"), "Aς");
  assertEquals(capitalize(""), "");
});

Deno.test("replaceEach() takes the replacement literally", () => {
  assertEquals(replaceEach("a.a", "a", "$&"), "$&.$&");
});

Deno.test("codePointLength() and utf8Length() count code points and bytes, not UTF-16 units", () => {
  assertEquals([codePointLength("naïve 🜁"), utf8Length("naïve 🜁")], [7, 11]);
});

Deno.test("floatRepr() writes numbers as Python does", () => {
  const cases: [number, string][] = [
    [-3.25, "-3.25"],
    [-3, "-3.0"],
    [1e-7, "1e-07"],
    [1.5e-10, "1.5e-10"],
    [1e16, "1e+16"],
    [1e15, "1000000000000000.0"],
    [0.0001, "0.0001"],
    [-0, "-0.0"],
  ];
  for (const [value, text] of cases) assertEquals(floatRepr(value), text);
});
