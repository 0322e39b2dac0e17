// A matrix of 16-bit numbers turned round by blocks, which torch copies number by number.
#pragma once

#include <ATen/ops/empty.h>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include "rows.h"

namespace ferry {

// Eight rows, `from_width` apart, of eight numbers to eight rows, `to_width` apart, of eight.
inline void turn_eight(const uint16_t* from, int64_t from_width, uint16_t* to, int64_t to_width) {
#ifdef __SSE2__
  __m128i row[8], pairs[8], fours[8];
  for (int64_t place = 0; place < 8; ++place) row[place] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + place * from_width));
  for (int64_t place = 0; place < 4; ++place) {  // rows 0 and 1, 2 and 3, ..., first halves and second
    pairs[place] = _mm_unpacklo_epi16(row[2 * place], row[2 * place + 1]);
    pairs[4 + place] = _mm_unpackhi_epi16(row[2 * place], row[2 * place + 1]);
  }
  for (int64_t half = 0; half < 2; ++half) {  // rows 0 to 3 and 4 to 7 of two columns each
    for (int64_t side = 0; side < 2; ++side) {
      fours[4 * half + side] = _mm_unpacklo_epi32(pairs[4 * half + 2 * side], pairs[4 * half + 2 * side + 1]);
      fours[4 * half + 2 + side] = _mm_unpackhi_epi32(pairs[4 * half + 2 * side], pairs[4 * half + 2 * side + 1]);
    }
  }
  for (int64_t two = 0; two < 4; ++two) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 2 * two * to_width), _mm_unpacklo_epi64(fours[2 * two], fours[2 * two + 1]));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + (2 * two + 1) * to_width), _mm_unpackhi_epi64(fours[2 * two], fours[2 * two + 1]));
  }
#else
  for (int64_t row = 0; row < 8; ++row) {
    for (int64_t column = 0; column < 8; ++column) to[column * to_width + row] = from[row * from_width + column];
  }
#endif
}

// A matrix (N, M) bfloat16 to (M, N).
inline at::Tensor transposed(const at::Tensor& matrix) {
  TORCH_CHECK(matrix.dim() == 2 && matrix.scalar_type() == at::kBFloat16 && matrix.is_contiguous(), "the matrix must be (N, M) bfloat16 and contiguous");
  constexpr int64_t band = 32;  // columns: a line of the cache, read whole
  const int64_t rows = matrix.size(0), columns = matrix.size(1), whole = rows / 8 * 8;
  at::Tensor found = at::empty({columns, rows}, matrix.options());
  const auto* from = static_cast<const uint16_t*>(matrix.const_data_ptr());
  auto* to = static_cast<uint16_t*>(found.mutable_data_ptr());
  for_rows((columns + band - 1) / band, band * rows, [&](int64_t number) {
    const int64_t left = number * band, right = std::min(columns, left + band), last = left + (right - left) / 8 * 8;
    for (int64_t row = 0; row < whole; row += 8) {
      for (int64_t column = left; column < last; column += 8) turn_eight(from + row * columns + column, columns, to + column * rows + row, rows);
    }
    for (int64_t column = left; column < right; ++column) {  // what fills no block
      for (int64_t row = column < last ? whole : 0; row < rows; ++row) to[column * rows + row] = from[row * columns + column];
    }
  });
  return found;
}

}  // namespace ferry
