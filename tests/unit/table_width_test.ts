import { assertEquals, assertThrows } from "@std/assert";
import { tableWidth } from "../../benchmarks/commands/table_width.ts";
import { UsageError } from "../../core/util/errors.ts";

Deno.test("tableWidth() takes --width, then COLUMNS, then the terminal", () => {
  assertEquals(tableWidth({ width: "200" }, "90", 80), 200);
  assertEquals(tableWidth({}, "1000000000", 80), 10_000);
  assertEquals(tableWidth({}, "90", 80), 90);
  assertEquals(tableWidth({}, "", 80), 80);
  assertEquals(tableWidth({}, "wide", 80), 80);
  assertEquals(tableWidth({}, "20", 80), 40);
  for (const wrong of ["0", "39", "12.5", "wide", "-100"]) {
    assertThrows(() => tableWidth({ width: wrong }), UsageError, `current "${wrong}"`);
  }
});
