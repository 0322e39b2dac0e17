// Rows and weights of int8 in tiles, and their products. What is done before and after a product is done here as well, so
// that neither rounded rows nor sums pass through memory.
#pragma once

#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <vector>

#include "layers.h"
#include "units.h"

namespace ferry {

constexpr int64_t block_tiles = 4;  // tiles of columns that are finished together
constexpr int64_t block_columns = block_tiles * tile_side;

// Numbers from -127 to 127 to the nearest integers, of two the even one; with `flip` 128 larger, without a sign.
inline void store_rounded(const Vec& numbers, bool flip, int8_t* to) {
  const int8_t sign = flip ? -128 : 0;
#ifdef CPU_CAPABILITY_AVX512
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm_xor_si128(_mm512_cvtepi32_epi8(_mm512_cvtps_epi32(numbers)), _mm_set1_epi8(sign)));
#else
  float rounded[Vec::size()];
  numbers.round().store(rounded);
  for (int64_t index = 0; index < Vec::size(); ++index) to[index] = static_cast<int8_t>(static_cast<int32_t>(rounded[index]) ^ sign);
#endif
}

// Part of some rows of float32, `stride` numbers apart.
struct Part {
  const float* numbers;
  int64_t width, stride;
};

// Rows side by side as integers, in tiles: row tile after row tile, each from left to right; and the rows' scales.
class TiledRows {
 public:
  // `parts` (N, I_1), (N, I_2), ... make rows (N, I); `smallest` is added to each row's scale, max|x| / 127. Without
  // `scaling` the numbers are as they are to be rounded. `flip` is that of the weights.
  TiledRows(const std::vector<at::Tensor>& parts, double smallest, bool flip, bool scaling = true)
      : TiledRows(parts.front().size(0), each_of(parts), smallest, flip, scaling) {}

  TiledRows(int64_t rows, const std::vector<Part>& parts, double smallest, bool flip, bool scaling = true) : count(rows) {
    for (const Part& part : parts) width += part.width;
    deep = (width + tile_depth - 1) / tile_depth;
    const int64_t row_tiles = (count + tile_side - 1) / tile_side;
    const int64_t bytes = row_tiles * deep * tile_bytes;
    at::Tensor& held = bytes + count * static_cast<int64_t>(sizeof(float)) <= kept_bytes ? kept() : own_;
    if (!held.defined()) held = at::empty({std::max(kept_bytes, bytes + count * static_cast<int64_t>(sizeof(float)))}, at::TensorOptions().dtype(at::kChar));
    integers = held.mutable_data_ptr<int8_t>();
    scales = reinterpret_cast<float*>(integers + bytes);
    for_rows(count, 2 * width, [&](int64_t row) { round(row, parts, smallest, flip, scaling); });
  }

  int64_t count = 0, width = 0, deep = 0;  // deep: tiles of a row
  int8_t* integers;                        // beyond the last row they are anything; beyond a row's width, where weights are 0, 0
  float* scales;

 private:
  static std::vector<Part> each_of(const std::vector<at::Tensor>& given) {
    std::vector<Part> parts;
    for (const at::Tensor& part : given) {
      check_rows(part, "rows");
      TORCH_CHECK(part.size(0) == given.front().size(0), "parts of rows must have the same number");
      parts.push_back({part.const_data_ptr<float>(), part.size(1), part.stride(0)});
    }
    return parts;
  }

  void round(int64_t row, const std::vector<Part>& parts, double smallest, bool flip, bool scaling) {
    scales[row] = 1.0f;
    if (scaling) {
      Vec peak(0.0f);
      for (const Part& part : parts) {
        const float* numbers = part.numbers + row * part.stride;
        for_vectors(part.width, [&](int64_t place, int64_t size) {
          peak = at::vec::maximum(peak, load(numbers + place, size).abs());
        });
      }
      scales[row] = row_scale(peak, smallest);
    }
    const Vec factor(1.0f / scales[row]);
    int8_t* tile = integers + row / tile_side * deep * tile_bytes + row % tile_side * tile_depth;
    int64_t filled = 0;  // of the row in this tile
    for (const Part& part : parts) {
      const float* numbers = part.numbers + row * part.stride;
      for_vectors(part.width, [&](int64_t place, int64_t size) {
        const Vec scaled = load(numbers + place, size) * factor;
        if (filled + Vec::size() <= tile_depth) {  // what stands behind `size` is 0, and written over by what follows
          store_rounded(scaled, flip, tile + filled);
          filled += size;
        } else {
          int8_t rounded[Vec::size()];
          store_rounded(scaled, flip, rounded);
          for (int64_t index = 0; index < size; ++index) {
            if (filled == tile_depth) tile += tile_bytes, filled = 0;
            tile[filled++] = rounded[index];
          }
        }
        if (filled == tile_depth) tile += tile_bytes, filled = 0;
      });
    }
    if (filled) std::memset(tile + filled, 0, tile_depth - filled);
  }

