// Matrices of weights as they are stored, in f32 or in 16 bits, times a few rows: what decoding does. The products are in
// f32. Every weight is read once for up to kAccumulators rows, so the time is that of reading them.
#pragma once

#include <cstdint>
#include <cstring>

#include "elementwise.h"
#include "parallel.h"
#include "vector.h"

namespace maskprune {

enum Format : int { kF32 = 0, kBf16 = 1, kF16 = 2 };

// A matrix [rows, columns] whose rows are `stride` numbers apart.
struct Weights {
  const void* data;
  Format format;
  long rows, columns, stride;
};

template <Format format>
struct Stored;

template <>
struct Stored<kF32> {
  using Number = float;
  static Vector get(const float* from) { return load(from); }
};

typedef uint16_t Halves __attribute__((vector_size(2 * kLanes)));

template <>
struct Stored<kBf16> {
  using Number = uint16_t;
  // BF16 is the upper half of an f32.
  static Vector get(const uint16_t* from) {
    Halves halves;
    std::memcpy(&halves, from, sizeof halves);
    const Integers bits = __builtin_convertvector(halves, Integers) << 16;
    Vector v;
    std::memcpy(&v, &bits, sizeof v);
    return v;
  }
};

template <>
struct Stored<kF16> {
  using Number = uint16_t;
  static Vector get(const uint16_t* from) {
#if defined(__AVX512F__)
    return (Vector)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
#elif defined(__F16C__)
    return (Vector)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
#else
    // The exponent moves to the place of an f32's; a product with 2^112 puts it right, subnormal numbers included. Infinity
    // and NaN do not occur in weights.
    Halves halves;
    std::memcpy(&halves, from, sizeof halves);
    const Integers wide = __builtin_convertvector(halves, Integers);
    const Integers magnitude = (wide & 0x7fff) << 13, sign = (wide & 0x8000) << 16;
    Vector v;
    std::memcpy(&v, &magnitude, sizeof v);
    v *= 5.192296858534828e33f;
    Integers bits;
    std::memcpy(&bits, &v, sizeof bits);
    bits |= sign;
    std::memcpy(&v, &bits, sizeof v);
    return v;
#endif
  }
};

// `count` numbers, the other lanes 0.
template <Format format>
inline Vector getSome(const typename Stored<format>::Number* from, long count) {
  if (count >= kLanes) return Stored<format>::get(from);
  typename Stored<format>::Number some[kLanes] = {};
  std::memcpy(some, from, count * sizeof some[0]);
  return Stored<format>::get(some);
}

// Accumulators of a tile: rows times vectors of columns.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kAccumulators = 16;
#else
constexpr int kAccumulators = 8;
#endif

// Rows of weights that are asked for ahead of their use.
constexpr long kAhead = 8;

// y [Rows, columns] = x [Rows, depth] W for `Vectors` vectors of columns, of which `columns` exist.
template <Format format, int Rows, int Vectors>
inline void rowsTile(const Weights& w, long column, long columns, const float* x, float* y, long yStride) {
  using Number = typename Stored<format>::Number;
  const Number* from = static_cast<const Number*>(w.data) + column;
  Vector acc[Rows][Vectors] = {};
  const bool whole = columns == Vectors * kLanes;
  for (long k = 0; k < w.rows; k++, from += w.stride) {
    const long ahead = k + kAhead < w.rows ? kAhead * w.stride : 0;
    for (long byte = 0; byte < static_cast<long>(Vectors * kLanes * sizeof(Number)); byte += 64) {
      __builtin_prefetch(reinterpret_cast<const char*>(from + ahead) + byte);
    }
    Vector row[Vectors];
#pragma GCC unroll 16
    for (int v = 0; v < Vectors; v++) {
      const long left = columns - v * kLanes;
      row[v] = whole ? Stored<format>::get(from + v * kLanes)
                     : left > 0 ? getSome<format>(from + v * kLanes, left) : Vector{};
    }
#pragma GCC unroll 16
    for (int r = 0; r < Rows; r++) {
      const Vector factor = splat(x[r * w.rows + k]);
#pragma GCC unroll 16
      for (int v = 0; v < Vectors; v++) acc[r][v] += factor * row[v];
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < Rows; r++) {
    for (int v = 0; v < Vectors; v++) {
      const long left = columns - v * kLanes;
      if (left > 0) store(y + r * yStride + column + v * kLanes, acc[r][v], std::min<long>(left, kLanes));
    }
  }
}

// Columns that a task takes; whole cache lines.
constexpr long kTaskColumns = kAccumulators * kLanes;

template <Format format, int Rows>
inline void rowsBlock(const Weights& w, long from, long to, const float* x, float* y, long yStride) {
  constexpr int vectors = kAccumulators / Rows;
  long column = from;
  for (; column + vectors * kLanes <= to; column += vectors * kLanes) {
    rowsTile<format, Rows, vectors>(w, column, vectors * kLanes, x, y, yStride);
  }
  for (; column + kLanes <= to; column += kLanes) rowsTile<format, Rows, 1>(w, column, kLanes, x, y, yStride);
  if (column < to) rowsTile<format, Rows, 1>(w, column, to - column, x, y, yStride);
}

// Columns [from, to) of y [rows, columns] = x [rows, depth] W.
template <Format format>
inline void rowsTimes(const Weights& w, long rows, long from, long to, const float* x, float* y, long yStride) {
  long r = 0;
  for (; r + 8 <= rows; r += 8) rowsBlock<format, 8>(w, from, to, x + r * w.rows, y + r * yStride, yStride);
  for (; r + 4 <= rows; r += 4) rowsBlock<format, 4>(w, from, to, x + r * w.rows, y + r * yStride, yStride);
  for (; r < rows; r++) rowsBlock<format, 1>(w, from, to, x + r * w.rows, y + r * yStride, yStride);
}

inline void rowsTimes(const Weights& w, long rows, long from, long to, const float* x, float* y, long yStride) {
  switch (w.format) {
    case kBf16: return rowsTimes<kBf16>(w, rows, from, to, x, y, yStride);
    case kF16: return rowsTimes<kF16>(w, rows, from, to, x, y, yStride);
    default: return rowsTimes<kF32>(w, rows, from, to, x, y, yStride);
  }
}

inline long columnTasks(const Weights& w) { return (w.columns + kTaskColumns - 1) / kTaskColumns; }

// Columns of one task.
inline void taskTimes(const Weights& w, long task, long rows, const float* x, float* y) {
  const long from = task * kTaskColumns;
  rowsTimes(w, rows, from, std::min(w.columns, from + kTaskColumns), x, y, w.columns);
}

// x . row of a matrix, for the output projection that is the embedding.
template <Format format>
inline float rowDot(const Weights& w, long row, const float* x) {
  const auto* from = static_cast<const typename Stored<format>::Number*>(w.data) + row * w.stride;
  Vector total[4] = {};
  long d = 0;
  for (; d + 4 * kLanes <= w.columns; d += 4 * kLanes) {
    for (int i = 0; i < 4; i++) total[i] += load(x + d + i * kLanes) * Stored<format>::get(from + d + i * kLanes);
  }
  for (; d < w.columns; d += kLanes) {
    const long left = std::min<long>(kLanes, w.columns - d);
    total[0] += load(x + d, left) * getSome<format>(from + d, left);
  }
  return sum((total[0] + total[1]) + (total[2] + total[3]));
}

inline float rowDot(const Weights& w, long row, const float* x) {
  switch (w.format) {
    case kBf16: return rowDot<kBf16>(w, row, x);
    case kF16: return rowDot<kF16>(w, row, x);
    default: return rowDot<kF32>(w, row, x);
  }
}

// Rows of the matrix that a task takes.
constexpr long kTaskRows = 256;

// y [rows, columns] = x W, or x Wt.
inline void fewRows(const Weights& w, bool transposed, long rows, int threads, const float* x, float* y) {
  if (!transposed) {
    return parallelFor(columnTasks(w), threads, [&](long task, int) { taskTimes(w, task, rows, x, y); });
  }
  parallelFor((w.rows + kTaskRows - 1) / kTaskRows, threads, [&](long task, int) {
    for (long row = task * kTaskRows; row < std::min(w.rows, (task + 1) * kTaskRows); row++) {
      for (long r = 0; r < rows; r++) y[r * w.rows + row] = rowDot(w, row, x + r * w.columns);
    }
  });
}

// The weights in f32, [rows, columns].
template <Format format>
inline void unpackRow(const Weights& w, long row, float* y) {
  const auto* from = static_cast<const typename Stored<format>::Number*>(w.data) + row * w.stride;
  for (long d = 0; d < w.columns; d += kLanes) {
    const long left = std::min<long>(kLanes, w.columns - d);
    store(y + d, getSome<format>(from + d, left), left);
  }
}

inline void unpack(const Weights& w, int threads, float* y) {
  forRows(w.rows, threads, [&](long row, int) {
    switch (w.format) {
      case kBf16: return unpackRow<kBf16>(w, row, y + row * w.columns);
      case kF16: return unpackRow<kF16>(w, row, y + row * w.columns);
      default: return unpackRow<kF32>(w, row, y + row * w.columns);
    }
  });
}

}  // namespace maskprune
