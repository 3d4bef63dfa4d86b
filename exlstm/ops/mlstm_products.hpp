// Small dense products on tiles that stay in the cache, for the chunks of the mLSTM.
//
// Every matrix is row-major in a buffer of its own, padded with zeros to whole vectors in its rows
// and to whole tiles in its number of rows, so that no product has an edge. Sums run in one fixed
// order per element, so results depend on nothing but the inputs.
#pragma once

#include "cpu.hpp"

namespace exlstm::mlstm {

// A tile of the result is kept in registers: ROWS x 2 vectors. Instruction sets with vectors of 64
// bytes have 32 registers, the others as few as 16.
constexpr int64_t ROWS = EXLSTM_VECTOR_BYTES == 64 ? 8 : 4;

inline int64_t round_up(int64_t x, int64_t to) { return (x + to - 1) / to * to; }

// Elements from one row to the next: an odd number of cache lines, so that a column of vectors does
// not fall on a few sets of the cache.
template <typename S>
int64_t row_stride(int64_t columns) {
    const int64_t lines = round_up(columns * static_cast<int64_t>(sizeof(S)), 64) / 64 | 1;
    return lines * 64 / static_cast<int64_t>(sizeof(S));
}

// Which part of a causal product is there to compute; rows, columns and depth count time steps.
enum class Part {
    all,
    lower,       // of the result, only what is on and below the diagonal (in whole tiles)
    lower_left,  // the left factor has nothing above its diagonal
    upper_left,  // the left factor (transposed) has nothing below its diagonal
};

// c = a b (+ c) for one tile; `a` as it lies in memory, or transposed.
template <typename S, int64_t COLUMNS, bool TRANSPOSED>
inline void tile(const S* a, int64_t a_stride, const S* b, int64_t b_stride, S* c, int64_t c_stride,
                 int64_t depth, bool add) {
    constexpr int64_t W = lanes<S>;
    Vec<S> total[ROWS][COLUMNS];
#pragma GCC unroll 8
    for (int64_t r = 0; r < ROWS; ++r)
#pragma GCC unroll 2
        for (int64_t x = 0; x < COLUMNS; ++x)
            total[r][x] = add ? load(c + r * c_stride + x * W) : Vec<S>{};
    for (int64_t d = 0; d < depth; ++d) {
        Vec<S> right[COLUMNS];
#pragma GCC unroll 2
        for (int64_t x = 0; x < COLUMNS; ++x) right[x] = load(b + d * b_stride + x * W);
#pragma GCC unroll 8
        for (int64_t r = 0; r < ROWS; ++r) {
            const S left = TRANSPOSED ? a[d * a_stride + r] : a[r * a_stride + d];
#pragma GCC unroll 2
            for (int64_t x = 0; x < COLUMNS; ++x) total[r][x] += left * right[x];
        }
    }
#pragma GCC unroll 8
    for (int64_t r = 0; r < ROWS; ++r)
#pragma GCC unroll 2
        for (int64_t x = 0; x < COLUMNS; ++x) store(c + r * c_stride + x * W, total[r][x]);
}

// All tiles of one or two vectors' width: `b` and `c` point at column `first`.
template <typename S, int64_t COLUMNS, bool TRANSPOSED, Part PART>
void panel(int64_t rows, int64_t depth, const S* a, int64_t a_stride, const S* b, int64_t b_stride,
           S* c, int64_t c_stride, int64_t first, bool add) {
    for (int64_t r = 0; r < rows; r += ROWS) {
        if (PART == Part::lower && first >= r + ROWS) continue;
        const int64_t from = PART == Part::upper_left ? r : 0;
        const int64_t to = PART == Part::lower_left && r + ROWS < depth ? r + ROWS : depth;
        const S* left = TRANSPOSED ? a + from * a_stride + r : a + r * a_stride + from;
        tile<S, COLUMNS, TRANSPOSED>(left, a_stride, b + from * b_stride, b_stride,
                                     c + r * c_stride, c_stride, to - from, add);
    }
}

// c = a b, or c += a b, with `a` transposed or not: `rows` in whole tiles, `columns` in vectors.
template <typename S, bool TRANSPOSED, Part PART = Part::all>
void product(int64_t rows, int64_t columns, int64_t depth, const S* a, int64_t a_stride, const S* b,
             int64_t b_stride, S* c, int64_t c_stride, bool add) {
    constexpr int64_t W = lanes<S>;
    int64_t x = 0;
    for (; x + 2 * W <= columns; x += 2 * W)
        panel<S, 2, TRANSPOSED, PART>(rows, depth, a, a_stride, b + x, b_stride, c + x, c_stride, x,
                                  add);
    if (x < columns)
        panel<S, 1, TRANSPOSED, PART>(rows, depth, a, a_stride, b + x, b_stride, c + x, c_stride, x,
                                  add);
}

template <typename S, std::size_t... LANE>
inline void interleave(Vec<S> a, Vec<S> b, Vec<S>& low, Vec<S>& high,
                       std::index_sequence<LANE...>) {
    constexpr int W = sizeof...(LANE);
    low = __builtin_shufflevector(a, b, (LANE % 2 ? W + int(LANE) / 2 : int(LANE) / 2)...);
    high = __builtin_shufflevector(a, b, (LANE % 2 ? W + int(W + LANE) / 2 : int(W + LANE) / 2)...);
}

// A square of one vector's width, transposed. Each round moves one bit of the row number into the
// column number, so after as many rounds as they have bits the two have changed places.
template <typename S>
inline void transpose_square(const S* from, int64_t from_stride, S* to, int64_t to_stride) {
    constexpr int64_t W = lanes<S>;
    Vec<S> x[W];
#pragma GCC unroll 16
    for (int64_t r = 0; r < W; ++r) x[r] = load(from + r * from_stride);
#pragma GCC unroll 4
    for (int64_t round = 1; round < W; round *= 2) {
        Vec<S> y[W];
#pragma GCC unroll 8
        for (int64_t r = 0; r < W / 2; ++r)
            interleave<S>(x[r], x[r + W / 2], y[2 * r], y[2 * r + 1],
                          std::make_index_sequence<W>());
#pragma GCC unroll 16
        for (int64_t r = 0; r < W; ++r) x[r] = y[r];
    }
#pragma GCC unroll 16
    for (int64_t r = 0; r < W; ++r) store(to + r * to_stride, x[r]);
}

// c = a b', or its lower part: the right factor is transposed panel by panel into `scratch`, which
// holds 2 vectors for each of `depth` rounded up to whole vectors.
template <typename S, Part PART = Part::all>
void product_with_transpose(int64_t rows, int64_t columns, int64_t depth, const S* a,
                            int64_t a_stride, const S* b, int64_t b_stride, S* c, int64_t c_stride,
                            S* scratch) {
    constexpr int64_t W = lanes<S>;
    for (int64_t x = 0; x < columns; x += 2 * W) {
        const int64_t width = columns - x < 2 * W ? W : 2 * W;
        for (int64_t y = 0; y < width; y += W)
            for (int64_t d = 0; d < depth; d += W)
                transpose_square(b + (x + y) * b_stride + d, b_stride,
                                 scratch + d * width + y, width);
        if (width == W)
            panel<S, 1, false, PART>(rows, depth, a, a_stride, scratch, W, c + x, c_stride, x,
                                     false);
        else
            panel<S, 2, false, PART>(rows, depth, a, a_stride, scratch, 2 * W, c + x, c_stride, x,
                                     false);
    }
}

// The sum of the products of two rows of whole vectors.
template <typename S>
inline S dot(const S* a, const S* b, int64_t size) {
    Vec<S> total{};
    for (int64_t x = 0; x < size; x += lanes<S>) total += load(a + x) * load(b + x);
    return exlstm::sum(total);
}

// A row of whole vectors times a factor, or plus another one times a factor.
template <typename S>
inline void scale_row(S* row, S factor, int64_t size) {
    for (int64_t x = 0; x < size; x += lanes<S>) store(row + x, load(row + x) * factor);
}

template <typename S>
inline void add_row(S* row, const S* other, S factor, int64_t size) {
    for (int64_t x = 0; x < size; x += lanes<S>)
        store(row + x, load(row + x) + load(other + x) * factor);
}

// Copy rows that lie `from_stride` apart, times `scale`, and fill up with zeros.
template <typename S>
void pack(const S* from, int64_t from_stride, int64_t rows, int64_t columns, S scale, S* to,
          int64_t to_stride, int64_t all_rows) {
    for (int64_t r = 0; r < rows; ++r, to += to_stride, from += from_stride) {
        for (int64_t x = 0; x < columns; ++x) to[x] = scale * from[x];
        std::memset(to + columns, 0, sizeof(S) * (to_stride - columns));
    }
    std::memset(to, 0, sizeof(S) * to_stride * (all_rows - rows));
}

// Rows lie too far apart for the processor to see them coming.
template <typename S>
void prefetch_rows(const S* from, int64_t stride, int64_t rows, int64_t columns) {
    for (int64_t r = 0; r < rows; ++r, from += stride)
        for (int64_t x = 0; x < columns; x += 64 / static_cast<int64_t>(sizeof(S)))
            __builtin_prefetch(from + x, 0, 2);
}

// Copy rows back, times `scale`.
template <typename S>
void unpack(const S* from, int64_t from_stride, int64_t rows, int64_t columns, S scale, S* to,
            int64_t to_stride) {
    for (int64_t r = 0; r < rows; ++r, from += from_stride, to += to_stride)
        for (int64_t x = 0; x < columns; ++x) to[x] = scale * from[x];
}

}  // namespace exlstm::mlstm
