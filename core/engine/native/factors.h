// Blocks of f32 as factors of the products within attention: as they are, or rounded to bfloat16 in pairs. Sums are in f32.
//
// Both kinds have the same functions. A block x is [rows, columns], `stride` floats from row to row; rows are at most
// kBlock, columns whole panels of kColumns. `room` is for the factor's numbers, if it is not x itself.
#pragma once

#include "product_bf16.h"
#include "vector.h"

namespace maskprune {

// Queries and keys at once: scores of a block, and the keys and values they need, stay in the first-level cache.
constexpr long kBlock = 64;

// [rows, depth]: `row` numbers from row to row, `step` from factor to factor.
template <typename Number>
struct Left {
  const Number* data;
  long row, step;
};

// [depth, columns]: `stride` numbers from row to row, or, in pairs, from panel to panel.
template <typename Number>
struct Right {
  const Number* data;
  long stride;
};

inline long wholeTiles(long rows) { return (rows + kTileRows - 1) / kTileRows * kTileRows; }

struct FloatFactors {
  using Number = float;
  // Turned, columns become rows of tiles.
  static constexpr long kColumns = std::max(kLanes, kTileRows);
  // Floats in a number.
  static constexpr long kPacked = 1;

  static Left<Number> left(const float* x, long, long, long stride, Number*) { return {x, stride, 1}; }
  // x transposed.
  static Left<Number> leftTurned(const float* x, long columns, Number*) { return {x, 1, columns}; }
  static Right<Number> right(const float* x, long, long stride, Number*) { return {x, stride}; }

  // Block `block` of a right factor [blocks kBlock, columns].
  static Right<Number> block(const Number* data, long block, long, long columns) {
    return {data + block * kBlock * columns, columns};
  }
  static void put(const float* x, long columns, long block, long, Number* data) {
    std::copy_n(x, kBlock * columns, data + block * kBlock * columns);
  }
  // The right factor [columns, kBlock]: x transposed.
  static void putTurned(const float* x, long columns, Number* to) {
    for (long r = 0; r < kBlock; r++) {
      for (long d = 0; d < columns; d++) to[d * kBlock + r] = x[r * columns + d];
    }
  }

  // Adds in order, so that exact results do not depend on the length of vectors.
  static float dot(const float* a, const float* b, long size) {
    float total = 0;
    for (long d = 0; d < size; d++) total += a[d] * b[d];
    return total;
  }

  // c [rows, columns] (+)= a b; c has room for whole tiles of rows.
  static void multiply(long rows, long columns, long depth, Left<Number> a, Right<Number> b, float* c, long cRow, bool add) {
    maskprune::multiply(wholeTiles(rows), columns, depth, a.data, a.row, a.step, b.data, b.stride, c, cRow, add);
  }
};

#if defined(__AVX512BF16__)
struct PairFactors {
  using Number = Pair;
  static constexpr long kColumns = kPairPanel;
  static constexpr long kPacked = 2;

  // Pairs along a row.
  static Left<Number> left(const float* x, long rows, long columns, long stride, Number* room) {
    for (long r = 0; r < rows; r++) roundRow(x + r * stride, columns, reinterpret_cast<uint16_t*>(room + r * columns / 2));
    return {room, columns / 2, 1};
  }

  static Left<Number> leftTurned(const float* x, long columns, Number* room) {
    alignas(64) Number panel[kBlock / 2 * kPairPanel];
    for (long c = 0; c < columns; c += kPairPanel) {
      pairRowsOf(x + c, kBlock, columns, panel);
      turnAll(panel, kBlock / 2, kPairPanel, kPairPanel, room + c * kBlock / 2, kBlock / 2);
    }
    return {room, kBlock / 2, 1};
  }

  // Pairs down a column, in panels.
  static Right<Number> right(const float* x, long rows, long stride, Number* room) {
    pairRowsOf(x, rows, stride, room);
    return {room, 0};
  }

  static Right<Number> block(const Number* data, long block, long blocks, long) {
    return {data + block * kPanelNumbers, blocks * kPanelNumbers};
  }
  static void put(const float* x, long columns, long block, long blocks, Number* data) {
    for (long c = 0; c < columns; c += kPairPanel) {
      pairRowsOf(x + c, kBlock, columns, data + (c / kPairPanel * blocks + block) * kPanelNumbers);
    }
  }
  static void putTurned(const float* x, long columns, Number* to) {
    std::unique_ptr<Number[]> pairs(new Number[kBlock * columns / 2]);
    left(x, kBlock, columns, columns, pairs.get());
    turnAll(pairs.get(), kBlock, columns / 2, columns / 2, to, kBlock);
  }

  static float dot(const float* a, const float* b, long size) { return maskprune::dot(a, b, size); }

  static void multiply(long rows, long columns, long depth, Left<Number> a, Right<Number> b, float* c, long cRow, bool add) {
    const long pairs = (depth + 1) / 2;
    for (long panel = 0; panel * kPairPanel < columns; panel++) {
      const Number* const factors = b.data + panel * b.stride;
      for (long k = 0; k < pairs; k += kPairDepth) {
        pairRows(rows, std::min(kPairDepth, pairs - k), a.data + k, a.row, factors + k * kPairPanel,
                 c + panel * kPairPanel, cRow, add || k > 0);
      }
    }
  }

 private:
  // A panel of kBlock rows.
  static constexpr long kPanelNumbers = kBlock / 2 * kPairPanel;

  // Rows 2 p and 2 p + 1 of x [rows, kPairPanel], rounded, side by side: [rows / 2 rounded up, kPairPanel].
  static void pairRowsOf(const float* x, long rows, long stride, Number* to) {
    const __m512i alternating = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                                                 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    for (long r = 0; r < rows; r += 2) {
      for (long d = 0; d < kPairPanel; d += 16) {
        const float* even = x + r * stride + d;
        const __m512 odd = r + 1 < rows ? _mm512_loadu_ps(even + stride) : __m512{};
        const auto both = (__m512i)_mm512_cvtne2ps_pbh(odd, _mm512_loadu_ps(even));
        _mm512_storeu_si512(to + r / 2 * kPairPanel + d, _mm512_permutexvar_epi16(alternating, both));
      }
    }
  }

  // Integers [rows, columns] transposed; both are multiples of 16.
  static void turnAll(const Number* from, long rows, long columns, long stride, Number* to, long toStride) {
    for (long r = 0; r < rows; r += 16) {
      for (long c = 0; c < columns; c += 16) {
        __m512i lines[16];
        for (long i = 0; i < 16; i++) lines[i] = _mm512_loadu_si512(from + (r + i) * stride + c);
        turn(lines);
        for (long i = 0; i < 16; i++) _mm512_storeu_si512(to + (c + i) * toStride + r, lines[i]);
      }
    }
  }
};
#else
using PairFactors = FloatFactors;
#endif

}  // namespace maskprune
