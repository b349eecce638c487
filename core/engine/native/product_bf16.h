// The product of many rows with a matrix of bfloat16, by the processor's dot products of pairs (AVX512-BF16): the rows are
// rounded to bfloat16, sums are in f32.
#pragma once

#include <algorithm>
#include <memory>

#include "weights.h"

namespace maskprune {

#if defined(__AVX512BF16__)
constexpr bool kHasBf16Products = true;

// A tile of sums: rows x vectors of 16 columns, as many as the registers hold beside a row of factors.
constexpr int kPairTileRows = 6, kPairTileVectors = 4;
constexpr long kPairPanel = 16 * kPairTileVectors;
// Pairs of a column that a panel holds at once: 32 KiB.
constexpr long kPairDepth = 128;

// Two neighbours of a column, or of a row of x, in one integer.
using Pair = int32_t;

// Rounds `count` floats to bfloat16, to nearest with ties to even; an odd last one gets 0 beside it.
inline void roundRow(const float* from, long count, uint16_t* to) {
  long d = 0;
  for (; d + 32 <= count; d += 32) {
    const auto both = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(from + d + 16), _mm512_loadu_ps(from + d));
    std::memcpy(to + d, &both, sizeof both);
  }
  for (; d < count; d += 16) {
    const long lanes = std::min(count - d, 16L);
    const auto some = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps((1u << lanes) - 1, from + d));
    std::memcpy(to + d, &some, (lanes + lanes % 2) * sizeof *to);
  }
}

