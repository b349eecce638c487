// Causal grouped-query attention with rotary positions on packed projections, and its gradient.
//
// B rows of T tokens, H = G R query heads in G key/value groups, head size K, S = T keys.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "parallel.h"
#include "vector.h"

namespace maskprune {

// Queries and keys at once: scores of a block, and the keys and values they need, stay in the first-level cache.
constexpr long kBlock = 64;

struct AttentionShape {
  long batch, groups, headsPerGroup, headSize, length;
  int threads;

  long heads() const { return groups * headsPerGroup; }
  long packedWidth() const { return (heads() + 2 * groups) * headSize; }
  long outWidth() const { return heads() * headSize; }
  // Head size and length in whole vectors and blocks.
  long width() const { return (headSize + kLanes - 1) / kLanes * kLanes; }
  long blocks() const { return (length + kBlock - 1) / kBlock; }
  long blockRows(long block) const { return std::min(kBlock, length - block * kBlock); }
  float scale() const { return 1.0f / std::sqrt(static_cast<float>(headSize)); }
};

// Who sees whom besides causality: token i is seen by j >= i of its row if segment i is 0 or that of j. Null: no more rule.
using Segments = const int32_t*;  // [B T]

// Hides what a token of `own` segment must not see.
inline void hideSegments(const int32_t* segments, int32_t own, long count, float* scores) {
  for (long j = 0; j < count; j++) scores[j] = segments[j] == 0 || segments[j] == own ? scores[j] : -INFINITY;
}

struct Rotary {
  const float* cos;  // [B T, K]
  const float* sin;
};

// out = scale * rotated x, one head of one token: the half-split layout of Hugging Face.
inline void rotate(const float* x, const float* cos, const float* sin, long size, float scale, float* out) {
  const long half = size / 2;
  for (long d = 0; d < half; d++) {
    out[d] = scale * (x[d] * cos[d] - x[d + half] * sin[d]);
    out[d + half] = scale * (x[d + half] * cos[d + half] + x[d] * sin[d + half]);
  }
}

// The transposed map of rotate.
inline void rotateBack(const float* dy, const float* cos, const float* sin, long size, float scale, float* out) {
  const long half = size / 2;
  for (long d = 0; d < half; d++) {
    out[d] = scale * (dy[d] * cos[d] + dy[d + half] * sin[d + half]);
    out[d + half] = scale * (dy[d + half] * cos[d + half] - dy[d] * sin[d]);
  }
}

// Keys and values of every row and group, once by token and once transposed in panels of kBlock tokens.
struct KeyValues {
  long panel;                                  // floats in a panel
  long group;                                  // floats in a group
  std::vector<float> keys, values;             // [B G, blocks, kBlock, width]
  std::vector<float> keysAcross, valuesAcross;  // [B G, blocks, width, kBlock]

  KeyValues(const AttentionShape& shape, const float* packed, Rotary rotary, bool forGradient)
      : panel(kBlock * shape.width()), group(shape.blocks() * panel) {
    const long size = shape.batch * shape.groups * group;
    keysAcross.resize(size);
    values.resize(size);
    if (forGradient) {
      keys.resize(size);
      valuesAcross.resize(size);
    }
    parallelFor(shape.batch * shape.groups * shape.blocks(), shape.threads, [&](long task, int) {
      fill(shape, packed, rotary, forGradient, task / shape.blocks(), task % shape.blocks());
    });
  }

