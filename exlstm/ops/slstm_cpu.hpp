// What the sLSTM's forward and backward pass share: the recurrent product, its weights in the order
// it reads them, the gates of a step, and how the work is divided. For slstm_cpu.cpp only.
#pragma once

#include "cpu.hpp"

namespace {

using namespace exlstm;

constexpr int GATES = 4;

struct Sizes {
    int64_t B, T, H, V;
    // The backward pass is given c, n and m after every so many steps, and runs those between
    // again. Memory fresh from the system costs more than that.
    int64_t kept_steps;
    // In a step of x and dx. The cells of a gate lie side by side.
    int64_t head_stride, gate_stride;

    // Where the pre-activations of a step begin.
    int64_t input(int64_t b, int64_t t, int64_t head) const {
        return (b * T + t) * H * GATES * V + head * head_stride;
    }

    // Where the state after step t, one of those kept, is.
    int64_t kept(int64_t b, int64_t t, int64_t head) const {
        return ((b * (T / kept_steps) + t / kept_steps) * H + head) * V;
    }
};

template <typename T>
struct State {
    T *h, *c, *n, *m;
};

// sum[r][c] = sum over k of rows[r, k] weights[k, c]; c counts vectors.
template <typename T, int R, int C>
EXLSTM_INLINE void product(const T* rows, int64_t row_stride, const T* weights, int64_t k_stride,
                           int64_t c_stride, int64_t depth, Vec<T> (&sum)[R][C]) {
    for (int r = 0; r < R; ++r) {
        for (int c = 0; c < C; ++c) sum[r][c] = Vec<T>{};
    }
    for (int64_t k = 0; k < depth; ++k, weights += k_stride) {
        Vec<T> w[C];
#pragma GCC unroll 8
        for (int c = 0; c < C; ++c) w[c] = load(weights + c * c_stride);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
            const Vec<T> a = splat(rows[r * row_stride + k]);
#pragma GCC unroll 8
            for (int c = 0; c < C; ++c) sum[r][c] += a * w[c];
        }
    }
}

// For weights that are read too seldom to be packed; of whole vectors.
template <typename T>
T dot(const T* a, const T* b, int64_t depth) {
    Vec<T> total[4] = {};
    int64_t k = 0;
    for (; k + 4 * lanes<T> <= depth; k += 4 * lanes<T>) {
#pragma GCC unroll 4
        for (int part = 0; part < 4; ++part) {
            total[part] += load(a + k + part * lanes<T>) * load(b + k + part * lanes<T>);
        }
    }
    for (; k < depth; k += lanes<T>) total[0] += load(a + k) * load(b + k);
    return sum((total[0] + total[1]) + (total[2] + total[3]));
}

// As `product`, of weights by rows: one for each sum of a gate, the next gate's `stride` on.
template <typename T, int R>
EXLSTM_INLINE void product_by_rows(const T* rows, int64_t row_stride, const T* weights,
                                   int64_t stride, int64_t depth, Vec<T> (&sum)[R][GATES]) {
    for (int g = 0; g < GATES; ++g, weights += stride) {
        T lane[R][lanes<T>];
        for (int c = 0; c < lanes<T>; ++c) {
            for (int r = 0; r < R; ++r) {
                lane[r][c] = dot(rows + r * row_stride, weights + c * depth, depth);
            }
        }
        for (int r = 0; r < R; ++r) sum[r][g] = load(lane[r]);
    }
}

// Whether each weight is read often enough to be worth packing. A last, partial block of cells is
// always packed. Sizes alone decide, never the number of threads.
template <typename T>
bool worth_packing(const Sizes& s) {
    return s.V % lanes<T> != 0 || s.B * s.T > 4;
}

// r of one head as the products read it: to gates, [block of cells][from][gate][lane], and for the
// gradient back from them, [group of up to 4 blocks of from][gate, padded to][block][lane].
template <typename T>
void pack(const T* r, int64_t V, T* packed) {
    constexpr int64_t W = lanes<T>;
    for (int64_t cell = 0; cell < V; cell += W) {
        const int64_t count = V - cell < W ? V - cell : W;
        for (int64_t k = 0; k < V; ++k) {
            for (int g = 0; g < GATES; ++g, packed += W) {
                store(packed, load_n(r + (k * GATES + g) * V + cell, count));
            }
        }
    }
}

