/** How fast the started engine multiplies.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";

/** Multiply-adds, counted as two, that the started engine does per second: the best of some products of two
 * matrices. */
export async function measureRate(): Promise<number> {
  const [size, tries] = [512, 8];
  const matrix = tf.randomNormal([size, size]) as tf.Tensor2D;
  let bestMs = Infinity;
  for (let i = 0; i <= tries; i++) {
    const start = performance.now();
    const product = tf.matMul(matrix, matrix);
    await product.data();
    product.dispose();
    if (i > 0) bestMs = Math.min(bestMs, performance.now() - start);
  }
  matrix.dispose();
  return 2 * size ** 3 / (bestMs / 1000);
}
