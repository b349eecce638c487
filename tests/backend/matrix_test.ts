import * as tf from "@tensorflow/tfjs";
import { assert, assertEquals } from "@std/assert";
import { denseMatrix, matrixRows, packMatrix, storedProduct } from "../../core/engine/matrix.ts";
import { createRng } from "../../core/util/rng.ts";
import { product } from "../support/dense.ts";
import { assertClose, testOwnOperations } from "../support/engines.ts";
import { asStored } from "../support/weights_fixture.ts";

const rng = createRng(3, "matrices");

/** Normal numbers, small ones and zeros, all of which a format holds. */
function draw(n: number, form: "F32" | "BF16" | "F16"): Float32Array {
  const values = Float32Array.from({ length: n }, (_, i) => i % 11 === 5 ? 0 : rng.normal() * (i % 7 === 3 ? 1e-6 : 1));
  return asStored(form, values);
}

testOwnOperations("storedProduct() equals double precision in every form, for few and many rows", async () => {
  const few = [[1, 70, 600], [7, 301, 333], [3, 5, 17]] as const;
  const sizes = [...few, [9, 130, 256], [21, 33, 8], [40, 300, 129], [16, 1, 1], [64, 513, 64]] as const;
  for (const form of ["F32", "BF16", "F16"] as const) {
    for (const [rows, depth, columns] of sizes) {
      const [x, w] = [draw(rows * depth, "F32"), draw(depth * columns, form)];
      const expected = product(x, w, [rows, depth, columns]);
      const products = tf.tidy(() => {
        const left = tf.tensor2d(x, [rows, depth]);
        const right = tf.tensor2d(w, [depth, columns]);
        if (form === "F32") return [storedProduct(left, right), storedProduct(left, tf.transpose(right), true)];
        const [packed, turned] = [packMatrix(right), packMatrix(right, true)];
        assert(packed && turned);
        return [storedProduct(left, packed), storedProduct(left, turned, true)];
      });
      const what = `${rows} x ${depth} x ${columns} in ${form}`;
      assertEquals(products.map(({ shape }) => shape), [[rows, columns], [rows, columns]]);
      for (const product of products) assertClose(await product.data(), expected, { atol: 1e-4, rtol: 1e-4 }, what);
      tf.dispose(products);
    }
  }
});

testOwnOperations("packMatrix() keeps every number and refuses what 16 bits do not hold", async () => {
  for (const form of ["BF16", "F16"] as const) {
    const values = draw(7 * 33, form);
    const w = tf.tensor2d(values, [7, 33]);
    const [packed, turned] = [packMatrix(w), packMatrix(w, true)];
    assert(packed?.format === form && turned);
    assertEquals([packed.shape, turned.shape, packed.sizeBytes], [[7, 33], [33, 7], 7 * 34 * 2]);
    const back = tf.tidy(() => [denseMatrix(packed), tf.transpose(denseMatrix(turned))]);
    for (const tensor of back) assertEquals(await tensor.data(), values);
    const rows = tf.tidy(() => matrixRows(packed, tf.tensor1d([6, 0, 6], "int32")));
    assertEquals([...await rows.data()], [6, 0, 6].flatMap((row) => [...values.subarray(row * 33, (row + 1) * 33)]));
    tf.dispose([w, rows, ...back]);
    packed.dispose();
    turned.dispose();
  }
  // 1 + 2^-11 has one bit more than f16, and 65536 is beyond it.
  for (const value of [1 + 2 ** -11, 65536 + 256, 1 / 3]) {
    const w = tf.tensor2d([1, value], [1, 2]);
    assertEquals(packMatrix(w), null);
    w.dispose();
  }
});
