// Causal grouped-query attention with rotary positions on packed projections, and its gradient.
//
// B rows of T tokens, H = G R query heads in G key/value groups, head size K, S = T keys.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "factors.h"
#include "parallel.h"
#include "vector.h"

namespace maskprune {

struct AttentionShape {
  long batch, groups, headsPerGroup, headSize, length;
  int threads;

  long heads() const { return groups * headsPerGroup; }
  long packedWidth() const { return (heads() + 2 * groups) * headSize; }
  long outWidth() const { return heads() * headSize; }
  // Head size in whole panels of `columns`, length in blocks.
  long width(long columns) const { return (headSize + columns - 1) / columns * columns; }
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

// Keys and values of every row and group as right factors, by token or across: each block of tokens transposed.
template <typename Factors>
struct KeyValues {
  using Number = typename Factors::Number;
  long blocks, width;
  long panel, group;                 // numbers in a block, in a group
  std::vector<Number> keys, values;  // [B G, T, width]
  // [B G, blocks, width, kBlock]. Scores are exponents: rounding them would be most of fast arithmetic's error.
  std::vector<float> keysAcross;
  std::vector<Number> valuesAcross;

  KeyValues(const AttentionShape& shape, const float* packed, Rotary rotary, bool forGradient)
      : blocks(shape.blocks()), width(shape.width(Factors::kColumns)), panel(kBlock * width / Factors::kPacked),
        group(blocks * panel) {
    const long size = shape.batch * shape.groups * group;
    keysAcross.resize(size * Factors::kPacked);
    values.resize(size);
    if (forGradient) {
      keys.resize(size);
      valuesAcross.resize(size);
    }
    Scratch scratch(shape.threads, 2 * kBlock * width);
    parallelFor(shape.batch * shape.groups * blocks, shape.threads, [&](long task, int worker) {
      fill(shape, packed, rotary, forGradient, task / blocks, task % blocks, scratch.of(worker));
    });
  }

  Right<Number> block(const std::vector<Number>& of, long bg, long p) const {
    return Factors::block(&of[bg * group], p, blocks, width);
  }
  Right<float> keysTurned(long bg, long p) const { return {&keysAcross[(bg * blocks + p) * kBlock * width], kBlock}; }
  Right<Number> valuesTurned(long bg, long p) const { return {&valuesAcross[(bg * blocks + p) * panel], kBlock}; }

