import { assert, assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import fc from "fast-check";
import { take } from "../support/values.ts";
import { at } from "../../core/util/indexing.ts";
import { FileFormatError, UsageError } from "../../core/util/errors.ts";
import { openRanged, sha256OfFiles } from "../../core/formats/ranged_file.ts";
import {
  type FloatDtype,
  openSafetensors,
  openSafetensorsFolder,
  writeSafetensors,
} from "../../core/formats/safetensors.ts";
import { folderTest } from "../support/weights_fixture.ts";

/** A file made by PyPI's `safetensors` 0.8.0 (`safetensors.numpy.save`): F32, F16, BF16, a scalar, an empty tensor, I64. */
const REFERENCE_FILE =
  "gAEAAAAAAAB7Il9fbWV0YWRhdGFfXyI6eyJmb3JtYXQiOiJwdCJ9LCJpZHMiOnsiZHR5cGUiOiJJNjQiLCJzaGFwZSI6WzFdLCJkYXRhX29mZnNldHMi" +
  "OlswLDhdfSwiZW1wdHkiOnsiZHR5cGUiOiJGMzIiLCJzaGFwZSI6WzAsNF0sImRhdGFfb2Zmc2V0cyI6WzgsOF19LCJmdWxsIjp7ImR0eXBlIjoiRjMy" +
  "Iiwic2hhcGUiOlsyLDNdLCJkYXRhX29mZnNldHMiOls4LDMyXX0sInNjYWxhciI6eyJkdHlwZSI6IkYzMiIsInNoYXBlIjpbXSwiZGF0YV9vZmZzZXRz" +
  "IjpbMzIsMzZdfSwiYnJhaW4iOnsiZHR5cGUiOiJCRjE2Iiwic2hhcGUiOlszLDFdLCJkYXRhX29mZnNldHMiOlszNiw0Ml19LCJoYWxmIjp7ImR0eXBl" +
  "IjoiRjE2Iiwic2hhcGUiOls0XSwiZGF0YV9vZmZzZXRzIjpbNDIsNTBdfX0FAAAAAAAAAAAAgD8AACDAWdkAMwDgf0cAAAAAAAAAgAAA4ECAPyDAgHEA" +
  "PADB/3sBAA==";

const referenceBytes = () => Uint8Array.from(atob(REFERENCE_FILE), (char) => char.charCodeAt(0));

/** A file with any header. */
function fileBytes(header: unknown, dataBytes: number, headerLength?: bigint): Uint8Array {
  const json = new TextEncoder().encode(typeof header === "string" ? header : JSON.stringify(header));
  const bytes = new Uint8Array(8 + json.length + dataBytes);
  new DataView(bytes.buffer).setBigUint64(0, headerLength ?? BigInt(json.length), true);
  bytes.set(json, 8);
  return bytes;
}

function openBytes(folder: string, bytes: Uint8Array) {
  Deno.writeFileSync(`${folder}/a.safetensors`, bytes);
  return openSafetensors(`${folder}/a.safetensors`);
}

/** What a file of one tensor reads back as. */
function readBack(path: string, values: Float32Array, dtype: FloatDtype): Float32Array {
  writeSafetensors(path, { shapes: new Map([["x", [values.length]]]), read: () => values, dtype });
  const file = openSafetensors(path);
  const { data } = file.read("x");
  file.close();
  return data;
}

folderTest("openSafetensors() reads what the reference implementation wrote", (folder) => {
  const file = openBytes(folder, referenceBytes());
  assertEquals(file.read("full"), { shape: [2, 3], data: Float32Array.of(1, -2.5, Math.fround(3e-8), 65504, 0, -0) });
  assertEquals(file.read("half"), { shape: [4], data: Float32Array.of(1, -2.5, 65504, 2 ** -24) });
  assertEquals(file.read("brain"), { shape: [3, 1], data: Float32Array.of(1, -2.5, 2 ** 100) });
  assertEquals(file.read("scalar"), { shape: [], data: Float32Array.of(7) });
  assertEquals(file.read("empty"), { shape: [0, 4], data: new Float32Array(0) });
  assertThrows(() => file.read("ids"), FileFormatError, `tensor "ids" is I64: must be one of F32, F16, BF16`);
  assertThrows(() => file.read("nothing"), RangeError);
  file.close();
});

folderTest("openSafetensors() refuses each kind of damage in one sentence", (folder) => {
  const good = { dtype: "F32", shape: [2], data_offsets: [0, 8] };
  const cases: [Uint8Array, string][] = [
    [new Uint8Array(3), "ends at byte 3, before byte 8"],
    [fileBytes({ a: good }, 8, 1n << 60n), "the safetensors header has 1152921504606847000 bytes: at most"],
    [fileBytes("[1, 2]", 0), "must be a JSON object"],
    [fileBytes("{]", 0), "is not JSON"],
    [fileBytes({ a: 3 }, 8), `tensor "a" has the dtype undefined`],
    [fileBytes({ a: null }, 8), `tensor "a" has the dtype undefined`],
    [fileBytes({ a: { ...good, shape: [2, -1] } }, 8), "has the shape [2,-1]"],
    [fileBytes({ a: { ...good, shape: [1e300, 1e300] } }, 8), "has the shape"],
    [fileBytes({ a: { ...good, shape: [2 ** 40, 2 ** 40] } }, 8), "has 8 bytes"],
    [fileBytes({ a: { ...good, shape: [3] } }, 8), "has 8 bytes: F32 with shape [3] needs 12"],
    [fileBytes({ a: { ...good, data_offsets: [8, 0] } }, 8), "data_offsets [8,0]"],
    [fileBytes({ a: { ...good, data_offsets: [4, 12] } }, 12), "begins at data byte 4: must be 0"],
    [fileBytes({ a: good, b: { ...good, data_offsets: [4, 12] } }, 12), "begins at data byte 4: must be 8"],
    [fileBytes({ a: good }, 7), "may not have been copied completely"],
    [fileBytes({ a: good }, 9), "may not have been copied completely"],
  ];
  for (const [bytes, message] of cases) {
    const error = assertThrows(() => openBytes(folder, bytes), FileFormatError, message);
    assertStringIncludes(error.message, "a.safetensors");
    assert(!error.message.includes("\n"), error.message);
  }
});

folderTest("openSafetensors() refuses what is not a regular file", (folder) => {
  assertThrows(() => openSafetensors(folder), UsageError, "must be a regular file");
  assertThrows(() => openSafetensors(`${folder}/none`), UsageError, "there is no such file");
});

for (const dtype of ["F32", "F16", "BF16"] as FloatDtype[]) {
  folderTest(`writeSafetensors() in ${dtype} is read back with the nearest values of that type`, (folder) => {
    const value = fc.float({ noNaN: true, noDefaultInfinity: true, min: -65504, max: 65504 });
    fc.assert(
      fc.property(fc.array(value, { maxLength: 40 }), (list) => {
        const values = Float32Array.from(list);
        const data = readBack(`${folder}/b.safetensors`, values, dtype);
        // Half a step: relative among normal numbers, absolute among subnormal ones.
        const [relative, absolute] = take(
          { F32: [0, 0], F16: [2 ** -11, 2 ** -25], BF16: [2 ** -8, 2 ** -134] }[dtype],
          2,
        );
        values.forEach((exact, i) => {
          const limit = Math.max(Math.abs(exact) * relative, absolute);
          assert(Math.abs(at(data, i) - exact) <= limit, `${exact} became ${data[i]}`);
        });
      }),
      { numRuns: 50 },
    );
  });
}

folderTest("writeSafetensors() rounds ties to even and keeps NaN and infinity in BF16", (folder) => {
  const bits = [0x3f808000, 0x3f818000, 0x7f800000, 0xff800000, 0x7fc00000, 0x7f800001];
  const values = new Float32Array(Uint32Array.from(bits).buffer);
  const data = readBack(`${folder}/b.safetensors`, values, "BF16");
  assertEquals([...data.subarray(0, 4)], [1, 1.015625, Infinity, -Infinity]);
  assert(Number.isNaN(data[4]) && Number.isNaN(data[5]));
});

folderTest("writeSafetensors() aligns the data to 8 bytes and names PyTorch's format", (folder) => {
  const path = `${folder}/b.safetensors`;
  const metadata = { note: "x" };
  writeSafetensors(path, { shapes: new Map([["x", [1]]]), read: () => Float32Array.of(5), dtype: "F32", metadata });
  const bytes = Deno.readFileSync(path);
  const length = Number(new DataView(bytes.buffer).getBigUint64(0, true));
  assertEquals(length % 8, 0);
  assertEquals(JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + length))), {
    __metadata__: { format: "pt", note: "x" },
    x: { dtype: "F32", shape: [1], data_offsets: [0, 4] },
  });
});

