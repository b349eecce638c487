// Matrices of weights as they are stored, in f32 or in 16 bits, times a few rows: what decoding does. The products are in
// f32. Every weight is read from memory once, in the order in which they lie there, so the time is that of reading them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>

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

// Rows of weights that are read side by side: as many as stay in registers with their factors.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kStream = 8;
#else
constexpr int kStream = 4;
#endif

// y [columns] += x [Depth] times rows [k, k + Depth) of W, for its columns [from, to).
template <Format format, int Depth>
inline void streamRows(const Weights& w, long k, long from, long to, const float* x, float* y) {
  const auto* row = static_cast<const typename Stored<format>::Number*>(w.data) + k * w.stride;
  Vector factors[Depth];
#pragma GCC unroll 8
  for (int i = 0; i < Depth; i++) factors[i] = splat(x[i]);
  long d = from;
  for (; d + kLanes <= to; d += kLanes) {
    Vector total = load(y + d);
#pragma GCC unroll 8
    for (int i = 0; i < Depth; i++) total += factors[i] * Stored<format>::get(row + i * w.stride + d);
    store(y + d, total);
  }
  if (d == to) return;
  Vector total = load(y + d, to - d);
  for (int i = 0; i < Depth; i++) total += factors[i] * getSome<format>(row + i * w.stride + d, to - d);
  store(y + d, total, to - d);
}

// How the work of x W is split. Rows of W lie one after another, so a task takes a slice of them and reads it from end to
// end: threads that each read some columns of all rows get half of the memory's rate. What the slices give is added up
// afterwards. Threads beyond kMostSlices share the columns of a slice.
class Split {
 public:
  Split(long depth, int threads)
      : depth_(depth), slices_(std::clamp(depth / kLeastDepth, 1L, std::min<long>(threads, kMostSlices))),
        blocks_((threads + slices_ - 1) / slices_) {}

  long slices() const { return slices_; }
  long tasks() const { return slices_ * blocks_; }
  long slice(long task) const { return task / blocks_; }
  // First row of a slice, a multiple of kStream; the depth for the one after the last.
  long row(long slice) const {
    return slice == slices_ ? depth_ : depth_ / kStream * slice / slices_ * kStream;
  }
  // First column of a task's block, a multiple of kLanes; `next` is 1 for the block after it.
  long column(long task, long columns, int next) const {
    const long block = task % blocks_ + next;
    return block == blocks_ ? columns : columns / kLanes * block / blocks_ * kLanes;
  }

 private:
  static constexpr long kMostSlices = 16, kLeastDepth = 32;
  long depth_, slices_, blocks_;
};

// What the slices of x W give: [slices, rows, columns].
class SliceSums {
 public:
  SliceSums(const Split& split, long rows, long columns)
      : split_(split), rows_(rows), columns_(columns), data_(new float[split.slices() * rows * columns]) {}

  // One task; x [rows, depth].
  void compute(const Weights& w, long task, const float* x) {
    switch (w.format) {
      case kBf16: return compute<kBf16>(w, task, x);
      case kF16: return compute<kF16>(w, task, x);
      default: return compute<kF32>(w, task, x);
    }
  }

  // y [to - from]: the product's values [from, to), of all rows one after another.
  void total(long from, long to, float* y) const {
    const long size = rows_ * columns_;
    std::copy_n(data_.get() + from, to - from, y);
    for (long slice = 1; slice < split_.slices(); slice++) {
      const float* sums = data_.get() + slice * size + from;
      for (long i = 0; i < to - from; i++) y[i] += sums[i];
    }
  }

  // y [rows, columns].
  void total(float* y) const { total(0, rows_ * columns_, y); }

 private:
  template <Format format>
  void compute(const Weights& w, long task, const float* x) {
    const long slice = split_.slice(task), end = split_.row(slice + 1);
    const long from = split_.column(task, columns_, 0), to = split_.column(task, columns_, 1);
    float* sums = data_.get() + slice * rows_ * columns_;
    for (long r = 0; r < rows_; r++) std::fill(sums + r * columns_ + from, sums + r * columns_ + to, 0.0f);
    for (long k = split_.row(slice); k < end;) {
      const bool whole = k + kStream <= end;
      for (long r = 0; r < rows_; r++) {
        const float* factors = x + r * w.rows + k;
        whole ? streamRows<format, kStream>(w, k, from, to, factors, sums + r * columns_)
              : streamRows<format, 1>(w, k, from, to, factors, sums + r * columns_);
      }
      k += whole ? kStream : 1;
    }
  }

  const Split& split_;
  long rows_, columns_;
  std::unique_ptr<float[]> data_;
};

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
    const Split split(w.rows, threads);
    SliceSums sums(split, rows, w.columns);
    parallelFor(split.tasks(), threads, [&](long task, int) { sums.compute(w, task, x); });
    return sums.total(y);
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
