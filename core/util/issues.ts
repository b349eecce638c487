import type { z } from "zod";
import { unknownName } from "./errors.ts";
import { at } from "./indexing.ts";
import { counted } from "./words.ts";

/** One sentence for an issue of zod: the key, the limit and the current value. */
export function describeIssue(
  issue: z.core.$ZodIssue,
  values: unknown,
  known: (path: PropertyKey[]) => string[],
): string {
  const key = issue.path.reduce<string>(
    (text, part) => typeof part === "number" ? `${text}[${part}]` : text ? `${text}.${String(part)}` : String(part),
    "",
  );
  const value = issue.path.reduce<unknown>(
    // A single item is accepted as a list.
    (at, part) =>
      typeof part === "number" && !Array.isArray(at) ? at : (at as Record<PropertyKey, unknown> | undefined)?.[part],
    values,
  );
  const current = value == undefined ? "missing" : `current ${JSON.stringify(value)}`;
  switch (issue.code) {
    case "unrecognized_keys":
      return unknownName(key ? `key of ${key}` : "key", at(issue.keys, 0), known(issue.path)).message;
    case "too_big":
      return `${key} must be ${issue.inclusive ? "at most" : "less than"} ${issue.maximum}: ${current}`;
    case "too_small":
      return issue.origin === "array"
        ? `${key} must have at least ${counted(Number(issue.minimum), "item")}`
        : `${key} must be ${issue.inclusive ? "at least" : "more than"} ${issue.minimum}: ${current}`;
    case "invalid_value":
      return `${key} must be one of ${issue.values.join(", ")}: ${current}`;
    case "invalid_type": {
      const what = { int: "whole number", array: "list" }[issue.expected as string] ?? issue.expected;
      return `${key} must be ${/^[aeio]/.test(what) ? "an" : "a"} ${what}: ${current}`;
    }
    case "invalid_union": {
      // The form that goes deeper into the value is the one that was meant.
      const [inner] = issue.errors.find(([one]) => one && one.path.length > 0) ?? at(issue.errors, 0);
      return describeIssue({ ...inner!, path: [...issue.path, ...inner!.path] }, values, known);
    }
    default:
      return `${key}: ${issue.message} (${current})`;
  }
}
