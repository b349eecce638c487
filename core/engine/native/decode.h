// One decoder layer for one new position of each sequence, with the keys and values of those before it.
//
// B sequences, D width, H = G R query heads in G key/value groups, head size K, F channels, C positions of the cache.
#pragma once

#include <cmath>
#include <vector>

#include "attention.h"
#include "elementwise.h"
#include "parallel.h"
#include "weights.h"

namespace maskprune {

enum LinearIndex { kQuery, kKey, kValue, kOutput, kGate, kUp, kDown, kLinears };

// Null: the layer has none.
struct DecodeLayer {
  Weights linear[kLinears];
  const float* bias[kLinears];
  const float *attentionNorm, *ffnNorm;              // [D]
  const float *queryNorm, *keyNorm;                  // [K]
  const float *attentionOutputNorm, *ffnOutputNorm;  // [D]
  const float *cos, *sin;                            // [K], of the new position
  long groups, headsPerGroup, headSize;
  float epsilon, scoreScale, residualScale;
  Activation activation;
  long window;  // 0: none
};

struct Cache {
  float *keys, *values;  // [B, G, C, K]
  long capacity, held;
  float* at(float* of, long b, long g, long groups, long size) const { return of + (b * groups + g) * capacity * size; }
};

inline void normRow(const float* x, const float* gain, long size, float epsilon, float* y) {
  const float factor = 1.0f / std::sqrt(dot(x, x, size) / size + epsilon);
  for (long d = 0; d < size; d++) y[d] = x[d] * factor * gain[d];
}

inline void addBias(float* y, const float* bias, long rows, long columns) {
  if (!bias) return;
  for (long r = 0; r < rows; r++) {
    for (long d = 0; d < columns; d++) y[r * columns + d] += bias[d];
  }
}

// y [rows, columns] of a linear map from what its slices give.
inline void finish(const DecodeLayer& layer, LinearIndex index, const SliceSums& sums, long rows, float* y) {
  sums.total(y);
  addBias(y, layer.bias[index], rows, layer.linear[index].columns);
}

// A head of a query or key: its norm, its turn, its scale.
inline void turnHead(const DecodeLayer& layer, const float* gain, const float* x, float scale, float* y) {
  const long size = layer.headSize;
  std::vector<float> normed;
  if (gain) {
    normed.resize(size);
    normRow(x, gain, size, layer.epsilon, normed.data());
    x = normed.data();
  }
  if (layer.cos) return rotate(x, layer.cos, layer.sin, size, scale, y);
  for (long d = 0; d < size; d++) y[d] = scale * x[d];
}

// Query head h of sequence b: context [K].
inline void attendHead(const DecodeLayer& layer, const Cache& cache, long b, long h, const float* query, float* weights,
                       float* context) {
  const long size = layer.headSize, g = h / layer.headsPerGroup, seen = cache.held + 1;
  const long first = layer.window > 0 ? std::max(0L, seen - layer.window) : 0;
  const float* keys = cache.at(cache.keys, b, g, layer.groups, size);
  const float* values = cache.at(cache.values, b, g, layer.groups, size);
  std::vector<float> turned(size);
  turnHead(layer, layer.queryNorm, query, layer.scoreScale, turned.data());
  const long count = seen - first, whole = (count + kLanes - 1) / kLanes * kLanes;
  for (long s = 0; s < count; s++) weights[s] = dot(turned.data(), keys + (first + s) * size, size);
  float max, total;
  softmaxRow(weights, count, whole, &max, &total);
  std::fill(context, context + size, 0.0f);
  for (long s = 0; s < count; s++) {
    const float* value = values + (first + s) * size;
    for (long d = 0; d < size; d++) context[d] += weights[s] * value[d];
  }
  for (long d = 0; d < size; d++) context[d] /= total;
}

// What a block writes, added to the residual stream.
inline void addBlock(const DecodeLayer& layer, const float* norm, long rows, long width, float* written, const float* x,
                     float* y) {
  for (long r = 0; r < rows; r++) {
    float* from = written + r * width;
    if (norm) normRow(from, norm, width, layer.epsilon, from);
    for (long d = 0; d < width; d++) y[r * width + d] = x[r * width + d] + layer.residualScale * from[d];
  }
}

// Channels [from, to) of the gated FFN, of each row: hidden [rows, F].
inline void gateChannels(const DecodeLayer& layer, const SliceSums& gates, const SliceSums& ups, long rows, long from,
                         long to, float* up, float* hidden) {
  const long channels = layer.linear[kGate].columns;
  const float *gateBias = layer.bias[kGate], *upBias = layer.bias[kUp];
  for (long r = 0; r < rows; r++) {
    gates.total(r * channels + from, r * channels + to, hidden + r * channels + from);
    ups.total(r * channels + from, r * channels + to, up + from);
    for (long d = from; d < to; d += kLanes) {
      const long count = std::min<long>(kLanes, to - d);
      float* at = hidden + r * channels + d;
      const Vector gate = load(at, count) + (gateBias ? load(gateBias + d, count) : Vector{});
      store(at, activate(layer.activation, gate) * (load(up + d, count) + (upBias ? load(upBias + d, count) : Vector{})),
            count);
    }
  }
}

// x [B, D] -> y [B, D] with the attention block; the new keys and values go to the cache.
inline void decodeAttention(const DecodeLayer& layer, const Cache& cache, long rows, int threads, const float* x,
                            float* y) {
  const long width = layer.linear[kQuery].rows, size = layer.headSize, groups = layer.groups;
  const long heads = groups * layer.headsPerGroup;
  std::vector<float> memory(rows * (2 * width + 2 * (heads + groups) * size));
  float *normed = memory.data(), *written = normed + rows * width, *query = written + rows * width;
  float *context = query + rows * heads * size, *key = context + rows * heads * size, *value = key + rows * groups * size;

  for (long r = 0; r < rows; r++) {
    normRow(x + r * width, layer.attentionNorm, width, layer.epsilon, normed + r * width);
  }
  const Split split(width, threads);
  SliceSums queries(split, rows, heads * size), keys(split, rows, groups * size), values(split, rows, groups * size);
  parallelFor(split.tasks(), threads, [&](long task, int) {
    queries.compute(layer.linear[kQuery], task, normed);
    keys.compute(layer.linear[kKey], task, normed);
    values.compute(layer.linear[kValue], task, normed);
  });
  finish(layer, kQuery, queries, rows, query);
  finish(layer, kKey, keys, rows, key);
  finish(layer, kValue, values, rows, value);
  for (long bg = 0; bg < rows * groups; bg++) {
    const long at = (bg * cache.capacity + cache.held) * size;
    turnHead(layer, layer.keyNorm, key + bg * size, 1.0f, cache.keys + at);
    std::memcpy(cache.values + at, value + bg * size, size * sizeof(float));
  }
  Scratch scratch(threads, cache.held + 1 + kLanes);
  parallelFor(rows * heads, threads, [&](long task, int worker) {
    const long b = task / heads, h = task % heads;
    attendHead(layer, cache, b, h, query + task * size, scratch.of(worker), context + task * size);
  });
  fewRows(layer.linear[kOutput], false, rows, threads, context, written);
  addBias(written, layer.bias[kOutput], rows, width);
  addBlock(layer, layer.attentionOutputNorm, rows, width, written, x, y);
}

// Adds the FFN block to y [B, D].
inline void decodeFfn(const DecodeLayer& layer, long rows, int threads, float* y) {
  const long width = layer.linear[kGate].rows, channels = layer.linear[kGate].columns;
  std::vector<float> memory(2 * rows * width);
  float *normed = memory.data(), *written = normed + rows * width;
  for (long r = 0; r < rows; r++) normRow(y + r * width, layer.ffnNorm, width, layer.epsilon, normed + r * width);
  const Split split(width, threads), downSplit(channels, threads);
  SliceSums gates(split, rows, channels), ups(split, rows, channels), downs(downSplit, rows, width);
  parallelFor(split.tasks(), threads, [&](long task, int) {
    gates.compute(layer.linear[kGate], task, normed);
    ups.compute(layer.linear[kUp], task, normed);
  });
  Scratch scratch(threads, (rows + 1) * channels);
  parallelFor(downSplit.tasks(), threads, [&](long task, int worker) {
    float *const up = scratch.of(worker), *const hidden = up + channels;
    const long slice = downSplit.slice(task);
    gateChannels(layer, gates, ups, rows, downSplit.row(slice), downSplit.row(slice + 1), up, hidden);
    downs.compute(layer.linear[kDown], task, hidden);
  });
  finish(layer, kDown, downs, rows, written);
  addBlock(layer, layer.ffnOutputNorm, rows, width, written, y, y);
}

// x [B, D] -> y [B, D]; the new keys and values go to the cache.
inline void decodeLayer(const DecodeLayer& layer, const Cache& cache, long rows, int threads, const float* x, float* y) {
  decodeAttention(layer, cache, rows, threads, x, y);
  decodeFfn(layer, rows, threads, y);
}

}  // namespace maskprune