  // What a thread keeps for the rows of one product after another, of which it has one at a time: few rows, as a decoder's, would wait longer
  // for their memory than for their rounding.
  static constexpr int64_t kept_bytes = 1 << 18;
  static at::Tensor& kept() {
    static thread_local at::Tensor held;
    return held;
  }

  at::Tensor own_;  // of more rows
};

// Weights (O, I) of int8 in tiles, in blocks of four tiles of columns: the next 64 outputs, or, if they are the `gates`
// of an LSTM, all four of its next 16 units.
class TiledWeights {
 public:
  TiledWeights(const at::Tensor& weight, const at::Tensor& scale, const at::Tensor& bias, bool gates, Unit unit)
      : gates(gates), flip(unit != Unit::amx && unit != Unit::plain), unit_(unit) {
    TORCH_CHECK(weight.dim() == 2 && weight.scalar_type() == at::kChar && weight.is_contiguous(), "weights must be (O, I) int8");
    outputs = weight.size(0), inputs = weight.size(1);
    check(scale, "scale", 1);
    check(bias, "bias", 1);
    TORCH_CHECK(scale.size(0) == outputs && bias.size(0) == outputs, "scale or bias do not fit the weights");
    deep_ = (inputs + tile_depth - 1) / tile_depth;
    TORCH_CHECK(!gates || outputs % block_tiles == 0, "there must be four gates");
    const int64_t each = gates ? tile_side : block_columns, all = gates ? outputs / block_tiles : outputs;
    blocks_ = (all + each - 1) / each;
    integers_ = at::zeros({blocks_ * block_tiles * deep_ * tile_bytes}, weight.options());
    scales_ = at::zeros({blocks_ * block_columns}, scale.options());
    biases_ = at::zeros({blocks_ * block_columns}, scale.options());
    starts_ = at::zeros({blocks_ * block_columns}, scale.options().dtype(at::kInt));
    scale_ = scales_.mutable_data_ptr<float>(), bias_ = biases_.mutable_data_ptr<float>(), start_ = starts_.mutable_data_ptr<int32_t>();
    for (int64_t block = 0; block < blocks_; ++block) {
      for (int64_t number = 0; number < block_tiles; ++number) {
        const Columns columns = place(block, number);
        for (int64_t depth = 0; depth < deep_; ++depth) pack(weight, block, number, depth, columns);
        for (int64_t column = 0; flip && column < columns.count; ++column) {
          const int8_t* mine = weight.const_data_ptr<int8_t>() + (columns.first + column) * inputs;
          start_[block * block_columns + number * tile_side + column] = -128 * std::accumulate(mine, mine + inputs, int32_t{0});
        }
        std::copy_n(scale.const_data_ptr<float>() + columns.first, columns.count, scale_ + block * block_columns + number * tile_side);
        std::copy_n(bias.const_data_ptr<float>() + columns.first, columns.count, bias_ + block * block_columns + number * tile_side);
      }
    }
  }

  struct Columns {
    int64_t first, count;
  };

  // Of a block, the outputs that a tile stands for.
  Columns place(int64_t block, int64_t number) const {
    const int64_t units = outputs / block_tiles, unit = block * tile_side;
    if (gates) return {number * units + unit, std::min(tile_side, units - unit)};
    const int64_t first = block * block_columns + number * tile_side;
    return {first, std::clamp<int64_t>(outputs - first, 0, tile_side)};
  }

  // Of the 64 columns of a block.
  const float* scales(int64_t block) const { return scale_ + block * block_columns; }
  const float* biases(int64_t block) const { return bias_ + block * block_columns; }