 private:
  void fill(const AttentionShape& shape, const float* packed, Rotary rotary, bool forGradient, long bg, long block,
            float* scratch) {
    const long size = shape.headSize, g = bg % shape.groups, b = bg / shape.groups;
    float *const key = scratch, *const value = key + kBlock * width;
    std::fill(scratch, scratch + 2 * kBlock * width, 0.0f);
    for (long r = 0; r < shape.blockRows(block); r++) {
      const long row = b * shape.length + block * kBlock + r;
      const float* projections = packed + row * shape.packedWidth();
      rotate(projections + (shape.heads() + g) * size, rotary.cos + row * size, rotary.sin + row * size, size, 1.0f,
             key + r * width);
      std::copy_n(projections + (shape.heads() + shape.groups + g) * size, size, value + r * width);
    }
    FloatFactors::putTurned(key, width, &keysAcross[(bg * blocks + block) * kBlock * width]);
    Factors::put(value, width, block, blocks, &values[bg * group]);
    if (!forGradient) return;
    Factors::put(key, width, block, blocks, &keys[bg * group]);
    Factors::putTurned(value, width, &valuesAcross[bg * group + block * panel]);
  }
};

// Rotated and scaled queries of one head and block: [kBlock, width], zero where there are none.
inline void blockQueries(const AttentionShape& shape, const float* packed, Rotary rotary, long b, long head, long block,
                         long width, float* queries) {
  const long size = shape.headSize;
  std::fill(queries, queries + kBlock * width, 0.0f);
  for (long r = 0; r < shape.blockRows(block); r++) {
    const long row = b * shape.length + block * kBlock + r;
    rotate(packed + row * shape.packedWidth() + head * size, rotary.cos + row * size, rotary.sin + row * size, size,
           shape.scale(), queries + r * width);
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
template <typename Factors>
void attention(const AttentionShape& shape, const float* packed, Rotary rotary, Segments segments, float* out,
                      float* logSums) {
  const KeyValues<Factors> kv(shape, packed, rotary, false);
  const long width = kv.width, size = shape.headSize, blocks = kv.blocks;
  const long keys = blocks * kBlock;
  // Queries, context and scores; then room for queries or weights as factors.
  Scratch scratch(shape.threads, kBlock * (2 * width + keys + kLanes + std::max(width, keys)));
  parallelFor(shape.batch * shape.heads() * blocks, shape.threads, [&](long task, int worker) {
    // The longest first, so that no thread is left with one at the end.
    const long block = blocks - 1 - task / (shape.batch * shape.heads());
    const long bh = task % (shape.batch * shape.heads()), head = bh % shape.heads(), b = bh / shape.heads();
    const long visible = (block + 1) * kBlock, rows = shape.blockRows(block);
    // Not a power of two, or the rows of a tile would share a set of the cache.
    const long stride = visible + kLanes;
    const long bg = b * shape.groups + head / shape.headsPerGroup;
    float* const queries = scratch.of(worker);
    float *const context = queries + kBlock * width, *const scores = context + kBlock * width;
    auto* const room = reinterpret_cast<typename Factors::Number*>(scores + kBlock * stride);
    float inverse[kBlock];
    blockQueries(shape, packed, rotary, b, head, block, width, queries);
    for (long p = 0; p <= block; p++) {
      FloatFactors::multiply(rows, kBlock, size, {queries, width, 1}, kv.keysTurned(bg, p), scores + p * kBlock, stride,
                             false);
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
    const auto weights = Factors::left(scores, rows, visible, stride, room);
    Factors::multiply(rows, width, block * kBlock + rows, weights, kv.block(kv.values, bg, 0), context, width, false);
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
template <typename Factors>
void partGradient(const AttentionShape& shape, const AttentionGradientInputs& in, Rotary rotary,
                  const KeyValues<Factors>& kv, long bg, long head, long block, float* dKeys, float* dValues,
                  float* dPacked, float* scratch) {
  using Number = typename Factors::Number;
  const long width = kv.width, size = shape.headSize, b = bg / shape.groups, rows = shape.blockRows(block);
  const long tileRows = wholeTiles(rows), firstRow = b * shape.length + block * kBlock;
  float *const queries = scratch, *const dContext = queries + kBlock * width, *const dQueries = dContext + kBlock * width;
  float *const weights = dQueries + kBlock * width, *const dScores = weights + kBlock * kBlock;
  auto* const rooms = reinterpret_cast<Number*>(dScores + kBlock * kBlock);
  const auto room = [&](int i) { return rooms + i * kBlock * width; };
  float towards[kBlock] = {}, logSums[kBlock] = {};
  blockQueries(shape, in.packed, rotary, b, head, block, width, queries);
  std::fill(dContext, dContext + kBlock * width, 0.0f);
  for (long r = 0; r < rows; r++) {
    const long at = (firstRow + r) * shape.outWidth() + head * size;
    std::copy_n(in.dOut + at, size, dContext + r * width);
    towards[r] = Factors::dot(in.dOut + at, in.out + at, size);
    logSums[r] = in.logSums[(firstRow + r) * shape.heads() + head];
  }
  const auto leftContext = Factors::left(dContext, rows, width, width, room(0));
  const auto queriesTurned = Factors::leftTurned(queries, width, room(1));
  const auto contextTurned = Factors::leftTurned(dContext, width, room(2));
  for (long p = 0; p <= block; p++) {
    FloatFactors::multiply(rows, kBlock, size, {queries, width, 1}, kv.keysTurned(bg, p), weights, kBlock, false);
    Factors::multiply(rows, kBlock, size, leftContext, kv.valuesTurned(bg, p), dScores, kBlock, false);
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
    Factors::multiply(rows, width, kBlock, Factors::left(dScores, rows, kBlock, kBlock, room(3)),
                      kv.block(kv.keys, bg, p), dQueries, width, p > 0);
    const long across = p * kBlock * width;
    Factors::multiply(width, kBlock, rows, queriesTurned, Factors::right(dScores, rows, kBlock, room(3)), dKeys + across,
                      kBlock, true);
    Factors::multiply(width, kBlock, rows, contextTurned, Factors::right(weights, rows, kBlock, room(3)),
                      dValues + across, kBlock, true);
  }
  for (long r = 0; r < rows; r++) {
    const long row = firstRow + r;
    rotateBack(dQueries + r * width, rotary.cos + row * size, rotary.sin + row * size, size, shape.scale(),
               dPacked + row * shape.packedWidth() + head * size);
  }
}

// The gradient of attention to packed. The weights are computed again: they are the largest tensor of a layer.
template <typename Factors>
void attentionGradient(const AttentionShape& shape, const AttentionGradientInputs& in, Rotary rotary, float* dPacked) {
  const KeyValues<Factors> kv(shape, in.packed, rotary, true);
  const long size = shape.headSize, blocks = kv.blocks, groups = shape.batch * shape.groups;
  // All query blocks of a group add to the same keys: each part of them has sums of its own, added in a fixed order.
  const long work = shape.headsPerGroup * blocks;
  const long parts = std::max(1L, std::min((2L * shape.threads + groups - 1) / groups, work));
  // Across: [groups, parts, blocks, width, kBlock].
  const long panel = kBlock * kv.width;
  std::vector<float> dKeys(groups * parts * blocks * panel), dValues(dKeys.size());
  Scratch scratch(shape.threads, kBlock * (7 * kv.width + 2 * kBlock));
  parallelFor(groups * parts, shape.threads, [&](long task, int worker) {
    const long bg = task / parts, part = task % parts, g = bg % shape.groups;
    // Every other round backwards, so that each part gets long and short blocks alike.
    for (long round = 0; round * parts < work; round++) {
      const long item = round * parts + (round % 2 ? parts - 1 - part : part);
      if (item >= work) continue;
      const long head = g * shape.headsPerGroup + item / blocks;
      partGradient(shape, in, rotary, kv, bg, head, item % blocks, &dKeys[task * blocks * panel],
                   &dValues[task * blocks * panel], dPacked, scratch.of(worker));
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
        const long at = ((bg * parts + part) * blocks + block) * panel + r;
        for (long d = 0; d < size; d++) {
          dKey[d] += dKeys[at + d * kBlock];
          toValue[d] += dValues[at + d * kBlock];
        }
      }
      rotateBack(dKey.data(), rotary.cos + row * size, rotary.sin + row * size, size, 1.0f, to);
    }
  });
}

}  // namespace maskprune