 private:
  void fill(const AttentionShape& shape, const float* packed, Rotary rotary, bool forGradient, long bg, long block) {
    const long width = shape.width(), size = shape.headSize, g = bg % shape.groups, b = bg / shape.groups;
    const long at = bg * group + block * panel;
    std::vector<float> key(size);
    for (long r = 0; r < shape.blockRows(block); r++) {
      const long row = b * shape.length + block * kBlock + r;
      const float* projections = packed + row * shape.packedWidth();
      const float* value = projections + (shape.heads() + shape.groups + g) * size;
      rotate(projections + (shape.heads() + g) * size, rotary.cos + row * size, rotary.sin + row * size, size, 1.0f,
             key.data());
      for (long d = 0; d < size; d++) {
        keysAcross[at + d * kBlock + r] = key[d];
        values[at + r * width + d] = value[d];
      }
      if (!forGradient) continue;
      for (long d = 0; d < size; d++) {
        keys[at + r * width + d] = key[d];
        valuesAcross[at + d * kBlock + r] = value[d];
      }
    }
  }
};

inline long wholeTiles(long rows) { return (rows + kTileRows - 1) / kTileRows * kTileRows; }

// Rotated and scaled queries of one head and block: [kBlock, width], zero where there are none.
inline void blockQueries(const AttentionShape& shape, const float* packed, Rotary rotary, long b, long head, long block,
                         float* queries) {
  const long size = shape.headSize;
  std::fill(queries, queries + kBlock * shape.width(), 0.0f);
  for (long r = 0; r < shape.blockRows(block); r++) {
    const long row = b * shape.length + block * kBlock + r;
    rotate(packed + row * shape.packedWidth() + head * size, rotary.cos + row * size, rotary.sin + row * size, size,
           shape.scale(), queries + r * shape.width());
  }
}

// Scores [visible] -> weights, not yet divided by their sum; what is at or after `end` becomes 0.
inline void softmaxRow(float* row, long end, long visible, float* max, float* total) {
  for (long j = end; j < visible; j++) row[j] = -INFINITY;
  Vector top = splat(-INFINITY);
  for (long j = 0; j < visible; j += kLanes) top = larger(top, load(row + j));
  *max = largest(top);
  Vector totals{};
  for (long j = 0; j < visible; j += kLanes) {
    const Vector weight = exponential(load(row + j) - *max);
    store(row + j, weight);
    totals += weight;
  }
  *total = sum(totals);
}

// packed [B T, (H + 2 G) K] -> out [B T, H K] and the logarithm of each softmax's denominator [B T, H].
inline void attention(const AttentionShape& shape, const float* packed, Rotary rotary, Segments segments, float* out,
                      float* logSums) {
  const KeyValues kv(shape, packed, rotary, false);
  const long width = shape.width(), size = shape.headSize, blocks = shape.blocks();
  Scratch scratch(shape.threads, kBlock * (2 * width + blocks * kBlock + kLanes));
  parallelFor(shape.batch * shape.heads() * blocks, shape.threads, [&](long task, int worker) {
    // The longest first, so that no thread is left with one at the end.
    const long block = blocks - 1 - task / (shape.batch * shape.heads());
    const long bh = task % (shape.batch * shape.heads()), head = bh % shape.heads(), b = bh / shape.heads();
    const long visible = (block + 1) * kBlock, rows = shape.blockRows(block);
    // Not a power of two, or the rows of a tile would share a set of the cache.
    const long stride = visible + kLanes;
    const long at = (b * shape.groups + head / shape.headsPerGroup) * kv.group;
    float* const queries = scratch.of(worker);
    float *const context = queries + kBlock * width, *const scores = context + kBlock * width;
    float inverse[kBlock];
    blockQueries(shape, packed, rotary, b, head, block, queries);
    for (long p = 0; p <= block; p++) {
      multiply(wholeTiles(rows), kBlock, size, queries, width, 1, &kv.keysAcross[at + p * kv.panel], kBlock,
               scores + p * kBlock, stride, false);
    }
    for (long r = 0; r < rows; r++) {
      const long inRow = block * kBlock + r;
      const Segments row = segments ? segments + b * shape.length : nullptr;
      if (row) hideSegments(row, row[inRow], inRow + 1, scores + r * stride);
      float max, total;
      softmaxRow(scores + r * stride, inRow + 1, visible, &max, &total);
      inverse[r] = 1.0f / total;
      logSums[(b * shape.length + block * kBlock + r) * shape.heads() + head] = max + std::log(total);
    }
    multiply(wholeTiles(rows), width, block * kBlock + rows, scores, stride, 1, &kv.values[at], width, context,
             width, false);
    for (long r = 0; r < rows; r++) {
      float* to = out + (b * shape.length + block * kBlock + r) * shape.outWidth() + head * size;
      for (long d = 0; d < size; d++) to[d] = context[r * width + d] * inverse[r];
    }
  });
}

struct AttentionGradientInputs {
  const float *packed, *out, *logSums, *dOut;
  Segments segments;
};

// What one part of a group's query blocks adds to the gradients of its keys and values, and the gradients of its queries.
inline void partGradient(const AttentionShape& shape, const AttentionGradientInputs& in, Rotary rotary,
                         const KeyValues& kv, long bg, long head, long block, float* dKeys, float* dValues,
                         float* dPacked, float* scratch) {
  const long width = shape.width(), size = shape.headSize, b = bg / shape.groups, rows = shape.blockRows(block);
  const long tileRows = wholeTiles(rows), firstRow = b * shape.length + block * kBlock;
  float *const queries = scratch, *const dContext = queries + kBlock * width, *const dQueries = dContext + kBlock * width;
  float *const weights = dQueries + kBlock * width, *const dScores = weights + kBlock * kBlock;
  float towards[kBlock] = {}, logSums[kBlock] = {};
  blockQueries(shape, in.packed, rotary, b, head, block, queries);
  std::fill(dContext, dContext + kBlock * width, 0.0f);
  for (long r = 0; r < rows; r++) {
    const float* dy = in.dOut + (firstRow + r) * shape.outWidth() + head * size;
    const float* y = in.out + (firstRow + r) * shape.outWidth() + head * size;
    for (long d = 0; d < size; d++) {
      dContext[r * width + d] = dy[d];
      towards[r] += dy[d] * y[d];
    }
    logSums[r] = in.logSums[(firstRow + r) * shape.heads() + head];
  }
  for (long p = 0; p <= block; p++) {
    const long at = bg * kv.group + p * kv.panel;
    multiply(tileRows, kBlock, size, queries, width, 1, &kv.keysAcross[at], kBlock, weights, kBlock, false);
    multiply(tileRows, kBlock, size, dContext, width, 1, &kv.valuesAcross[at], kBlock, dScores, kBlock,
             false);
    for (long r = 0; r < tileRows; r++) {
      float *w = weights + r * kBlock, *ds = dScores + r * kBlock;
      const long end = r >= rows ? 0 : p < block ? kBlock : r + 1;
      for (long j = end; j < kBlock; j++) w[j] = -INFINITY;
      if (in.segments && r < rows) {
        hideSegments(in.segments + b * shape.length + p * kBlock, in.segments[firstRow + r], end, w);
      }
      for (long j = 0; j < kBlock; j += kLanes) {
        const Vector weight = exponential(load(w + j) - logSums[r]);
        store(w + j, weight);
        store(ds + j, weight * (load(ds + j) - towards[r]));
      }
    }
    multiply(tileRows, width, kBlock, dScores, kBlock, 1, &kv.keys[at], width, dQueries, width, p > 0);
    multiply(kBlock, width, rows, dScores, 1, kBlock, queries, width, dKeys + p * kv.panel, width, true);
    multiply(kBlock, width, rows, weights, 1, kBlock, dContext, width, dValues + p * kv.panel, width, true);
  }
  for (long r = 0; r < rows; r++) {
    const long row = firstRow + r;
    rotateBack(dQueries + r * width, rotary.cos + row * size, rotary.sin + row * size, size, shape.scale(),
               dPacked + row * shape.packedWidth() + head * size);
  }
}

// The gradient of attention to packed. The weights are computed again: they are the largest tensor of a layer.
inline void attentionGradient(const AttentionShape& shape, const AttentionGradientInputs& in, Rotary rotary,
                              float* dPacked) {
  const KeyValues kv(shape, in.packed, rotary, true);
  const long size = shape.headSize, blocks = shape.blocks(), groups = shape.batch * shape.groups;
  // All query blocks of a group add to the same keys: each part of them has sums of its own, added in a fixed order.
  const long work = shape.headsPerGroup * blocks;
  const long parts = std::max(1L, std::min((2L * shape.threads + groups - 1) / groups, work));
  std::vector<float> dKeys(groups * parts * kv.group), dValues(groups * parts * kv.group);
  Scratch scratch(shape.threads, kBlock * (3 * shape.width() + 2 * kBlock));
  parallelFor(groups * parts, shape.threads, [&](long task, int worker) {
    const long bg = task / parts, part = task % parts, g = bg % shape.groups;
    // Every other round backwards, so that each part gets long and short blocks alike.
    for (long round = 0; round * parts < work; round++) {
      const long item = round * parts + (round % 2 ? parts - 1 - part : part);
      if (item >= work) continue;
      const long head = g * shape.headsPerGroup + item / blocks;
      partGradient(shape, in, rotary, kv, bg, head, item % blocks, &dKeys[task * kv.group], &dValues[task * kv.group],
                   dPacked, scratch.of(worker));
    }
  });
  parallelFor(groups * blocks, shape.threads, [&](long task, int) {
    const long bg = task / blocks, block = task % blocks, g = bg % shape.groups, b = bg / shape.groups;
    std::vector<float> dKey(size);
    for (long r = 0; r < shape.blockRows(block); r++) {
      const long row = b * shape.length + block * kBlock + r;
      float* to = dPacked + row * shape.packedWidth() + (shape.heads() + g) * size;
      float* toValue = to + shape.groups * size;
      for (long d = 0; d < size; d++) dKey[d] = toValue[d] = 0;
      for (long part = 0; part < parts; part++) {
        const long at = (bg * parts + part) * kv.group + block * kv.panel + r * shape.width();
        for (long d = 0; d < size; d++) {
          dKey[d] += dKeys[at + d];
          toValue[d] += dValues[at + d];
        }
      }
      rotateBack(dKey.data(), rotary.cos + row * size, rotary.sin + row * size, size, 1.0f, to);
    }
  });
}

}  // namespace maskprune
