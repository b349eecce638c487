/** Tensors whose bytes are read before they are asked for. */
import { assertEquals, assertThrows } from "@std/assert";
import { FileFormatError } from "../../core/util/errors.ts";
import { openRanged } from "../../core/formats/ranged_file.ts";
import { writeSafetensors } from "../../core/formats/safetensors.ts";
import { expectedTensors, type HostTensor, type WeightSource } from "../../models/config.ts";
import { openFolderModel } from "../../models/load.ts";
import { openGgufModel } from "../../models/load_gguf.ts";
import { ggufMetadata, ggufTensors } from "../support/gguf_fixture.ts";
import {
  folderTest,
  ggufBytes,
  randomTensors,
  smallConfig,
  withFolder,
  writeFolder,
} from "../support/weights_fixture.ts";

folderTest("prefetch() brings a range once, holds two, and leaves errors to readInto()", async (folder) => {
  const path = `${folder}/bytes`;
  Deno.writeFileSync(path, Uint8Array.from({ length: 100 }, (_, i) => i));
  const file = openRanged(path);
  await Promise.all([file.prefetch(10, 3), file.prefetch(50, 2)]);
  assertEquals(file.taken(10, 4), null);
  assertEquals(file.taken(10, 3), Uint8Array.of(10, 11, 12));
  assertEquals(file.taken(10, 3), null);
  await Promise.all([file.prefetch(20, 1), file.prefetch(30, 1)]);
  const found = [file.taken(50, 2), file.taken(20, 1), file.taken(30, 1)];
  assertEquals(found, [null, Uint8Array.of(20), Uint8Array.of(30)]);
  await file.prefetch(98, 5);
  assertEquals(file.taken(98, 5), null);
  assertThrows(() => file.readInto(98, new Uint8Array(5)), FileFormatError, "ends at byte 100");
  file.close();
  await file.prefetch(10, 3);
  assertEquals(file.taken(10, 3), null);
});

folderTest("prefetch() takes nothing from another file that has got the name since", async (folder) => {
  const path = `${folder}/bytes`;
  Deno.writeFileSync(path, Uint8Array.of(1, 2, 3));
  const file = openRanged(path);
  Deno.writeFileSync(`${folder}/other`, Uint8Array.of(4, 5, 6));
  Deno.renameSync(`${folder}/other`, path);
  await file.prefetch(0, 3);
  assertEquals(file.taken(0, 3), null);
  const own = new Uint8Array(3);
  file.readInto(0, own);
  assertEquals(own, Uint8Array.of(1, 2, 3));
  file.close();
});

const config = smallConfig({ biases: ["query", "key", "value", "output"] });
const values = randomTensors(config);

/** How a checkpoint is stored, and its files. */
const CHECKPOINTS: Record<string, (folder: string) => { source: WeightSource; paths: string[] }> = {
  "a folder in F32": (folder) => {
    writeFolder(folder, config, values);
    return { source: openFolderModel(folder), paths: [`${folder}/model.safetensors`] };
  },
  ...Object.fromEntries((["F32", "BF16"] as const).map((dtype) => [
    `a folder of two files in ${dtype}`,
    (folder: string) => {
      writeFolder(folder, config, values);
      Deno.removeSync(`${folder}/model.safetensors`);
      const shapes = [...expectedTensors(config)];
      const files = [shapes.slice(0, 5), shapes.slice(5)].map((own, i) => ({ file: `part-${i}.safetensors`, own }));
      for (const { file, own } of files) {
        const read = (name: string) => values.get(name) ?? new Float32Array();
        writeSafetensors(`${folder}/${file}`, { shapes: new Map(own), read, dtype });
      }
      const weightMap = Object.fromEntries(files.flatMap(({ file, own }) => own.map(([name]) => [name, file])));
      Deno.writeTextFileSync(
        `${folder}/model.safetensors.index.json`,
        JSON.stringify({ weight_map: weightMap }),
      );
      return { source: openFolderModel(folder), paths: files.map(({ file }) => `${folder}/${file}`) };
    },
  ])),
  "a GGUF file": (folder) => {
    const path = `${folder}/model.gguf`;
    Deno.writeFileSync(path, ggufBytes({ metadata: ggufMetadata(config), tensors: ggufTensors(config, values) }));
    return { source: openGgufModel(path).source, paths: [path] };
  },
};

for (const [what, write] of Object.entries(CHECKPOINTS)) {
  Deno.test(`read() takes what prefetch() brought, from ${what}`, async () => {
    await withFolder(async (folder) => {
      const { source, paths } = write(folder);
      const names = [...expectedTensors(config).keys()];
      const expected = names.map((name) => source.read(name));
      const found: HostTensor[] = [];
      for (const name of names) {
        await source.prefetch?.(name);
        // Whatever is read from now on is zeros.
        const kept = paths.map((path) => Deno.readFileSync(path));
        for (const path of paths) Deno.writeFileSync(path, new Uint8Array(Deno.statSync(path).size));
        found.push(source.read(name));
        kept.forEach((bytes, i) => Deno.writeFileSync(paths[i] ?? "", bytes));
      }
      source.close();
      assertEquals(found, expected);
    });
  });
}
