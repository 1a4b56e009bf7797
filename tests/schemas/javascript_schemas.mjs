// Prints the schemas that JavaScript's libraries make of types, as one JSON object by name.
//
//   npm install --prefix TEMPORARY zod@3.25.76 zod4@npm:zod@4.6.7 zod-to-json-schema@3.24.6 \
//     @sinclair/typebox@0.34.41 valibot@1.5.0 @valibot/to-json-schema@1.8.0 arktype@2.2.10 openai@6.49.0
//   cp tests/schemas/javascript_schemas.mjs TEMPORARY && cd TEMPORARY
//   node javascript_schemas.mjs > .../tests/schemas/javascript_schemas.json
import { z as z3 } from "zod/v3";
import { z as z4 } from "zod4/v4";
import { zodToJsonSchema } from "zod-to-json-schema";
import { Type as t } from "@sinclair/typebox";
import * as v from "valibot";
import { toJsonSchema } from "@valibot/to-json-schema";
import { type } from "arktype";
import { zodResponseFormat, zodFunction } from "openai/helpers/zod";

const both = (z) => ({
  user: z.object({ name: z.string().min(1).max(20), age: z.number().int().positive(), email: z.string().email().optional() }),
  "strict object": z.object({ a: z.string() }).strict(),
  "loose object": z.object({ a: z.string() }).passthrough(),
  catchall: z.object({ a: z.string() }).catchall(z.number()),
  nested: z.object({ a: z.object({ b: z.object({ c: z.array(z.object({ d: z.boolean() })).max(3) }) }) }),
  optional: z.object({ a: z.string().optional(), b: z.number().nullable(), c: z.boolean().default(true) }),
  nullish: z.object({ a: z.string().nullish() }),
  enum: z.enum(["red", "green"]),
  "native enum": z.nativeEnum({ A: 1, B: "b" }),
  literals: z.union([z.literal("a"), z.literal(1), z.literal(true), z.null()]),
  union: z.union([z.string(), z.number(), z.object({ a: z.string() })]),
  discriminated: z.discriminatedUnion("kind", [
    z.object({ kind: z.literal("a"), x: z.number() }),
    z.object({ kind: z.literal("b"), y: z.string() }),
  ]),
  intersection: z.intersection(z.object({ a: z.string() }), z.object({ b: z.number() })),
  extended: z.object({ a: z.string() }).extend({ b: z.number() }),
  tuple: z.tuple([z.string(), z.number()]),
  "tuple with rest": z.tuple([z.string()]).rest(z.number()),
  "bounded array": z.array(z.string()).min(1).max(3),
  "nonempty array": z.array(z.number()).nonempty(),
  record: z.record(z.string(), z.number()),
  "record of an enum": z.record(z.enum(["a", "b"]), z.number()),
  "record of a pattern": z.record(z.string().regex(/^k_[a-z]+$/), z.number()),
  any: z.object({ a: z.any(), b: z.unknown() }),
  never: z.object({ a: z.string(), b: z.never().optional() }),
  described: z.object({ a: z.string().describe("An a") }).describe("A thing"),
  url: z.string().url(), uuid: z.string().uuid(), cuid: z.string().cuid(), cuid2: z.string().cuid2(),
  ulid: z.string().ulid(), nanoid: z.string().nanoid(), emoji: z.string().emoji(),
  email: z.string().email(), base64: z.string().base64(), base64url: z.string().base64url(),
  jwt: z.string().jwt(), "date-time": z.string().datetime(), date: z.string().date(),
  time: z.string().time(), duration: z.string().duration(), "string ip": z.object({ ip: z.string() }),
  "look-ahead": z.string().regex(/^(?=.*[A-Z])(?=.*\d).{4,9}$/),
  "negative look-ahead": z.string().regex(/^(?!test)[a-z]{3,9}$/),
  "word boundary": z.string().regex(/\bword\b/i),
  "starts with": z.string().startsWith("a.b"), "ends with": z.string().endsWith("z"),
  includes: z.string().includes("mid"), trimmed: z.string().trim().toLowerCase(),
  length: z.string().length(4), integer: z.number().int(), safe: z.number().int().safe(),
  negative: z.number().negative(), between: z.number().gt(0).lt(1), step: z.number().multipleOf(0.5),
  boolean: z.boolean(), null: z.null(),
  readonly: z.object({ a: z.array(z.string()).readonly() }),
  lazy: (() => { const node = z.object({ value: z.string(), kids: z.lazy(() => z.array(node).max(2)) }); return node; })(),
  reused: (() => { const p = z.object({ x: z.number() }); return z.object({ from: p, to: p, by: z.array(p) }); })(),
  "a tool's arguments": z.object({
    path: z.string().describe("Absolute path"), pattern: z.string().default("**/*"),
    limit: z.number().int().min(1).max(100).optional(), flags: z.array(z.enum(["i", "m"])).optional(),
  }),
});

const four = {
  guid: z4.guid(), uuidv7: z4.uuidv7(), e164: z4.e164(), cidrv4: z4.cidrv4(), ipv4: z4.ipv4(), ipv6: z4.ipv6(),
  ksuid: z4.ksuid(), xid: z4.xid(), hostname: z4.hostname ? z4.hostname() : z4.string(), httpUrl: z4.url({ protocol: /^https?$/ }),
  int32: z4.int32(), uint32: z4.uint32(), float32: z4.float32(),
  "strict object 4": z4.strictObject({ a: z4.string() }), "loose object 4": z4.looseObject({ a: z4.string() }),
  "partial record": z4.partialRecord(z4.enum(["a", "b"]), z4.string()),
  "template literal": z4.templateLiteral(["id-", z4.number().int()]),
  json: z4.json(), "string boolean": z4.object({ a: z4.stringbool() }),
  "with meta": z4.object({ a: z4.string().meta({ title: "A", examples: ["x"] }) }).meta({ id: "Thing [x]" }),
};

