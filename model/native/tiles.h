// Products of int8 in the tiles of AMX: 16 rows of activations and 16 columns of weights, 64 integers deep, make 256
// sums in 16 cycles (Intel, Software Developer's Manual, volume 2: TDPBSSD). What is done before and after a product is
// done here as well, so that neither rounded rows nor sums pass through memory.
//
// A processor without AMX takes the same steps in plain loops: for tests, since it has better kernels.
#pragma once

#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "layers.h"

#ifdef __AMX_INT8__
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace ferry {

constexpr int64_t tile_side = 16;                        // rows of a tile of activations, columns of one of weights
constexpr int64_t tile_depth = 64;                       // integers of a row
constexpr int64_t tile_bytes = tile_side * tile_depth;
constexpr int64_t tile_sums = tile_side * tile_side;
constexpr int64_t block_tiles = 4;                       // tiles of columns that are finished together
constexpr int64_t block_columns = block_tiles * tile_side;

// Whether this processor has the tiles and the kernel lets this process use them.
inline bool has_tiles() {
#ifdef __AMX_INT8__
  static const bool granted = [] {
    constexpr long request = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return __builtin_cpu_supports("amx-int8") && syscall(SYS_arch_prctl, request, tile_data) == 0;
  }();
  return granted;
#else
  return false;
#endif
}

// Sums of one or two tiles of rows times two tiles of columns over `deep` tiles: for each tile of rows the 256 of the
// first columns, then those of the second. Tiles of rows are `deep` tiles apart.
inline void multiply_plainly(const int8_t* rows, bool second, const int8_t* weights, int64_t deep, int32_t* sums) {
  std::memset(sums, 0, (second ? 4 : 2) * tile_sums * sizeof(int32_t));
  for (int64_t high = 0; high <= static_cast<int64_t>(second); ++high) {
    for (int64_t step = 0; step < deep; ++step) {
      for (int64_t right = 0; right < 2; ++right) {
        const int8_t* left_tile = rows + (high * deep + step) * tile_bytes;
        const int8_t* right_tile = weights + (2 * step + right) * tile_bytes;
        int32_t* mine = sums + (2 * high + right) * tile_sums;
        for (int64_t row = 0; row < tile_side; ++row) {
          for (int64_t place = 0; place < tile_depth; ++place) {
            const int32_t factor = left_tile[row * tile_depth + place];
            const int8_t* quads = right_tile + place / 4 * tile_depth + place % 4;
            for (int64_t column = 0; column < tile_side; ++column) mine[row * tile_side + column] += factor * quads[4 * column];
          }
        }
      }
    }
  }
}

#ifdef __AMX_INT8__
template <bool second>
inline void multiply_in_tiles(const int8_t* rows, const int8_t* weights, int64_t deep, int32_t* sums) {
  _tile_zero(0);
  _tile_zero(1);
  if constexpr (second) {
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int64_t step = 0; step < deep; ++step) {
    _tile_loadd(4, rows + step * tile_bytes, tile_depth);
    _tile_loadd(6, weights + 2 * step * tile_bytes, tile_depth);
    _tile_loadd(7, weights + (2 * step + 1) * tile_bytes, tile_depth);
    _tile_dpbssd(0, 4, 6);
    _tile_dpbssd(1, 4, 7);
    if constexpr (second) {
      _tile_loadd(5, rows + (deep + step) * tile_bytes, tile_depth);
      _tile_dpbssd(2, 5, 6);
      _tile_dpbssd(3, 5, 7);
    }
  }
  _tile_stored(0, sums, tile_depth);
  _tile_stored(1, sums + tile_sums, tile_depth);
  if constexpr (second) {
    _tile_stored(2, sums + 2 * tile_sums, tile_depth);
    _tile_stored(3, sums + 3 * tile_sums, tile_depth);
  }
}
#endif

// All eight tiles at their full size, for the calling thread while this lives.
class TileConfiguration {
 public:
  explicit TileConfiguration(bool tiles) : tiles_(tiles) {
#ifdef __AMX_INT8__
    if (!tiles_) return;
    struct alignas(64) {
      uint8_t palette = 1, start = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {};
      uint8_t rows[16] = {};
    } wanted;
    std::fill_n(wanted.row_bytes, 8, tile_depth);
    std::fill_n(wanted.rows, 8, tile_side);
    _tile_loadconfig(&wanted);
#endif
  }
  ~TileConfiguration() {
#ifdef __AMX_INT8__
    if (tiles_) _tile_release();  // or each switch of threads would save 8 KB
#endif
  }
  TileConfiguration(const TileConfiguration&) = delete;
  TileConfiguration& operator=(const TileConfiguration&) = delete;

 private:
  const bool tiles_;
};

// Numbers from -127 to 127 to the nearest integers, of two the even one.
inline void store_rounded(const Vec& numbers, int8_t* to) {
#ifdef CPU_CAPABILITY_AVX512
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(numbers)));
#else
  float rounded[Vec::size()];
  numbers.round().store(rounded);
  for (int64_t index = 0; index < Vec::size(); ++index) to[index] = static_cast<int8_t>(static_cast<int32_t>(rounded[index]));
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
  // `scaling` the numbers are as they are to be rounded.
  TiledRows(const std::vector<at::Tensor>& parts, double smallest, bool scaling = true)
      : TiledRows(parts.front().size(0), each_of(parts), smallest, scaling) {}

  TiledRows(int64_t rows, const std::vector<Part>& parts, double smallest, bool scaling = true) : count(rows) {
    for (const Part& part : parts) width += part.width;
    deep = (width + tile_depth - 1) / tile_depth;
    const int64_t row_tiles = (count + tile_side - 1) / tile_side;
    const int64_t bytes = row_tiles * deep * tile_bytes;
    at::Tensor& held = bytes + count * static_cast<int64_t>(sizeof(float)) <= kept_bytes ? kept() : own_;
    if (!held.defined()) held = at::empty({std::max(kept_bytes, bytes + count * static_cast<int64_t>(sizeof(float)))}, at::TensorOptions().dtype(at::kChar));
    integers = held.mutable_data_ptr<int8_t>();
    scales = reinterpret_cast<float*>(integers + bytes);
    for_rows(count, 2 * width, [&](int64_t row) { round(row, parts, smallest, scaling); });
  }

  int64_t count = 0, width = 0, deep = 0;  // deep: tiles of a row
  int8_t* integers;                        // beyond the last row they are anything
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

  void round(int64_t row, const std::vector<Part>& parts, double smallest, bool scaling) {
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
          store_rounded(scaled, tile + filled);
          filled += size;
        } else {
          int8_t rounded[Vec::size()];
          store_rounded(scaled, rounded);
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
  TiledWeights(const at::Tensor& weight, const at::Tensor& scale, const at::Tensor& bias, bool gates) : gates(gates) {
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
    scale_ = scales_.mutable_data_ptr<float>(), bias_ = biases_.mutable_data_ptr<float>();
    for (int64_t block = 0; block < blocks_; ++block) {
      for (int64_t number = 0; number < block_tiles; ++number) {
        const Columns columns = place(block, number);
        for (int64_t depth = 0; depth < deep_; ++depth) pack(weight, block, number, depth, columns);
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
    const bool tiles = has_tiles();
    const int8_t* weights = integers_.const_data_ptr<int8_t>();
    at::parallel_for(0, blocks_, grain, [&](int64_t begin, int64_t end) {
      const TileConfiguration configured(tiles);
      Sums sums;
      for (int64_t block = begin; block < end; ++block) {
        for (int64_t first = 0; first < rows.count; first += taller) {
          const bool second = rows.count - first > tile_side;
          const int8_t* left = rows.integers + first / tile_side * deep_ * tile_bytes;
          for (int64_t half = 0; half < 2; ++half) {
            const int8_t* right = weights + (2 * block + half) * 2 * deep_ * tile_bytes;
#ifdef __AMX_INT8__
            if (tiles) {
              (second ? multiply_in_tiles<true> : multiply_in_tiles<false>)(left, right, deep_, sums.halves[half]);
              continue;
            }
#endif
            multiply_plainly(left, second, right, deep_, sums.halves[half]);
          }
          finish(block, first, std::min(taller, rows.count - first), sums);
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
  const bool gates;

 private:
  // One tile, in which four integers of a column stand together; a shortlist's weights are packed for each batch.
  void pack(const at::Tensor& weight, int64_t block, int64_t number, int64_t depth, const Columns& columns) {
    int8_t* half = integers_.mutable_data_ptr<int8_t>() + (2 * block + number / 2) * 2 * deep_ * tile_bytes;
    int8_t* tile = half + (2 * depth + number % 2) * tile_bytes;
    const int64_t width = std::min(tile_depth, inputs - depth * tile_depth);
    const int8_t* from = weight.const_data_ptr<int8_t>() + columns.first * inputs + depth * tile_depth;
    for (int64_t place = 0; place < width; place += 4) {
      int8_t* to = tile + place * tile_side;
      if (width - place >= 4) {
        for (int64_t column = 0; column < columns.count; ++column) std::memcpy(to + 4 * column, from + column * inputs + place, 4);
      } else {
        for (int64_t column = 0; column < columns.count; ++column) std::copy_n(from + column * inputs + place, width - place, to + 4 * column);
      }
    }
  }

  int64_t deep_, blocks_;
  at::Tensor integers_, scales_, biases_;
  float *scale_, *bias_;
};

// Sums of integers times their columns' scales.
inline Vec scaled(const int32_t* sums, const Vec& scales) {
  return at::vec::convert<float>(at::vec::Vectorized<int32_t>::loadu(sums)) * scales;
}

}  // namespace ferry
