// The low-rank update of a linear map, scale (x down) up, and its gradient, in f32: added to the map's own product while
// that is in the cache.
//
// N rows, `in` and `out` columns, rank r, and R: r in whole vectors.
#pragma once

#include <vector>

#include "elementwise.h"
#include "parallel.h"
#include "vector.h"

namespace maskprune {

struct LowRank {
  long rows, in, out, rank;
  float scale;
  int threads;

  long padded() const { return (rank + kLanes - 1) / kLanes * kLanes; }
};

// Rows, or columns, of a task.
constexpr long kLowRankRows = 64;

// y [rows, columns] += a b, b [depth, columns]. What is no whole tile is slow, and little.
inline void addProduct(long rows, long columns, long depth, const float* a, long aRow, long aStep, const float* b, long bRow,
                       float* y, long yRow) {
  const long wholeRows = rows / kTileRows * kTileRows, wholeColumns = columns / kLanes * kLanes;
  multiply(wholeRows, wholeColumns, depth, a, aRow, aStep, b, bRow, y, yRow, true);
  for (long i = 0; i < rows; i++) {
    for (long k = 0; k < depth; k++) {
      const float factor = a[i * aRow + k * aStep];
      for (long j = i < wholeRows ? wholeColumns : 0; j < columns; j++) y[i * yRow + j] += factor * b[k * bRow + j];
    }
  }
}

// from [rows, columns], or it transposed, with rows of `stride` numbers: 0 beyond their end.
inline std::vector<float> inRows(const float* from, long rows, long columns, bool transposed, long stride) {
  std::vector<float> to((transposed ? columns : rows) * stride);
  for (long r = 0; r < rows; r++) {
    for (long c = 0; c < columns; c++) to[transposed ? c * stride + r : r * stride + c] = from[r * columns + c];
  }
  return to;
}

// inner [N, R] = scale x first, y += inner second: x [N, in], first [in, R], second [r, out], y [N, out].
inline void addUpdate(const LowRank& s, const float* x, long in, const float* first, const float* second, long out,
                      float* inner, float* y) {
  const long width = s.padded();
  parallelFor((s.rows + kLowRankRows - 1) / kLowRankRows, s.threads, [&](long task, int) {
    const long row = task * kLowRankRows, count = std::min(kLowRankRows, s.rows - row);
    float* const own = inner + row * width;
    std::fill(own, own + count * width, 0.0f);
    addProduct(count, width, in, x + row * in, in, 1, first, width, own, width);
    for (long i = 0; i < count * width; i++) own[i] *= s.scale;
    addProduct(count, out, s.rank, own, width, 1, second, out, y + row * out, out);
  });
}

// x [N, in], down [in, r], up [r, out]: adds the update to y [N, out] and gives inner [N, R].
inline void lowRank(const LowRank& s, const float* x, const float* down, const float* up, float* inner, float* y) {
  addUpdate(s, x, s.in, inRows(down, s.in, s.rank, false, s.padded()).data(), up, s.out, inner, y);
}

// dy [N, out] and inner: adds to dx [N, in] and gives the gradients of down and up.
inline void lowRankGradient(const LowRank& s, const float* x, const float* down, const float* up, const float* inner,
                            const float* dy, float* dx, float* dDown, float* dUp) {
  const long width = s.padded();
  std::vector<float> dInner(s.rows * width);
  addUpdate(s, dy, s.out, inRows(up, s.rank, s.out, true, width).data(), inRows(down, s.in, s.rank, true, s.in).data(), s.in,
            dInner.data(), dx);
  const long downTasks = (s.in + kLowRankRows - 1) / kLowRankRows;
  parallelFor(downTasks + (s.out + kLowRankRows - 1) / kLowRankRows, s.threads, [&](long task, int) {
    std::vector<float> sums(kLowRankRows * width);
    if (task < downTasks) {
      const long from = task * kLowRankRows, count = std::min(kLowRankRows, s.in - from);
      addProduct(count, width, s.rows, x + from, 1, s.in, dInner.data(), width, sums.data(), width);
      for (long i = 0; i < count; i++) std::copy_n(&sums[i * width], s.rank, dDown + (from + i) * s.rank);
    } else {
      const long from = (task - downTasks) * kLowRankRows, count = std::min(kLowRankRows, s.out - from);
      const long tileRows = std::min(width, (s.rank + kTileRows - 1) / kTileRows * kTileRows);
      addProduct(tileRows, count, s.rows, inner, 1, width, dy + from, s.out, sums.data(), kLowRankRows);
      for (long i = 0; i < s.rank; i++) std::copy_n(&sums[i * kLowRankRows], count, dUp + i * s.out + from);
    }
  });
}

}  // namespace maskprune