// As `pack`, of weights by rows.
template <typename T>
void pack_rows(const T* r, int64_t V, int64_t stride, T* packed) {
    constexpr int64_t W = lanes<T>;
    for (int64_t cell = 0; cell < V; cell += W, r += W * V) {
        const int64_t count = V - cell < W ? V - cell : W;
        for (int64_t k = 0; k < V; ++k) {
            for (int g = 0; g < GATES; ++g, packed += W) {
                for (int64_t c = 0; c < count; ++c) packed[c] = r[g * stride + c * V + k];
            }
        }
    }
}

template <typename T>
void pack_transposed(const T* r, int64_t V, T* packed) {
    constexpr int64_t W = lanes<T>;
    const int64_t P = padded<T>(V);
    for (int64_t first = 0; first < P; first += 4 * W) {
        const int64_t width = P - first < 4 * W ? P - first : 4 * W;
        for (int64_t g = 0; g < GATES; ++g) {
            for (int64_t cell = 0; cell < V; cell += W) {  // a vector at a time stays in cache
                const int64_t count = V - cell < W ? V - cell : W;
                for (int64_t lane = 0; lane < width && first + lane < V; ++lane) {
                    const T* from = r + ((first + lane) * GATES + g) * V + cell;
                    T* to = packed + (g * P + cell) * width + lane;
                    for (int64_t k = 0; k < count; ++k) to[k * width] = from[k];
                }
            }
        }
        packed += GATES * P * width;
    }
}

template <typename T>
struct Gates {
    Vec<T> i, f, z, o;
};

// The gates of the step that is next, to be read or written. Steps lie too far apart for the
// hardware to see it coming.
template <int WRITE = 0, typename T>
EXLSTM_INLINE void prefetch(const T* gates, int64_t stride) {
    for (int g = 0; g < GATES; ++g) __builtin_prefetch(gates + g * stride, WRITE);
}

// The pre-activations of one row and block of cells.
template <typename T>
EXLSTM_INLINE Gates<T> with_input(const Vec<T> (&sum)[GATES], const T* x, int64_t stride,
                                  int64_t count) {
    return {sum[0] + load_n(x, count), sum[1] + load_n(x + stride, count),
            sum[2] + load_n(x + 2 * stride, count), sum[3] + load_n(x + 3 * stride, count)};
}

// m is the larger of two exponents, so one of f' and i' is 1 and the other exp(-|difference|).
template <typename V>
struct Scales {
    V m, f, i;
    IntsOf<V> older_wins;

    EXLSTM_INLINE Scales(V older, V newer) {
        const V one = splat(ScalarOf<V>(1));
        const V smaller = exp(-abs(older - newer));
        older_wins = older >= newer;
        m = select(older_wins, older, newer);
        f = select(older_wins, one, smaller);
        i = select(older_wins, smaller, one);
    }
};

// Rows [row, row + rows) of one head.
struct Task {
    int64_t head, row, rows;
};

// As many tasks as make all threads work, each with as many rows as that allows.
struct Tasks {
    int64_t rows, heads, per_head;

    Tasks(const Sizes& s, int64_t threads) : rows(s.B), heads(s.H) {
        int64_t a = s.H, b = threads;
        while (b) std::swap(a %= b, b);
        per_head = threads / a < s.B ? threads / a : s.B;
    }
    int64_t count() const { return heads * per_head; }
    Task operator[](int64_t task) const {
        const int64_t part = task % per_head, first = part * rows / per_head;
        return {task / per_head, first, (part + 1) * rows / per_head - first};
    }
};

// A thread is worth its start from about this many multiplications on.
constexpr int64_t SERIAL_BELOW = 1 << 18;

Threads worth_it(Threads threads, const Sizes& s) {
    if (s.B * s.T * s.H * s.V * (s.V + 32) * GATES < SERIAL_BELOW) threads.count = 1;
    return threads;
}

}  // namespace
