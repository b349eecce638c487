import { assertEquals, assertThrows } from "@std/assert";
import { createPythonRandom } from "../../core/util/python_random.ts";

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
