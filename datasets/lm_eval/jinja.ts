/** Templates of task files, rendered as by Jinja2 with `StrictUndefined` and `keep_trailing_newline`.
 *
 * The library is made for chat templates. In templates of tasks its values differ from Python's for `None`, lists as
 * text, white space, characters outside the basic plane, string methods and missing fields. This module evaluates these
 * nodes itself and leaves all others to the library.
 *
 * @module
 */
import { Environment, Interpreter, parse, tokenize } from "@huggingface/jinja";
import { pythonEqual, pythonText, type RuntimeValue, toJson, toRuntime } from "./python_values.ts";
import { codePoints, FILTERS, STRING_METHODS } from "./python_methods.ts";

type Statement = Parameters<Interpreter["evaluate"]>[0];

/** A node of the library's syntax tree, or one of ours: `Constant`, and `Output` for an expression that is printed. */
interface Node {
  type: string;
  [part: string]: unknown;
}

const isNode = (value: unknown): value is Node => typeof value === "object" && value !== null && "type" in value;
const asNode = (value: unknown): Node => isNode(value) ? value : { type: "Missing" };
const asNodes = (value: unknown): Node[] => Array.isArray(value) ? value.map(asNode) : [];
/** The library's classes carry no more than their fields, so a node of ours is one of its statements. */
const asStatement = (node: Node): Statement => node as unknown as Statement;

/** Parts of statements that are lists of statements. */
const BLOCKS = ["body", "alternate", "defaultBlock"];
/** Statements that print nothing, or their own text. */
const STATEMENTS = new Set([
  "Set",
  "If",
  "For",
  "Macro",
  "CallStatement",
  "FilterStatement",
  "Break",
  "Continue",
  "Comment",
  "StringLiteral",
]);

/** The statements with each expression in an `Output`, at every depth. */
function withOutputs(statements: readonly Node[]): Node[] {
  return statements.map((node) => {
    if (!STATEMENTS.has(node.type)) return { type: "Output", expression: node };
    for (const block of BLOCKS) if (Array.isArray(node[block])) node[block] = withOutputs(asNodes(node[block]));
    return node;
  });
}

/** Names besides fields. */
function globals(): Environment {
  const environment = new Environment();
  for (const [name, value] of Object.entries({ true: true, false: false, none: null })) {
    environment.set(name, value);
    environment.set(`${name.charAt(0).toUpperCase()}${name.slice(1)}`, value);
  }
  environment.set("range", (start: number, stop?: number, step = 1) => {
    const [from, to] = stop === undefined ? [0, start] : [start, stop];
    const count = Math.max(0, Math.ceil((to - from) / step));
    if (!(count <= MOST_STEPS)) throw new RangeError(`range() is longer than ${MOST_STEPS}`);
    return Array.from({ length: count }, (_, i) => from + i * step);
  });
  return environment;
}

const MOST_STEPS = 100_000;
const GLOBALS = globals();

class PythonInterpreter extends Interpreter {
  /** Above 0 while undefined values are allowed (`is defined`, `default`). */
  private lenient = 0;

  override evaluate(statement: Statement, environment: Environment): RuntimeValue {
    const node = asNode(statement);
    switch (node.type) {
      case "Constant":
        return node.value as RuntimeValue;
      case "Output":
        return toRuntime(pythonText(this.part(node.expression, environment)));
      case "CallExpression":
        return this.call(node, environment) ?? super.evaluate(statement, environment);
      case "FilterExpression":
        return this.filter(node, environment) ?? this.library(node, environment, nameOf(node.filter) === "default");
      case "TestExpression":
        return this.library(node, environment, ["defined", "undefined"].includes(nameOf(node.test)));
      case "BinaryExpression":
        return this.binary(node, environment) ?? super.evaluate(statement, environment);
      case "Identifier":
      case "MemberExpression":
        return this.lookup(node, environment);
      default:
        return super.evaluate(statement, environment);
    }
  }

  private part(node: unknown, environment: Environment): RuntimeValue {
    return this.evaluate(asStatement(asNode(node)), environment);
  }

  private library(node: Node, environment: Environment, lenient: boolean): RuntimeValue {
    this.lenient += Number(lenient);
    try {
      return super.evaluate(asStatement(node), environment);
    } finally {
      this.lenient -= Number(lenient);
    }
  }

  private lookup(node: Node, environment: Environment): RuntimeValue {
    const value = this.ofCharacters(node, environment) ?? super.evaluate(asStatement(node), environment);
    if (value.type !== "UndefinedValue" || this.lenient > 0) return value;
    const name = nameOf(node.type === "Identifier" ? node : node.property);
    throw new RangeError(name === "" ? "an index is beyond the end of its list" : `"${name}" is not defined`);
  }

  /** Indexing and slicing by characters in strings with surrogate pairs, which JavaScript counts twice. */
  private ofCharacters(node: Node, environment: Environment): RuntimeValue | undefined {
    if (node.computed !== true) return undefined;
    const object = this.part(node.object, environment);
    const constant = { type: "Constant", value: object };
    if (object.type !== "StringValue" || !/[\ud800-\udfff]/.test(String(object.value))) {
      return super.evaluate(asStatement({ ...node, object: constant }), environment);
    }
    const characters = { type: "Constant", value: toRuntime(codePoints(String(object.value))) };
    const value = super.evaluate(asStatement({ ...node, object: characters }), environment);
    return Array.isArray(value.value) ? toRuntime(value.value.map(pythonText).join("")) : value;
  }