  // Calls finish(block, first row, rows, sums) for each block and each two tiles of rows; sums(tile of rows, tile of
  // columns) has 16 x 16.
  template <typename Finish>
  void multiply(const TiledRows& rows, const Finish& finish) const {
    TORCH_CHECK(rows.width == inputs, "there are ", rows.width, " numbers in a row, not ", inputs);
    if (rows.count == 0) return;
    const int64_t taller = 2 * tile_side, pairs = (rows.count + taller - 1) / taller;
    // A block of weights has as many bytes, which one core reads at some 20 a nanosecond.
    const int64_t grain = std::max<int64_t>(1, 4 * worth_a_thread / (block_columns * deep_ * tile_depth * pairs));
    const int8_t* weights = integers_.const_data_ptr<int8_t>();
    at::parallel_for(0, blocks_, grain, [&](int64_t begin, int64_t end) {
      const TileConfiguration configured(unit_ == Unit::amx);
      Sums sums;
      for (int64_t block = begin; block < end; ++block) {
        for (int64_t first = 0; first < rows.count; first += taller) {
          const int64_t count = std::min(taller, rows.count - first);
          const int8_t* left = rows.integers + first / tile_side * deep_ * tile_bytes;
          for (int64_t half = 0; half < 2; ++half) {
            const int8_t* right = weights + (2 * block + half) * 2 * deep_ * tile_bytes;
            multiply(left, count, right, start_ + block * block_columns + 2 * half * tile_side, sums.halves[half]);
          }
          finish(block, first, count, sums);
        }
      }
    });
  }

  struct Sums {
    alignas(64) int32_t halves[2][4 * tile_sums];

    // Those of a tile of rows, the first or the second, with a tile of columns.
    const int32_t* of(int64_t high, int64_t number) const { return halves[number / 2] + (2 * high + number % 2) * tile_sums; }
  };

  int64_t outputs, inputs;
  const bool gates, flip;  // flip: rows must be 128 larger

 private:
  // Sums of up to 32 rows with half a block.
  void multiply(const int8_t* rows, int64_t count, const int8_t* weights, const int32_t* start, int32_t* sums) const {
    const bool second = count > tile_side;
    switch (unit_) {
#ifdef __AMX_INT8__
      case Unit::amx:
        return second ? multiply_in_tiles<true>(rows, weights, deep_, sums) : multiply_in_tiles<false>(rows, weights, deep_, sums);
#endif
#ifdef CPU_CAPABILITY_AVX512
      case Unit::vnni:
        return multiply_in_vectors<Vnni>(rows, count, weights, deep_, start, sums);
      case Unit::avx512:
        return multiply_in_vectors<Avx512>(rows, count, weights, deep_, start, sums);
#elif defined(CPU_CAPABILITY_AVX2)
      case Unit::avx2:
        return multiply_in_vectors<Avx2>(rows, count, weights, deep_, start, sums);
#endif
      default:
        return multiply_plainly(rows, second, weights, deep_, sums);
    }
  }

  // One tile, in which four integers of a column stand together, line by line; for vectors the lines of two tiles in turn. A shortlist's weights
  // are packed for each batch.
  void pack(const at::Tensor& weight, int64_t block, int64_t number, int64_t depth, const Columns& columns) {
    int8_t* half = integers_.mutable_data_ptr<int8_t>() + (2 * block + number / 2) * 2 * deep_ * tile_bytes;
    const int64_t line = flip ? pair_line : tile_depth;
    int8_t* tile = half + 2 * depth * tile_bytes + number % 2 * (flip ? tile_depth : tile_bytes);
    const int64_t width = std::min(tile_depth, inputs - depth * tile_depth);
    const int8_t* from = weight.const_data_ptr<int8_t>() + columns.first * inputs + depth * tile_depth;
    for (int64_t place = 0; place < width; place += 4) {
      int8_t* to = tile + place / 4 * line;
      if (width - place >= 4) {
        for (int64_t column = 0; column < columns.count; ++column) std::memcpy(to + 4 * column, from + column * inputs + place, 4);
      } else {
        for (int64_t column = 0; column < columns.count; ++column) std::copy_n(from + column * inputs + place, width - place, to + 4 * column);
      }
    }
  }

  const Unit unit_;
  int64_t deep_, blocks_;
  at::Tensor integers_, scales_, biases_, starts_;
  float *scale_, *bias_;
  int32_t* start_;
};

// Sums of integers times their columns' scales.
inline Vec scaled(const int32_t* sums, const Vec& scales) {
  return at::vec::convert<float>(at::vec::Vectorized<int32_t>::loadu(sums)) * scales;
}

}  // namespace ferry
