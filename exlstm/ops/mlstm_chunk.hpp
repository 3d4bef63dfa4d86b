// What both directions of the mLSTM share: its inputs, and one chunk of them in the cache.
#pragma once

#include <cmath>

#include "mlstm_products.hpp"

namespace exlstm::mlstm {

// What stands at j > t in row t of a decay matrix is filled up with zeros this far.
template <typename S>
constexpr int64_t BLOCK = lanes<S> > ROWS ? lanes<S> : ROWS;

template <typename S>
constexpr S INFINITE = std::numeric_limits<S>::infinity();

// The stabiliser of an empty memory: minus infinity in effect, but finite.
template <typename S>
constexpr S EMPTY_M = std::numeric_limits<S>::lowest();

// exp of it is finite.
template <typename S>
constexpr S LOG_OF_LARGEST = sizeof(S) == 4 ? S(88) : S(709);

template <typename S>
inline S exp_of(S x) {
    return exp(splat(x))[0];
}

template <typename S>
inline S magnitude(S x) {
    return x < 0 ? -x : x;
}

// The smallest denominator at a step: exp(-m), between the smallest normal number and overflow.
template <typename S>
inline S lower_bound(S m) {
    const S lower = exp_of(-m > LOG_OF_LARGEST<S> ? LOG_OF_LARGEST<S> : -m);
    return lower < std::numeric_limits<S>::min() ? std::numeric_limits<S>::min() : lower;
}

// What the numerator of a step is divided by: max(|denominator|, exp(-m)).
template <typename S>
inline S divisor(S denominator, S m) {
    const S lower = lower_bound(m), size = magnitude(denominator);
    return size < lower ? lower : size;
}

// The larger exponent; the older at a tie.
template <typename S>
inline S older_max(S old, S newer) {
    const S larger = old >= newer ? old : newer;
    return larger < EMPTY_M<S> ? EMPTY_M<S> : larger;
}

template <typename S>
struct Inputs {
    int64_t T, H, K, V, L;
    int64_t row;  // from one row of h and c to the next: V, unless these are some columns of it
    int64_t q_step, k_step, v_step;  // from one step to the next: H K or H V, or more
    bool normalised;
    const S *q, *k, *v, *log_i, *log_f, *c, *n, *m;

    int64_t chunks() const { return (T + L - 1) / L; }
    S scale() const { return S(1) / std::sqrt(S(K)); }
};

// Where the row (time, batch and head) of a B T H tensor is.
struct Place {
    int64_t b, head, T, H;

    int64_t step(int64_t t) const { return (b * T + t) * H + head; }
    int64_t of_head() const { return b * H + head; }
};

// One task's buffers for a chunk, both directions.
template <typename S>
struct Chunk {
    int64_t K, V, L, k_stride, v_stride, l_stride;
    Scratch<S> q, k, v, scores, c, n, panel;
    Scratch<S> segment, log_i, d0, w;

    explicit Chunk(const Inputs<S>& x)
        : K(round_up(x.K, BLOCK<S>)),
          V(round_up(x.V, lanes<S>)),
          L(round_up(x.L < x.T ? x.L : x.T, BLOCK<S>)),
          k_stride(row_stride<S>(K)),
          v_stride(row_stride<S>(V)),
          l_stride(row_stride<S>(L)),
          q(L * k_stride),
          k(L * k_stride),
          v(L * v_stride),
          scores(L * l_stride),
          c(K * v_stride),
          n(K),
          panel(2 * lanes<S> * (K > V ? K : V)),
          segment(L),
          log_i(L),
          d0(L),
          w(L) {}

    int64_t rows = 0, steps = 0;  // of this chunk: whole tiles, and true

    // `next` is the first step of the chunk that follows: memory is asked for it now.
    void load_inputs(const Inputs<S>& x, const Place& at, int64_t start, int64_t next) {
        steps = x.T - start < x.L ? x.T - start : x.L;
        rows = round_up(steps, BLOCK<S>);
        const int64_t first = at.step(start), step = at.b * x.T + start;
        pack<S>(x.q + step * x.q_step + at.head * x.K, x.q_step, steps, x.K, x.scale(), q, k_stride,
                rows);
        pack<S>(x.k + step * x.k_step + at.head * x.K, x.k_step, steps, x.K, S(1), k, k_stride,
                rows);
        pack<S>(x.v + step * x.v_step + at.head * x.row, x.v_step, steps, x.V, S(1), v, v_stride,
                rows);
        for (int64_t t = 0; t < rows; ++t) {
            log_i[t] = t < steps ? x.log_i[first + t * x.H] : -INFINITE<S>;
            segment[t] = -INFINITE<S>;
        }
        if (next >= 0 && next < x.T) {
            const int64_t ahead = at.b * x.T + next;
            prefetch_rows(x.q + ahead * x.q_step + at.head * x.K, x.q_step, steps, x.K);
            prefetch_rows(x.k + ahead * x.k_step + at.head * x.K, x.k_step, steps, x.K);
            prefetch_rows(x.v + ahead * x.v_step + at.head * x.row, x.v_step, steps, x.V);
        }
        log_d_start = 0;
    }

    // Row t of log D, one after the other: segment + log_i, and the sum from the chunk's start.
    S log_d_start = 0;

    void next_row(int64_t t, S log_f) {
        for (int64_t j = 0; j < t; j += lanes<S>) store(segment + j, load(segment + j) + log_f);
        segment[t] = 0;
        log_d_start += log_f;
    }

    int64_t width(int64_t t) const { return round_up(t + 1, BLOCK<S>); }

    Vec<S> log_d(int64_t j) const { return load<S>(segment + j) + load<S>(log_i + j); }

    S largest_log_d(int64_t t) const {
        Vec<S> largest = log_d(0);
        for (int64_t j = lanes<S>; j <= t; j += lanes<S>) largest = max(largest, log_d(j));
        S result = largest[0];
        for (int64_t lane = 1; lane < lanes<S>; ++lane)
            result = older_max(result, S(largest[lane]));
        return result;
    }
};

}  // namespace exlstm::mlstm
