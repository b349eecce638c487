// The product of many rows with a matrix as it is stored, in f32 or in 16 bits. The matrix is brought to f32 panel by panel
// in the processor's cache, so that no copy of it is made in memory.
#pragma once

#include <algorithm>
#include <vector>

#include "weights.h"

namespace maskprune {

// Columns of a panel, and weights of a column that it holds at once.
constexpr long kPanel = 4 * kLanes;
constexpr long kPanelDepth = 256;

// Rows up to which reading the matrix once for a few of them is faster.
constexpr long kFewRows = 8;

// Numbers [k, k + depth) of columns [column, column + count) of W: [depth, kPanel], 0 beyond `count`.
template <Format format>
inline void fillPanel(const Weights& w, long column, long count, long k, long depth, float* panel) {
  using Number = typename Stored<format>::Number;
  for (long row = 0; row < depth; row++) {
    const auto* from = static_cast<const Number*>(w.data) + (k + row) * w.stride + column;
    for (long d = 0; d < kPanel; d += kLanes) {
      store(panel + row * kPanel + d, d < count ? getSome<format>(from + d, count - d) : Vector{});
    }
  }
}

// The same of W transposed, so that `column` is a row of W.
template <Format format>
inline void fillTransposed(const Weights& w, long column, long count, long k, long depth, float* panel) {
  using Number = typename Stored<format>::Number;
  if (count < kPanel) std::fill(panel, panel + depth * kPanel, 0.0f);
  for (long c = 0; c < count; c++) {
    const auto* from = static_cast<const Number*>(w.data) + (column + c) * w.stride + k;
    for (long d = 0; d < depth; d += kLanes) {
      const long lanes = std::min<long>(kLanes, depth - d);
      float numbers[kLanes];
      store(numbers, getSome<format>(from + d, lanes));
      for (long i = 0; i < lanes; i++) panel[(d + i) * kPanel + c] = numbers[i];
    }
  }
}

inline void fill(const Weights& w, bool transposed, long column, long count, long k, long depth, float* panel) {
  switch (w.format) {
    case kBf16:
      return transposed ? fillTransposed<kBf16>(w, column, count, k, depth, panel)
                        : fillPanel<kBf16>(w, column, count, k, depth, panel);
    case kF16:
      return transposed ? fillTransposed<kF16>(w, column, count, k, depth, panel)
                        : fillPanel<kF16>(w, column, count, k, depth, panel);
    default:
      return transposed ? fillTransposed<kF32>(w, column, count, k, depth, panel)
                        : fillPanel<kF32>(w, column, count, k, depth, panel);
  }
}

// y [rows, columns] = x [rows, depth] W, or x Wt.
inline void product(const Weights& w, bool transposed, long rows, int threads, const float* x, float* y) {
  if (rows <= kFewRows) return fewRows(w, transposed, rows, threads, x, y);
  const long depth = transposed ? w.columns : w.rows, columns = transposed ? w.rows : w.columns;
  const long whole = rows / kTileRows * kTileRows, rest = rows - whole;
  Scratch scratch(threads, kPanelDepth * (kPanel + kTileRows) + (kTileRows + rows) * kPanel);
  parallelFor((columns + kPanel - 1) / kPanel, threads, [&](long task, int worker) {
    float *const panel = scratch.of(worker), *const lastRows = panel + kPanelDepth * kPanel;
    float *const lastSums = lastRows + kPanelDepth * kTileRows, *const narrow = lastSums + kTileRows * kPanel;
    const long column = task * kPanel, count = std::min(kPanel, columns - column);
    // A panel that is not full would write beyond the end of a row.
    float* const to = count == kPanel ? y + column : narrow;
    const long stride = count == kPanel ? columns : kPanel;
    for (long k = 0; k < depth; k += kPanelDepth) {
      const long size = std::min(kPanelDepth, depth - k);
      fill(w, transposed, column, count, k, size, panel);
      multiply(whole, kPanel, size, x + k, depth, 1, panel, kPanel, to, stride, k > 0);
      if (rest == 0) continue;
      std::fill(lastRows, lastRows + kTileRows * size, 0.0f);
      for (long r = 0; r < rest; r++) std::copy_n(x + (whole + r) * depth + k, size, lastRows + r * size);
      multiply(kTileRows, kPanel, size, lastRows, size, 1, panel, kPanel, lastSums, kPanel, k > 0);
    }
    for (long r = 0; r < rest; r++) std::copy_n(lastSums + r * kPanel, count, y + (whole + r) * columns + column);
    if (count == kPanel) return;
    for (long r = 0; r < whole; r++) std::copy_n(narrow + r * kPanel, count, y + r * columns + column);
  });
}

// To the nearest, ties to even.
inline uint16_t toBf16(float number) {
  uint32_t bits;
  std::memcpy(&bits, &number, sizeof bits);
  return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

inline uint16_t toF16(float number) {
#if defined(__F16C__)
  return _cvtss_sh(number, _MM_FROUND_TO_NEAREST_INT);
#else
  // Exact or refused: a number whose 16 bits give another one is found by comparing.
  uint32_t bits;
  std::memcpy(&bits, &number, sizeof bits);
  const uint32_t sign = bits >> 16 & 0x8000;
  float magnitude = number < 0 ? -number : number;
  magnitude *= 1.92592994438723585305597794258492732e-34f;
  std::memcpy(&bits, &magnitude, sizeof bits);
  return sign | bits >> 13;
#endif
}

template <Format format>
inline bool packRow(const float* from, long step, long count, uint16_t* to) {
  bool exact = true;
  for (long d = 0; d < count; d++) {
    const float number = from[d * step];
    to[d] = format == kBf16 ? toBf16(number) : toF16(number);
  }
  for (long d = 0; d < count; d += kLanes) {
    float back[kLanes];
    const long lanes = std::min<long>(kLanes, count - d);
    store(back, getSome<format>(to + d, lanes));
    for (long i = 0; i < lanes; i++) exact &= back[i] == from[(d + i) * step];
  }
  return exact;
}

// The numbers of W [rows, columns] in 16 bits, or those of W transposed: [rows or columns, stride]. False where one has no
// place in them without rounding.
inline bool pack(const float* w, long rows, long columns, bool transposed, Format format, int threads, uint16_t* packed) {
  const long count = transposed ? rows : columns, stride = (count + 1) / 2 * 2;
  std::atomic<bool> exact{true};
  forRows(transposed ? columns : rows, threads, [&](long row, int) {
    const float* from = transposed ? w + row : w + row * columns;
    const long step = transposed ? columns : 1;
    uint16_t* to = packed + row * stride;
    if (stride > count) to[count] = 0;
    const bool fits = format == kBf16 ? packRow<kBf16>(from, step, count, to) : packRow<kF16>(from, step, count, to);
    if (!fits) exact = false;
  });
  return exact;
}

}  // namespace maskprune