folderTest("writeSafetensors() that fails leaves the old file and nothing else", (folder) => {
  const path = `${folder}/b.safetensors`;
  Deno.writeTextFileSync(path, "old");
  const shapes = new Map([["x", [2]]]);
  const tooLarge = { shapes, read: () => Float32Array.of(1, 70000), dtype: "F16" as const };
  assertThrows(() => writeSafetensors(path, tooLarge), UsageError, `"x" holds 70000, beyond F16's 65504`);
  const tooShort = { shapes, read: () => Float32Array.of(1), dtype: "F32" as const };
  assertThrows(() => writeSafetensors(path, tooShort), RangeError, "has 1 values: shape [2] needs 2");
  assertEquals(Deno.readTextFileSync(path), "old");
  assertEquals([...Deno.readDirSync(folder)].map((entry) => entry.name), ["b.safetensors"]);
});

folderTest("writeSafetensors() and openSafetensors() handle tensors larger than one chunk", (folder) => {
  const values = Float32Array.from({ length: 700_001 }, (_, i) => (i % 509) / 256);
  const data = readBack(`${folder}/b.safetensors`, values, "F16");
  assert(data.every((value, i) => value === values[i]));
});

function writeShards(folder: string, weightMap: unknown): void {
  for (const [name, value] of [["one", 1], ["two", 2]] as const) {
    writeSafetensors(`${folder}/${name}.safetensors`, {
      shapes: new Map([[`t.${name}`, [1]]]),
      read: () => Float32Array.of(value),
      dtype: "F32",
    });
  }
  Deno.writeTextFileSync(`${folder}/model.safetensors.index.json`, JSON.stringify({ weight_map: weightMap }));
}

