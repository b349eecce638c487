import { assertEquals, assertThrows } from "@std/assert";
import { at, entry, lookUp } from "../../core/util/indexing.ts";

Deno.test("at reads arrays and typed arrays, and names the index that is not there", () => {
  assertEquals([at(["a", "b"], 1), at(Float32Array.of(1, 2, 3), 2), at([undefined], 0)], ["b", 3, undefined]);
  assertThrows(() => at([1, 2], 2), RangeError, "index 2 is outside of 0 to 1");
  for (const index of [-1, 0.5, NaN]) assertThrows(() => at([1, 2], index), RangeError, `index ${index}`);
  assertThrows(() => at([], 0), RangeError, "0 entries");
});

Deno.test("entry and lookUp read what is there by name, and name the key that is not", () => {
  assertEquals(entry({ a: 1, b: 2 }, "b"), 2);
  assertEquals(entry({ a: undefined }, "a"), undefined);
  assertThrows(() => entry({ a: 1 }, "c"), RangeError, 'no entry "c"');
  // What every object inherits is no entry.
  assertThrows(() => entry({}, "toString"), RangeError, 'no entry "toString"');
  assertEquals(lookUp(new Map([["a", 0]]), "a"), 0);
  assertThrows(() => lookUp(new Map([["a", 1]]), "b"), RangeError, 'no entry "b" among 1');
});
