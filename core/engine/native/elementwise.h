// RMSNorm and SwiGLU with their gradients, each in one pass over its rows.
#pragma once

#include <cmath>
#include <vector>

#include "parallel.h"
#include "vector.h"

namespace maskprune {

// Rows of a task.
constexpr long kRows = 32;

inline float dot(const float* a, const float* b, long size) {
  Vector total{};
  long d = 0;
  for (; d + kLanes <= size; d += kLanes) total += load(a + d) * load(b + d);
  float rest = 0;
  for (; d < size; d++) rest += a[d] * b[d];
  return sum(total) + rest;
}

// Calls body(row, worker) for every row.
template <typename Body>
void forRows(long rows, int threads, const Body& body) {
  parallelFor((rows + kRows - 1) / kRows, threads, [&](long task, int worker) {
    for (long row = task * kRows; row < std::min(rows, (task + 1) * kRows); row++) body(row, worker);
  });
}

// x [N, D], gain [D] -> x / sqrt(mean(x^2) + epsilon) * gain, and the factors 1 / sqrt(...) [N].
inline void rmsNorm(long rows, long size, float epsilon, int threads, const float* x, const float* gain, float* y,
                    float* inverse) {
  forRows(rows, threads, [&](long row, int) {
    const float* from = x + row * size;
    const float factor = 1.0f / std::sqrt(dot(from, from, size) / size + epsilon);
    inverse[row] = factor;
    for (long d = 0; d < size; d++) y[row * size + d] = from[d] * factor * gain[d];
  });
}

// The gradient of rmsNorm to x.
inline void rmsNormGradient(long rows, long size, int threads, const float* x, const float* gain, const float* inverse,
                            const float* dy, float* dx) {
  Scratch scratch(threads, size);
  forRows(rows, threads, [&](long row, int worker) {
    const float *from = x + row * size, *slope = dy + row * size;
    float* scaled = scratch.of(worker);
    for (long d = 0; d < size; d++) scaled[d] = slope[d] * gain[d];
    const float factor = inverse[row];
    const float along = dot(scaled, from, size) / size * factor * factor;
    for (long d = 0; d < size; d++) dx[row * size + d] = factor * (scaled[d] - from[d] * along);
  });
}

// The first `count` lanes; the others are 0.
inline Vector load(const float* from, long count) {
  if (count == kLanes) return load(from);
  Vector v{};
  std::memcpy(&v, from, count * sizeof(float));
  return v;
}

inline void store(float* to, Vector v, long count) {
  if (count == kLanes) return store(to, v);
  std::memcpy(to, &v, count * sizeof(float));
}

// The activations of gated FFNs, by their numbers in core/engine/ops.ts.
enum Activation : int { kSilu = 0, kGeluTanh = 1 };

inline Vector activate(Activation kind, Vector x) {
  if (kind == kSilu) return x / (exponential(-x) + 1.0f);
  // tanh(u) = 1 - 2 / (e^2u + 1)
  const Vector u = (x + x * x * x * 0.044715f) * 0.7978845608028654f;
  const Vector limited = larger(splat(-20.0f), -larger(splat(-20.0f), -u));
  return x * (1.0f - 1.0f / (exponential(limited * 2.0f) + 1.0f));
}

// gate, up [N, F], mask [F] or null -> silu(gate) * up (* mask).
inline void swiGlu(long rows, long size, int threads, const float* gate, const float* up, const float* mask, float* y) {
  forRows(rows, threads, [&](long row, int) {
    for (long d = 0; d < size; d += kLanes) {
      const long count = std::min<long>(kLanes, size - d), at = row * size + d;
      const Vector g = load(gate + at, count);
      Vector gated = activate(kSilu, g) * load(up + at, count);
      if (mask) gated *= load(mask + d, count);
      store(y + at, gated, count);
    }
  });
}

// The gradients of swiGlu. dMask [F] is null without a mask.
inline void swiGluGradient(long rows, long size, int threads, const float* gate, const float* up, const float* mask,
                           const float* dy, float* dGate, float* dUp, float* dMask) {
  const long tasks = (rows + kRows - 1) / kRows;
  // Each task sums the mask's gradient over its own rows; the sums are added in a fixed order.
  std::vector<float> parts(dMask ? tasks * size : 0);
  forRows(rows, threads, [&](long row, int) {
    for (long d = 0; d < size; d += kLanes) {
      const long count = std::min<long>(kLanes, size - d), at = row * size + d;
      const Vector g = load(gate + at, count), u = load(up + at, count), slope = load(dy + at, count);
      const Vector s = 1.0f / (exponential(-g) + 1.0f);
      const Vector silu = g * s;
      const Vector dGated = mask ? slope * load(mask + d, count) : slope;
      // d silu(g) / dg = s + g s (1 - s)
      store(dGate + at, dGated * u * (s + silu * (1.0f - s)), count);
      store(dUp + at, dGated * silu, count);
      if (!dMask) continue;
      float* part = parts.data() + row / kRows * size + d;
      store(part, load(part, count) + slope * silu * u, count);
    }
  });
  if (!dMask) return;
  std::fill(dMask, dMask + size, 0.0f);
  for (long task = 0; task < tasks; task++) {
    for (long d = 0; d < size; d++) dMask[d] += parts[task * size + d];
  }
}

// logits [N, V], targets [N] -> losses [N] in nats and their gradients softmax(logits) - onehot(targets) [N, V].
inline void crossEntropy(long rows, long size, int threads, const float* logits, const int32_t* targets, float* losses,
                         float* gradient) {
  forRows(rows, threads, [&](long row, int) {
    const float* from = logits + row * size;
    float* to = gradient + row * size;
    const long whole = size / kLanes * kLanes;
    // Comparisons lose NaN, so products with 0 keep it, and infinity, for the loss.
    Vector top = splat(-INFINITY), finite{}, totals{};
    for (long d = 0; d < whole; d += kLanes) {
      top = larger(top, load(from + d));
      finite += load(from + d) * 0.0f;
    }
    float max = largest(top), total = 0, problem = sum(finite);
    for (long d = whole; d < size; d++) {
      max = std::max(max, from[d]);
      problem += from[d] * 0.0f;
    }
    for (long d = 0; d < whole; d += kLanes) {
      const Vector weight = exponential(load(from + d) - max);
      store(to + d, weight);
      totals += weight;
    }
    for (long d = whole; d < size; d++) total += to[d] = std::exp(from[d] - max);
    total += sum(totals);
    losses[row] = max + std::log(total) - from[targets[row]] + problem;
    const float inverse = 1.0f / total;
    for (long d = 0; d < size; d++) to[d] *= inverse;
    to[targets[row]] -= 1.0f;
  });
}

}  // namespace maskprune