const box = {
  object: t.Object({ a: t.String(), b: t.Optional(t.Integer({ minimum: 0 })) }),
  closed: t.Object({ a: t.String() }, { additionalProperties: false }),
  intersect: t.Intersect([t.Object({ a: t.String() }), t.Object({ b: t.Number() })]),
  "closed intersect": t.Intersect([t.Object({ a: t.String() }), t.Object({ b: t.Number() })], { unevaluatedProperties: false }),
  composite: t.Composite([t.Object({ a: t.String() }), t.Object({ b: t.Number() })]),
  union: t.Union([t.Literal("a"), t.Literal(2), t.Null()]),
  tuple: t.Tuple([t.String(), t.Number()]),
  record: t.Record(t.String(), t.Number()),
  "record of patterns": t.Record(t.RegExp(/^S_/), t.String()),
  "record of integers": t.Record(t.Integer(), t.String()),
  recursive: t.Recursive((self) => t.Object({ id: t.String(), nodes: t.Array(self, { maxItems: 2 }) }), { $id: "Node" }),
  not: t.Not(t.String()),
  never: t.Object({ a: t.Optional(t.Never()), b: t.String() }),
  unique: t.Array(t.String(), { uniqueItems: true }),
  contains: t.Array(t.Number(), { contains: t.Literal(1), minContains: 1 }),
  enum: t.Enum({ A: "a", B: "b" }),
  "template literal": t.TemplateLiteral("user-${1|2|3}"),
  "min properties": t.Object({ a: t.Optional(t.String()), b: t.Optional(t.String()) }, { minProperties: 1 }),
  module: t.Module({ A: t.Object({ b: t.Ref("B") }), B: t.Object({ c: t.Number() }) }).Import("A"),
};

const vali = {
  object: v.object({ a: v.pipe(v.string(), v.minLength(2), v.maxLength(5)), b: v.optional(v.number()) }),
  strict: v.strictObject({ a: v.string() }),
  loose: v.looseObject({ a: v.string() }),
  variant: v.variant("type", [v.object({ type: v.literal("a"), x: v.number() }), v.object({ type: v.literal("b") })]),
  picklist: v.picklist(["a", "b"]),
  tuple: v.strictTuple([v.string(), v.number()]),
  record: v.record(v.string(), v.boolean()),
  email: v.pipe(v.string(), v.email()),
  nullish: v.object({ a: v.nullish(v.string()) }),
  intersect: v.intersect([v.object({ a: v.string() }), v.object({ b: v.number() })]),
};

const ark = {
  object: type({ name: "string", "age?": "number.integer > 0" }),
  union: type({ a: "'x' | 'y' | 3" }),
  array: type("string[] <= 3"),
  email: type("string.email"),
  tuple: type(["string", "number"]),
  record: type({ "[string]": "number" }),
};

const schemas = {};
function add(name, make) {
  try { schemas[name] = JSON.parse(JSON.stringify(make())); } catch (error) { console.error(name, error.message.split("\n")[0]); }
}
for (const [name, each] of Object.entries(both(z3))) add(`zod 3: ${name}`, () => zodToJsonSchema(each));
for (const name of ["user", "union", "lazy", "reused"]) {
  const each = both(z3)[name];
  add(`zod 3 for OpenAPI: ${name}`, () => zodToJsonSchema(each, { target: "openApi3" }));
  add(`zod 3 by name: ${name}`, () => zodToJsonSchema(each, "My Name<T>"));
  add(`zod 3 with definitions: ${name}`, () => zodToJsonSchema(each, { name: "X", definitionPath: "$defs", $refStrategy: "root" }));
}
for (const [name, each] of Object.entries({ ...both(z4), ...four })) add(`zod 4: ${name}`, () => z4.toJSONSchema(each));
for (const name of ["user", "nullish", "record of an enum", "tuple", "between", "lazy"]) {
  const each = both(z4)[name];
  add(`zod 4 draft 7: ${name}`, () => z4.toJSONSchema(each, { target: "draft-7" }));
  add(`zod 4 draft 4: ${name}`, () => z4.toJSONSchema(each, { target: "draft-4" }));
  add(`zod 4 OpenAPI: ${name}`, () => z4.toJSONSchema(each, { target: "openapi-3.0" }));
  add(`zod 4 input: ${name}`, () => z4.toJSONSchema(each, { io: "input", reused: "ref" }));
}
for (const [name, each] of Object.entries(box)) add(`TypeBox: ${name}`, () => each);
for (const [name, each] of Object.entries(vali)) add(`valibot: ${name}`, () => toJsonSchema(each, { errorMode: "ignore" }));
for (const [name, each] of Object.entries(ark)) add(`arktype: ${name}`, () => each.toJsonSchema());
for (const name of ["strict object", "discriminated", "lazy", "reused", "nested"]) {
  const named = z3.object({ answer: both(z3)[name] });
  add(`openai: ${name}`, () => zodResponseFormat(named, "x").json_schema.schema);
  add(`openai tool: ${name}`, () => zodFunction({ name: "f", parameters: named }).function.parameters);
}
console.log(JSON.stringify(schemas, null, 1));
