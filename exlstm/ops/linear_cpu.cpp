// A linear map of few rows whose weights are stored as int8, bfloat16 or float32: y = x w^T times a
// scale per output. Time goes into reading the weights, once; they become float32 on the way into registers.
//
// A vector of 32-bit words holds 4 int8, 2 bfloat16 or 1 float32 weights in each lane (the first in the lowest
// bits), and shifts alone make them vectors of every fourth or every second weight. The inputs are
// put into that order first: x of lane l and part p of a group is x[l * parts + p].
#include "cpu.hpp"

namespace exlstm::linear {
namespace {

constexpr int64_t OUTPUTS = 8, ROWS = 2;  // a tile; its sums stay in registers

using Words = VectorOf<float>::ints;

template <typename W>
constexpr int64_t parts = 4 / sizeof(W);
template <typename W>
constexpr int64_t group = parts<W> * lanes<float>;  // weights in a vector

template <typename W>
EXLSTM_INLINE Words load_words(const W* w, int64_t n = group<W>) {
    Words words{};
    std::memcpy(&words, w, n < group<W> ? n * sizeof(W) : sizeof words);
    return words;
}

template <typename W>
EXLSTM_INLINE Vec<float> part_of(Words words, int64_t part) {
    if constexpr (sizeof(W) == 1) {
        return __builtin_convertvector((words << (24 - 8 * part)) >> 24, Vec<float>);
    } else if constexpr (sizeof(W) == 2) {  // a bfloat16 is the upper half of a float
        return bits<Vec<float>>((words >> (16 * part)) << 16);
    } else {
        return bits<Vec<float>>(words);
    }
}

template <typename W>
struct Linear {
    int64_t rows, in, out;
    const float* x;      // rows, in
    const W* w;          // out, in
    const float* scale;  // out, or null for ones
    float* y;            // rows, out

    int64_t padded() const { return (in + group<W> - 1) / group<W> * group<W>; }
};

// Outputs from n on for rows from r on, with x in order. A sum has one order, whatever the tile.
template <int64_t N, int64_t R, typename W>
void tile(const Linear<W>& a, const float* x, int64_t n, int64_t r) {
    Vec<float> sums[N][R] = {};
    const W* w = a.w + n * a.in;
    const int64_t padded = a.padded();
    x += r * padded;
    const auto add = [&](int64_t k, int64_t count) __attribute__((always_inline)) {
#pragma GCC unroll 8
        for (int64_t j = 0; j < N; ++j) {
            const Words words = load_words(w + j * a.in + k, count);
            __builtin_prefetch(w + (j + N) * a.in + k);
#pragma GCC unroll 4
            for (int64_t p = 0; p < parts<W>; ++p) {
                const Vec<float> weights = part_of<W>(words, p);
                const float* values = x + k + p * lanes<float>;
#pragma GCC unroll 4
                for (int64_t i = 0; i < R; ++i) sums[j][i] += weights * load(values + i * padded);
            }
        }
    };
    int64_t k = 0;
    for (; k + group<W> <= a.in; k += group<W>) add(k, group<W>);
    if (k < a.in) add(k, a.in - k);
    for (int64_t j = 0; j < N; ++j) {
        const float scale = a.scale ? a.scale[n + j] : 1.0f;
        for (int64_t i = 0; i < R; ++i) a.y[(r + i) * a.out + n + j] = scale * sum(sums[j][i]);
    }
}

template <int64_t N, typename W>
void all_rows(const Linear<W>& a, const float* x, int64_t n) {
    int64_t r = 0;
    for (; r + ROWS <= a.rows; r += ROWS) tile<N, ROWS>(a, x, n, r);
    for (; r < a.rows; ++r) tile<N, 1>(a, x, n, r);
}

template <typename W>
void forward(Threads threads, const Linear<W>& a) {
    const Scratch<float> x(a.rows * a.padded());
    for (int64_t r = 0; r < a.rows; ++r) {
        for (int64_t k = 0; k < a.in; ++k) {
            const int64_t place = k % group<W>;
            const int64_t to = place % parts<W> * lanes<float> + place / parts<W>;
            x[r * a.padded() + k - place + to] = a.x[r * a.in + k];
        }
    }
    if (a.rows * a.in * a.out < 1 << 16) threads.count = 1;  // a second would take longer to wake
    threads.run((a.out + OUTPUTS - 1) / OUTPUTS, [&](int64_t task) {
        int64_t n = task * OUTPUTS;
        if (n + OUTPUTS <= a.out) return all_rows<OUTPUTS>(a, x, n);
        for (; n < a.out; ++n) all_rows<1>(a, x, n);
    });
}

}  // namespace
}  // namespace exlstm::linear

#define EXLSTM_LINEAR(W, NAME)                                                                     \
    EXLSTM_EXPORT void exlstm_linear_##NAME##_float32(                                             \
        exlstm::Threads threads, int64_t rows, int64_t in, int64_t out, const float* x,            \
        const W* w, const float* scale, float* y) {                                                \
        exlstm::linear::forward<W>(threads, {rows, in, out, x, w, scale, y});                      \
    }

EXLSTM_LINEAR(int8_t, int8)
EXLSTM_LINEAR(uint16_t, bfloat16)
EXLSTM_LINEAR(float, float32)
