import { assertEquals, assertThrows } from "@std/assert";
import { tableWidth } from "../../benchmarks/commands/table_width.ts";
import { UsageError } from "../../core/util/errors.ts";

Deno.test("tableWidth() takes --width, then COLUMNS, then the terminal", () => {
  assertEquals(tableWidth("200", "90", 80), 200);
  assertEquals(tableWidth(undefined, "1000000000", 80), 10_000);
  assertEquals(tableWidth(undefined, "90", 80), 90);
  assertEquals(tableWidth(undefined, "", 80), 80);
  assertEquals(tableWidth(undefined, "wide", 80), 80);
  assertEquals(tableWidth(undefined, "20", 80), 40);
  for (const wrong of ["0", "39", "12.5", "wide", "-100"]) {
    assertThrows(() => tableWidth(wrong), UsageError, `current "${wrong}"`);
  }
});
