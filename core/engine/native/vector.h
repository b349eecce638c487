// Vectors of floats in the width of the machine, and the two things attention does with them: a matrix product of a
// block that fits the cache, and exp.
#pragma once

#include <cstdint>
#include <cstring>

namespace maskprune {

// Lanes of a vector, and rows of a tile of kTileRows x 2 vectors: as many as the registers hold without spilling.
#if defined(__AVX512F__)
constexpr int kLanes = 16;
constexpr int kTileRows = 8;
#elif defined(__AVX__)
constexpr int kLanes = 8;
constexpr int kTileRows = 4;
#elif defined(__aarch64__)
constexpr int kLanes = 4;
constexpr int kTileRows = 8;
#else
constexpr int kLanes = 4;
constexpr int kTileRows = 4;
#endif

typedef float Vector __attribute__((vector_size(4 * kLanes)));
typedef int32_t Integers __attribute__((vector_size(4 * kLanes)));

inline Vector load(const float* from) {
  Vector v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

inline void store(float* to, Vector v) { std::memcpy(to, &v, sizeof v); }

// Subtracting zero leaves every float as it is, so no instruction is spent on it.
inline Vector splat(float x) { return x - Vector{}; }

// Keeps the compiler from loading a vector again at each use.
inline Vector inRegister(Vector v) {
#if defined(__x86_64__)
  asm("" : "+v"(v));
#endif
  return v;
}

inline Vector larger(Vector a, Vector b) { return a > b ? a : b; }

inline float sum(Vector v) {
  float total = 0;
  for (int i = 0; i < kLanes; i++) total += v[i];
  return total;
}

inline float largest(Vector v) {
  float max = v[0];
  for (int i = 1; i < kLanes; i++) max = v[i] > max ? v[i] : max;
  return max;
}

// e^x to about 2 units in the last place; below -87 it is 0.
inline Vector exponential(Vector x) {
  const Vector low = splat(-87.0f);
  const Vector clamped = larger(x, low);
  // Adding and taking away 1.5 * 2^23 rounds to the nearest integer.
  const Vector shift = splat(12582912.0f);
  const Vector n = (clamped * 1.44269504088896341f + shift) - shift;
  const Vector r = (clamped - n * 0.693359375f) - n * -2.12194440e-4f;
  Vector p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const Integers power = (__builtin_convertvector(n, Integers) + 127) << 23;
  Vector scale;
  std::memcpy(&scale, &power, sizeof scale);
  return x < low ? Vector{} : p * scale;
}

template <int Vectors>
inline void tile(long depth, const float* a, long aRow, long aColumn, const float* b, long bRow, float* c, long cRow,
                 bool add) {
  Vector acc[kTileRows][Vectors];
#pragma GCC unroll 8
  for (int r = 0; r < kTileRows; r++) {
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; v++) acc[r][v] = add ? load(c + r * cRow + v * kLanes) : Vector{};
  }
  for (long k = 0; k < depth; k++) {
    Vector row[Vectors];
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; v++) row[v] = inRegister(load(b + k * bRow + v * kLanes));
#pragma GCC unroll 8
    for (int r = 0; r < kTileRows; r++) {
      const Vector x = splat(a[r * aRow + k * aColumn]);
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; v++) acc[r][v] += x * row[v];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kTileRows; r++) {
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; v++) store(c + r * cRow + v * kLanes, acc[r][v]);
  }
}

// C (+)= A B for a block: A [rows, depth] with any strides, B [depth, columns] and C [rows, columns] with rows of their
// own length. rows is a multiple of kTileRows, columns of kLanes.
inline void multiply(long rows, long columns, long depth, const float* a, long aRow, long aColumn, const float* b,
                     long bRow, float* c, long cRow, bool add) {
  long j = 0;
  for (; j + 2 * kLanes <= columns; j += 2 * kLanes) {
    for (long i = 0; i < rows; i += kTileRows) {
      tile<2>(depth, a + i * aRow, aRow, aColumn, b + j, bRow, c + i * cRow + j, cRow, add);
    }
  }
  for (; j < columns; j += kLanes) {
    for (long i = 0; i < rows; i += kTileRows) {
      tile<1>(depth, a + i * aRow, aRow, aColumn, b + j, bRow, c + i * cRow + j, cRow, add);
    }
  }
}

}  // namespace maskprune
