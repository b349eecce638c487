import { assertEquals, assertThrows } from "@std/assert";
import { createPythonRandom } from "../../core/util/python_random.ts";
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
  const found = [-3.25, -3, 1e-7, 1.5e-10, 1e16, 1e15, 0.0001, -0].map(floatRepr);
  assertEquals(found, "-3.25 -3.0 1e-07 1.5e-10 1e+16 1000000000000000.0 0.0001 -0.0".split(" "));
});

// The values were printed by CPython 3.11's random module.
Deno.test("createPythonRandom() gives CPython's bits", () => {
  const random = createPythonRandom(1234);
  assertEquals([random.bits(32), random.bits(32), random.bits(32)], [4150886329, 3342196574, 1892932127]);
});

Deno.test("sample() draws what CPython draws, from small and large pools", () => {
  const random = createPythonRandom(1234);
  assertEquals([random.sample(1000, 5), random.sample(1000, 5)], [[989, 796, 451, 119, 7], [92, 932, 965, 961, 826]]);
  assertEquals(random.sample(3, 2), [2, 0]);
  assertEquals(random.sample(20, 4), [2, 3, 11, 7]);
  assertEquals(random.sample(100, 12), [2, 3, 44, 82, 79, 61, 78, 59, 19, 11, 23, 91]);
  assertEquals(random.sample(5_000_000, 3), [959765, 122631, 4220171]);
  assertEquals(createPythonRandom(7).sample(9251, 6), [5305, 2471, 6468, 791, 1186, 8779]);
  assertThrows(() => random.sample(2, 3), RangeError, "from 2");
});