// Turns 16 rows of 16 integers: the lanes of `rows` become its vectors.
inline void turn(__m512i rows[16]) {
  __m512i a[16];
  for (int i = 0; i < 8; i++) {
    a[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
    a[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
  }
  for (int i = 0; i < 4; i++) {
    rows[4 * i] = _mm512_unpacklo_epi64(a[4 * i], a[4 * i + 2]);
    rows[4 * i + 1] = _mm512_unpackhi_epi64(a[4 * i], a[4 * i + 2]);
    rows[4 * i + 2] = _mm512_unpacklo_epi64(a[4 * i + 1], a[4 * i + 3]);
    rows[4 * i + 3] = _mm512_unpackhi_epi64(a[4 * i + 1], a[4 * i + 3]);
  }
  for (int i = 0; i < 4; i++) {
    a[i] = _mm512_shuffle_i32x4(rows[i], rows[4 + i], 0x88);
    a[4 + i] = _mm512_shuffle_i32x4(rows[i], rows[4 + i], 0xdd);
    a[8 + i] = _mm512_shuffle_i32x4(rows[8 + i], rows[12 + i], 0x88);
    a[12 + i] = _mm512_shuffle_i32x4(rows[8 + i], rows[12 + i], 0xdd);
  }
  for (int i = 0; i < 4; i++) {
    rows[i] = _mm512_shuffle_i32x4(a[i], a[8 + i], 0x88);
    rows[4 + i] = _mm512_shuffle_i32x4(a[4 + i], a[12 + i], 0x88);
    rows[8 + i] = _mm512_shuffle_i32x4(a[i], a[8 + i], 0xdd);
    rows[12 + i] = _mm512_shuffle_i32x4(a[4 + i], a[12 + i], 0xdd);
  }
}

// Pairs [pair, pair + count) of columns [column, column + columns) of W [rows, columns]: [count, kPairPanel], 0 beyond.
inline void fillPairs(const Weights& w, long column, long columns, long pair, long count, Pair* panel) {
  const auto* data = static_cast<const uint16_t*>(w.data);
  const __m512i low = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6, 37, 5,
                                       36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
  const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
  for (long p = 0; p < count; p++) {
    const long row = 2 * (pair + p);
    const uint16_t* even = data + row * w.stride + column;
    for (long d = 0; d < kPairPanel; d += 32) {
      const long lanes = std::clamp(columns - d, 0L, 32L);
      const __mmask32 some = lanes == 32 ? ~0u : (1u << lanes) - 1;
      const __m512i a = _mm512_maskz_loadu_epi16(some, even + d);
      const __m512i b = _mm512_maskz_loadu_epi16(row + 1 < w.rows ? some : 0, even + w.stride + d);
      _mm512_storeu_si512(panel + p * kPairPanel + d, _mm512_permutex2var_epi16(a, low, b));
      _mm512_storeu_si512(panel + p * kPairPanel + d + 16, _mm512_permutex2var_epi16(a, high, b));
    }
  }
}

// The same of W transposed, so that `column` is a row of W; rows have an even stride, with 0 beyond their end.
inline void fillTurnedPairs(const Weights& w, long column, long columns, long pair, long count, Pair* panel) {
  const auto* data = static_cast<const uint16_t*>(w.data);
  for (long c = 0; c < kPairPanel; c += 16) {
    for (long p = 0; p < count; p += 16) {
      const long lanes = std::min(count - p, 16L);
      __m512i rows[16];
      for (long i = 0; i < 16; i++) {
        const __mmask16 some = c + i < columns ? (1u << lanes) - 1 : 0;
        rows[i] = _mm512_maskz_loadu_epi32(some, data + (column + c + i) * w.stride + 2 * (pair + p));
      }
      turn(rows);
      for (long i = 0; i < lanes; i++) _mm512_storeu_si512(panel + (p + i) * kPairPanel + c, rows[i]);
    }
  }
}

// y [Rows, kPairPanel] (+)= x [Rows, depth pairs] panel.
template <int Rows>
inline void pairTile(long depth, const Pair* x, long xRow, const Pair* panel, float* y, long yRow, bool add) {
  __m512 sums[Rows][kPairTileVectors];
#pragma GCC unroll 8
  for (int r = 0; r < Rows; r++) {
#pragma GCC unroll 4
    for (int v = 0; v < kPairTileVectors; v++) sums[r][v] = add ? _mm512_loadu_ps(y + r * yRow + 16 * v) : __m512{};
  }
  for (long k = 0; k < depth; k++) {
    __m512bh factors[kPairTileVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kPairTileVectors; v++) {
      factors[v] = (__m512bh)_mm512_loadu_si512(panel + k * kPairPanel + 16 * v);
    }
#pragma GCC unroll 8
    for (int r = 0; r < Rows; r++) {
      const auto pair = (__m512bh)_mm512_set1_epi32(x[r * xRow + k]);
#pragma GCC unroll 4
      for (int v = 0; v < kPairTileVectors; v++) sums[r][v] = _mm512_dpbf16_ps(sums[r][v], pair, factors[v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < Rows; r++) {
#pragma GCC unroll 4
    for (int v = 0; v < kPairTileVectors; v++) _mm512_storeu_ps(y + r * yRow + 16 * v, sums[r][v]);
  }
}

template <int Rows = kPairTileRows>
inline void pairRows(long rows, long depth, const Pair* x, long xRow, const Pair* panel, float* y, long yRow, bool add) {
  long r = 0;
  for (; r + Rows <= rows; r += Rows) pairTile<Rows>(depth, x + r * xRow, xRow, panel, y + r * yRow, yRow, add);
  if constexpr (Rows > 1) {
    if (r < rows) pairRows<Rows - 1>(rows - r, depth, x + r * xRow, xRow, panel, y + r * yRow, yRow, add);
  }
}

// y [rows, columns] = x [rows, depth] W, or x Wt, for W in bfloat16.
inline void productBf16(const Weights& w, bool transposed, long rows, int threads, const float* x, float* y) {
  const long depth = transposed ? w.columns : w.rows, columns = transposed ? w.rows : w.columns;
  const long pairs = (depth + 1) / 2;
  std::unique_ptr<Pair[]> rounded(new Pair[rows * pairs]);
  forRows(rows, threads, [&](long row, int) {
    roundRow(x + row * depth, depth, reinterpret_cast<uint16_t*>(rounded.get() + row * pairs));
  });
  parallelFor((columns + kPairPanel - 1) / kPairPanel, threads, [&](long task, int) {
    alignas(64) Pair panel[kPairDepth * kPairPanel];
    const long column = task * kPairPanel, count = std::min(kPairPanel, columns - column);
    // A panel that is not full would write beyond the end of a row.
    const bool whole = count == kPairPanel;
    std::unique_ptr<float[]> narrow(whole ? nullptr : new float[rows * kPairPanel]);
    float* const to = whole ? y + column : narrow.get();
    const long stride = whole ? columns : kPairPanel;
    for (long pair = 0; pair < pairs; pair += kPairDepth) {
      const long size = std::min(kPairDepth, pairs - pair);
      transposed ? fillTurnedPairs(w, column, count, pair, size, panel) : fillPairs(w, column, count, pair, size, panel);
      pairRows(rows, size, rounded.get() + pair, pairs, panel, to, stride, pair > 0);
    }
    if (whole) return;
    for (long r = 0; r < rows; r++) std::copy_n(narrow.get() + r * kPairPanel, count, y + r * columns + column);
  });
}
#else
constexpr bool kHasBf16Products = false;
inline void productBf16(const Weights&, bool, long, int, const float*, float*) {}
#endif

}  // namespace maskprune