folderTest("openSafetensorsFolder() finds each tensor in its shard", (folder) => {
  writeShards(folder, { "t.two": "two.safetensors", "t.one": "one.safetensors" });
  const checkpoint = openSafetensorsFolder(folder);
  assertEquals(checkpoint.read("t.two").data, Float32Array.of(2));
  assertEquals(checkpoint.read("t.one").data, Float32Array.of(1));
  assertEquals(checkpoint.paths, [`${folder}/one.safetensors`, `${folder}/two.safetensors`]);
  checkpoint.close();
});

folderTest("openSafetensorsFolder() follows no path out of the folder and finds missing parts", (folder) => {
  const cases: [unknown, string][] = [
    [{ "t.one": "../one.safetensors" }, `"../one.safetensors": must be a .safetensors file in the folder`],
    [{ "t.one": "/etc/one.safetensors" }, "must be a .safetensors file in the folder"],
    [{ "t.one": "..\\one.safetensors" }, "must be a .safetensors file in the folder"],
    [{ "t.one": ".safetensors" }, "must be a .safetensors file in the folder"],
    [{ "t.one": 7 }, "must be a .safetensors file in the folder"],
    [{ "t.one": "two.safetensors" }, `puts tensor "t.one" into two.safetensors, which lacks it`],
    [{ "t.one": "three.safetensors" }, "three.safetensors: there is no such file"],
    [null, `must have an object "weight_map"`],
  ];
  for (const [weightMap, message] of cases) {
    writeShards(folder, weightMap);
    assertThrows(() => openSafetensorsFolder(folder), UsageError, message);
  }
});

folderTest("openSafetensorsFolder() says how to convert PyTorch files", (folder) => {
  assertThrows(() => openSafetensorsFolder(folder), UsageError, "has no model.safetensors");
  Deno.writeTextFileSync(`${folder}/pytorch_model.bin`, "");
  assertThrows(() => openSafetensorsFolder(folder), UsageError, "safe_serialization=True");
});

folderTest("sha256OfFiles() is the checksum of the files one after the other", (folder) => {
  Deno.writeTextFileSync(`${folder}/a`, "ab");
  Deno.writeTextFileSync(`${folder}/b`, "c");
  // The SHA-256 of "abc" in FIPS 180-2.
  const abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
  const paths = [`${folder}/a`, `${folder}/b`];
  assertEquals(sha256OfFiles(paths), abc);
  // A known hash holds as long as no file is newer.
  const nowMs = Date.now();
  assertEquals(sha256OfFiles(paths, { sha256: "known", atMs: nowMs + 2000 }), "known");
  assertEquals(sha256OfFiles(paths, { sha256: "known", atMs: nowMs - 2000 }), abc);
});

folderTest("openRanged() notices a file that ends early", (folder) => {
  Deno.writeTextFileSync(`${folder}/a`, "abcdef");
  const file = openRanged(`${folder}/a`);
  const target = new Uint8Array(3);
  file.readInto(2, target);
  assertEquals(new TextDecoder().decode(target), "cde");
  assertThrows(() => file.readInto(5, target), FileFormatError, "ends at byte 6, before byte 8");
  file.close();
});
