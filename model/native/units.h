// Products of int8 in tiles: 16 rows of activations and 16 columns of weights, 64 integers deep, make 256 sums; by what the
// processor has for them.
//
// AMX takes 16 cycles for a tile (Intel, Software Developer's Manual, volume 2: TDPBSSD). Processors without it multiply
// a line of a tile of weights, which has four integers of each of its columns, by four integers of a row, in vectors:
// one instruction adds the products up where there is VNNI (VPDPBUSD), three do elsewhere (VPMADDUBSW, whose sums of two
// fit in 16 bits because weights have seven). Both want activations without a sign: theirs are 128 larger, and
// their sums begin at what that makes too much.
#pragma once

#include <c10/util/Exception.h>
#include <c10/util/StringUtil.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#if defined(CPU_CAPABILITY_AVX512) || defined(CPU_CAPABILITY_AVX2)
#include <immintrin.h>
#endif
#ifdef __AMX_INT8__
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace ferry {

constexpr int64_t tile_side = 16;   // rows of a tile of activations, columns of one of weights
constexpr int64_t tile_depth = 64;  // integers of a row
constexpr int64_t tile_bytes = tile_side * tile_depth;
constexpr int64_t tile_sums = tile_side * tile_side;
constexpr int64_t pair_line = 2 * tile_depth;  // bytes from one line of two tiles to the next, where their lines stand in turn

// What multiplies.
enum class Unit { amx, vnni, avx512, avx2, plain };

constexpr const char* unit_names[] = {"amx", "avx512_vnni", "avx512", "avx2", "plain"};

// Whether this processor has the tiles and the kernel lets this process use them.
inline bool has_amx() {
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

// Those of this processor, the fastest first; the last are plain loops, which are for tests.
inline std::vector<Unit> found_units() {
  std::vector<Unit> found;
  if (has_amx()) found.push_back(Unit::amx);
#ifdef CPU_CAPABILITY_AVX512
  if (__builtin_cpu_supports("avx512vnni")) found.push_back(Unit::vnni);
  found.push_back(Unit::avx512);
#elif defined(CPU_CAPABILITY_AVX2)
  found.push_back(Unit::avx2);
#endif
  found.push_back(Unit::plain);
  return found;
}

inline std::vector<std::string> int8_units() {
  std::vector<std::string> names;
  for (const Unit unit : found_units()) names.emplace_back(unit_names[static_cast<int>(unit)]);
  return names;
}

inline Unit unit_of(const std::string& name) {
  for (const Unit unit : found_units()) {
    if (name == unit_names[static_cast<int>(unit)]) return unit;
  }
  TORCH_CHECK(false, "this processor has no unit ", name, "; it has ", c10::Join(", ", int8_units()));
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

// Vectors of sums, a column each: `add` adds to them the products of four integers of a row, without a sign, with a column's four.
#if defined(CPU_CAPABILITY_AVX512) || defined(CPU_CAPABILITY_AVX2)
#ifdef CPU_CAPABILITY_AVX512
struct WideVector {
  using Sums = __m512i;
  static constexpr int rows = 8, most = 12;  // at once: with two vectors each, half of the registers; of the last of a tile
  static Sums load(const void* from) { return _mm512_loadu_si512(from); }
  static Sums repeat(int32_t four) { return _mm512_set1_epi32(four); }
  static void store(const Sums& sums, int32_t* to) { _mm512_storeu_si512(to, sums); }
};

struct Vnni : WideVector {
  // By its name: the library is for processors without it as well, and a function that may use it would not be inlined.
  static Sums add(Sums sums, const Sums& four, const Sums& weights) {
    asm("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(four), "v"(weights));
    return sums;
  }
};

struct Avx512 : WideVector {
  static Sums add(const Sums& sums, const Sums& four, const Sums& weights) {
    return _mm512_add_epi32(sums, _mm512_madd_epi16(_mm512_maddubs_epi16(four, weights), _mm512_set1_epi16(1)));
  }
};
#else
struct Avx2 {
  using Sums = __m256i;
  static constexpr int rows = 4, most = 5;
  static Sums load(const void* from) { return _mm256_loadu_si256(static_cast<const __m256i*>(from)); }
  static Sums repeat(int32_t four) { return _mm256_set1_epi32(four); }
  static void store(const Sums& sums, int32_t* to) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), sums); }
  static Sums add(const Sums& sums, const Sums& four, const Sums& weights) {
    return _mm256_add_epi32(sums, _mm256_madd_epi16(_mm256_maddubs_epi16(four, weights), _mm256_set1_epi16(1)));
  }
};
#endif

// Of weights, from where they are multiplied to where they are asked for: few rows are done before a processor reads ahead by itself.
constexpr int64_t read_ahead = 4096;

// Adds to `first` the products of some rows of a tile with two vectors of columns, `apart` bytes from each other, over `deep` tiles.
template <typename Vector, int rows>
inline void multiply_rows(const int8_t* left, const int8_t* right, int64_t apart, int64_t deep, const int32_t* first, int32_t* sums, int64_t sums_apart) {
  constexpr int64_t columns = sizeof(typename Vector::Sums) / sizeof(int32_t);
  // Each row's line written out: in a loop the compiler would not keep an array's places in registers.
  [&]<size_t... row>(std::index_sequence<row...>) {
    typename Vector::Sums near[] = {(static_cast<void>(row), Vector::load(first))...};
    typename Vector::Sums far[] = {(static_cast<void>(row), Vector::load(first + columns))...};
    for (int64_t step = 0; step < deep; ++step, left += tile_bytes, right += 2 * tile_bytes) {
      for (int64_t place = 0; place < tile_depth; place += 4) {
        const int8_t* line = right + place / 4 * pair_line;
        _mm_prefetch(reinterpret_cast<const char*>(line + read_ahead), _MM_HINT_T0);
        if (apart == tile_depth) _mm_prefetch(reinterpret_cast<const char*>(line + apart + read_ahead), _MM_HINT_T0);
        const auto weights = Vector::load(line), more = Vector::load(line + apart);
        const auto add = [&](const int8_t* numbers, typename Vector::Sums& near_sums, typename Vector::Sums& far_sums) {
          int32_t four;
          std::memcpy(&four, numbers + place, sizeof four);
          const auto repeated = Vector::repeat(four);
          near_sums = Vector::add(near_sums, repeated, weights);
          far_sums = Vector::add(far_sums, repeated, more);
        };
        (add(left + row * tile_depth, near[row], far[row]), ...);
      }
    }
    ((Vector::store(near[row], sums + row * tile_side), Vector::store(far[row], sums + row * tile_side + sums_apart)), ...);
  }(std::make_index_sequence<rows>());
}

// The same for up to Vector::most of them.
template <typename Vector, int most = Vector::most>
inline void multiply_up_to(int64_t rows, const int8_t* left, const int8_t* right, int64_t apart, int64_t deep, const int32_t* first, int32_t* sums, int64_t sums_apart) {
  if constexpr (most > 1) {
    if (rows < most) return multiply_up_to<Vector, most - 1>(rows, left, right, apart, deep, first, sums, sums_apart);
  }
  multiply_rows<Vector, most>(left, right, apart, deep, first, sums, sums_apart);
}

// Sums of `count` rows in one or two tiles, as multiply_plainly has them, with two tiles of columns, whose sums begin at `first`.
template <typename Vector>
inline void multiply_in_vectors(const int8_t* rows, int64_t count, const int8_t* weights, int64_t deep, const int32_t* first, int32_t* sums) {
  constexpr int64_t columns = sizeof(typename Vector::Sums) / sizeof(int32_t);
  constexpr bool both = columns == tile_side;  // a vector holds a tile's columns, or half of them
  for (int64_t high = 0; high * tile_side < count; ++high) {
    const int64_t filled = std::min(tile_side, count - high * tile_side);
    for (int64_t row = 0, size; row < filled; row += size) {
      size = filled - row <= Vector::most ? filled - row : Vector::rows;
      const int8_t* left = rows + high * deep * tile_bytes + row * tile_depth;
      int32_t* mine = sums + 2 * high * tile_sums + row * tile_side;
      for (int64_t right = 0; right < (both ? 1 : 2); ++right) {
        multiply_up_to<Vector>(
            size, left, weights + right * tile_depth, both ? tile_depth : tile_depth / 2, deep, first + right * tile_side, mine + right * tile_sums,
            both ? tile_sums : columns);
      }
    }
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

}  // namespace ferry
