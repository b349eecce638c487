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

enum Activation : int { kSilu = 0, kGeluTanh = 1 };

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

inline void addBias(float* y, const float* bias, long rows, long columns, long from, long to) {
  if (!bias) return;
  for (long r = 0; r < rows; r++) {
    for (long d = from; d < to; d++) y[r * columns + d] += bias[d];
  }
}

inline void taskLinear(const DecodeLayer& layer, LinearIndex index, long task, long rows, const float* x, float* y) {
  const Weights& w = layer.linear[index];
  taskTimes(w, task, rows, x, y);
  const long from = task * kTaskColumns;
  addBias(y, layer.bias[index], rows, w.columns, from, std::min(w.columns, from + kTaskColumns));
}

inline Vector activate(Activation kind, Vector x) {
  if (kind == kSilu) return x / (exponential(-x) + 1.0f);
  // tanh(u) = 1 - 2 / (e^2u + 1)
  const Vector u = (x + x * x * x * 0.044715f) * 0.7978845608028654f;
  const Vector limited = larger(splat(-20.0f), -larger(splat(-20.0f), -u));
  return x * (1.0f - 1.0f / (exponential(limited * 2.0f) + 1.0f));
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

// x [B, D] -> y [B, D]; the new keys and values go to the cache.
inline void decodeLayer(const DecodeLayer& layer, const Cache& cache, long rows, int threads, const float* x, float* y) {
  const long width = layer.linear[kQuery].rows, size = layer.headSize, groups = layer.groups;
  const long heads = groups * layer.headsPerGroup, channels = layer.linear[kGate].columns;
  const long packed = (heads + 2 * groups) * size;
  std::vector<float> memory(rows * (2 * width + packed + heads * size + 2 * channels));
  float *normed = memory.data(), *written = normed + rows * width, *query = written + rows * width;
  float *key = query + rows * heads * size, *value = key + rows * groups * size;
  float *context = value + rows * groups * size, *gate = context + rows * heads * size, *up = gate + rows * channels;

  for (long r = 0; r < rows; r++) {
    normRow(x + r * width, layer.attentionNorm, width, layer.epsilon, normed + r * width);
  }
  const long queryTasks = columnTasks(layer.linear[kQuery]), keyTasks = columnTasks(layer.linear[kKey]);
  parallelFor(queryTasks + 2 * keyTasks, threads, [&](long task, int) {
    if (task < queryTasks) return taskLinear(layer, kQuery, task, rows, normed, query);
    task -= queryTasks;
    if (task < keyTasks) return taskLinear(layer, kKey, task, rows, normed, key);
    taskLinear(layer, kValue, task - keyTasks, rows, normed, value);
  });
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
  parallelFor(columnTasks(layer.linear[kOutput]), threads,
              [&](long task, int) { taskLinear(layer, kOutput, task, rows, context, written); });
  addBlock(layer, layer.attentionOutputNorm, rows, width, written, x, y);

  for (long r = 0; r < rows; r++) normRow(y + r * width, layer.ffnNorm, width, layer.epsilon, normed + r * width);
  parallelFor(columnTasks(layer.linear[kGate]), threads, [&](long task, int) {
    taskLinear(layer, kGate, task, rows, normed, gate);
    taskLinear(layer, kUp, task, rows, normed, up);
    const long from = task * kTaskColumns, to = std::min(channels, from + kTaskColumns);
    for (long r = 0; r < rows; r++) {
      for (long d = from; d < to; d += kLanes) {
        const long count = std::min<long>(kLanes, to - d), at = r * channels + d;
        store(gate + at, activate(layer.activation, load(gate + at, count)) * load(up + at, count), count);
      }
    }
  });
  parallelFor(columnTasks(layer.linear[kDown]), threads,
              [&](long task, int) { taskLinear(layer, kDown, task, rows, gate, written); });
  addBlock(layer, layer.ffnOutputNorm, rows, width, written, y, y);
}

}  // namespace maskprune