  /** A method of a string or a list with Python's meaning. */
  private call(node: Node, environment: Environment): RuntimeValue | undefined {
    const callee = asNode(node.callee);
    if (callee.type !== "MemberExpression" || callee.computed === true) return undefined;
    const name = nameOf(callee.property);
    const method = STRING_METHODS[name];
    if (!method && name !== "index" && name !== "count") return undefined;
    const object = this.part(callee.object, environment);
    const args = asNodes(node.args).map((arg) => this.part(arg, environment));
    if (object.type === "StringValue" && method) return toRuntime(method(String(object.value), args));
    const [wanted] = args;
    if (!Array.isArray(object.value) || wanted === undefined) return undefined;
    const items: RuntimeValue[] = object.value;
    if (name === "count") return toRuntime(items.filter((item) => pythonEqual(item, wanted)).length);
    const index = items.findIndex((item) => pythonEqual(item, wanted));
    if (index < 0) throw new RangeError(`${pythonText(wanted)} is not in the list`);
    return toRuntime(index);
  }

  private filter(node: Node, environment: Environment): RuntimeValue | undefined {
    const filter = FILTERS[nameOf(node.filter)];
    if (!filter) return undefined;
    const args = asNodes(asNode(node.filter).args).filter(({ type }) => type !== "KeywordArgumentExpression");
    if (args.length < asNodes(asNode(node.filter).args).length) return undefined;
    const result = filter(this.part(node.operand, environment), args.map((arg) => this.part(arg, environment)));
    return result === undefined ? undefined : toRuntime(result);
  }

  private binary(node: Node, environment: Environment): RuntimeValue | undefined {
    const operator = String(asNode({ type: "", ...node.operator as object }).value);
    if (!["==", "!=", "~", "%"].includes(operator)) return undefined;
    const [left, right] = [this.part(node.left, environment), this.part(node.right, environment)];
    if (operator === "~") return toRuntime(pythonText(left) + pythonText(right));
    if (operator !== "%") return toRuntime(pythonEqual(left, right) === (operator === "=="));
    if (left.type !== "IntegerValue" || right.type !== "IntegerValue") return undefined;
    // Python's remainder has the sign of the divisor.
    const [a, b] = [Number(left.value), Number(right.value)];
    return toRuntime(((a % b) + b) % b);
  }
}

/** Name of an identifier or a callee; empty if there is none. */
function nameOf(value: unknown): string {
  const node = asNode(value);
  if (node.type === "CallExpression") return nameOf(node.callee);
  return node.type === "Identifier" ? String(node.value) : "";
}

/** A template's result for a record. */
export interface Rendered {
  text: string;
  /** The value of `literal_eval` for the text, if the template is a single expression and its value is not text. */
  value?: unknown;
}

/** Parses a template. The result renders it for a record; it throws RangeError when the record lacks a field of the
 * template, or a value does not fit.
 * @throws {RangeError} when it is not Jinja, or needs an unsupported feature. */
export function parseTemplate(source: string): (record: Readonly<Record<string, unknown>>) => Rendered {
  const text = source.replace(/\r\n?/g, "\n");
  const explain = (error: unknown): never => {
    throw new RangeError(`the template ${JSON.stringify(source)}: ${(error as Error).message}`);
  };
  let statements: Node[];
  try {
    // The library drops one final line end; the harness has Jinja2 keep it.
    statements = withOutputs(asNodes(parse(tokenize(text.endsWith("\n") ? `${text}\n` : text)).body));
  } catch (error) {
    return explain(error);
  }
  const shown = statements.filter(({ type }) => type !== "Set" && type !== "Comment");
  const [only] = shown;
  return (record) => {
    try {
      const fields = new Environment(GLOBALS);
      for (const [name, value] of Object.entries(record)) fields.set(name, value);
      const interpreter = new PythonInterpreter(fields);
      const evaluate = (node: Node) => interpreter.evaluate(asStatement(node), fields);
      if (shown.length === 1 && only?.type === "Output") {
        for (const node of statements) if (node.type === "Set") evaluate(node);
        const value = evaluate(asNode(only.expression));
        return { text: pythonText(value), ...value.type !== "StringValue" && { value: toJson(value) } };
      }
      return { text: pythonText(evaluate({ type: "Program", body: statements })) };
    } catch (error) {
      return explain(error);
    }
  };
}

const LITERALS = ["StringLiteral", "IntegerLiteral", "FloatLiteral", "ArrayLiteral", "TupleLiteral", "UnaryExpression"];

/** Python's `literal_eval` for strings, numbers and lists of them.
 * @throws {RangeError} when `text` is anything else. */
export function parseLiteral(text: string): unknown {
  const refuse = () => new RangeError(`${JSON.stringify(text)} is not a list in Python's notation`);
  let body: Node[];
  try {
    body = asNodes(parse(tokenize(`{{${text.trim()}}}`)).body);
  } catch {
    throw refuse();
  }
  const [only] = body;
  if (body.length !== 1 || !only || !LITERALS.includes(only.type)) throw refuse();
  try {
    return toJson(new PythonInterpreter(GLOBALS).evaluate(asStatement(only), GLOBALS));
  } catch {
    throw refuse();
  }
}
