// The mLSTM chunk by chunk on the CPU, forward and backward.
//
// One task is one batch row and head. It walks over chunks of L steps with the memory (K x V), the
// chunk's q, k, v and its L x L matrices in buffers that stay in the cache: decay, scores and
// memories never travel through main memory, but for the memory at the start of each chunk where a
// backward pass follows. The mathematics, with the derivation of the backward pass, is in
// docs/math/mlstm.md; letters and forms are those of mlstm_chunkwise.py.
//
// Masks and resets are in the logarithms of the gates (minus infinity), and need no case.

#include "mlstm_backward.hpp"
#include "mlstm_chunk.hpp"

namespace exlstm::mlstm {
namespace {

template <typename S>
struct Forward : Inputs<S> {
    S *h, *c_last, *n_last, *m_last;
    // Kept for the backward pass, or null: memories at the start of every chunk but the first, and
    // denominators and stabilisers of every step, head by head.
    S *c_starts, *n_starts, *denominators, *stabilisers;
};

// Turn scores q k' into scores * D, row by row, and find each step's m and n.q of this chunk.
template <typename S>
S weigh_scores(const Forward<S>& x, const Place& at, int64_t start, Chunk<S>& chunk, S m_start,
               S* denominator, S* stabiliser) {
    S m = m_start;
    for (int64_t t = 0; t < chunk.steps; ++t) {
        chunk.next_row(t, x.log_f[at.step(start + t)]);
        const S older = chunk.log_d_start + m_start;
        m = x.normalised ? older_max(older, chunk.largest_log_d(t)) : S(0);
        chunk.d0[t] = exp_of(older - m);
        S* row = chunk.scores + t * chunk.l_stride;
        Vec<S> total{};
        for (int64_t j = 0; j < chunk.width(t); j += lanes<S>) {
            const Vec<S> d = exp(chunk.log_d(j) - m);
            const Vec<S> weight = load(row + j) * d;
            if (t == chunk.steps - 1) store(chunk.w + j, d);
            store(row + j, weight);
            total += weight;
        }
        denominator[t] = sum(total);
        stabiliser[t] = m;
    }
    for (int64_t t = chunk.steps; t < chunk.rows; ++t)
        std::memset(chunk.scores + t * chunk.l_stride, 0, sizeof(S) * chunk.rows);
    return m;
}

template <typename S>
void forward_head(const Forward<S>& x, const Place& at) {
    const int64_t head = at.of_head(), state = x.K * x.row;
    Chunk<S> chunk(x);
    Scratch<S> h(chunk.L * chunk.v_stride), denominator(chunk.L), stabiliser(chunk.L);
    pack<S>(x.c + head * state, x.row, x.K, x.V, S(1), chunk.c, chunk.v_stride, chunk.K);
    std::memcpy(chunk.n, x.n + head * x.K, sizeof(S) * x.K);
    S m = x.m[head];

    for (int64_t i = 0; i < x.chunks(); ++i) {
        const int64_t start = i * x.L;
        if (i > 0 && x.c_starts) {
            const int64_t kept = head * (x.chunks() - 1) + i - 1;
            unpack<S>(chunk.c, chunk.v_stride, x.K, x.V, S(1), x.c_starts + kept * state, x.row);
            if (x.n_starts) std::memcpy(x.n_starts + kept * x.K, chunk.n, sizeof(S) * x.K);
        }
        chunk.load_inputs(x, at, start, start + x.L);
        const int64_t rows = chunk.rows, steps = chunk.steps;
        product_with_transpose<S, Part::lower>(rows, rows, x.K, chunk.q, chunk.k_stride, chunk.k,
                                               chunk.k_stride, chunk.scores, chunk.l_stride,
                                               chunk.panel);
        m = weigh_scores<S>(x, at, start, chunk, m, denominator, stabiliser);

        product<S, false>(rows, chunk.V, x.K, chunk.q, chunk.k_stride, chunk.c, chunk.v_stride, h,
                          chunk.v_stride, false);
        for (int64_t t = 0; t < steps; ++t) {
            scale_row<S>(h + t * chunk.v_stride, chunk.d0[t], chunk.V);
            denominator[t] +=
                chunk.d0[t] * dot<S>(chunk.q + t * chunk.k_stride, chunk.n, chunk.K);
        }
        product<S, false, Part::lower_left>(rows, chunk.V, steps, chunk.scores, chunk.l_stride,
                                            chunk.v, chunk.v_stride, h, chunk.v_stride, true);
        for (int64_t t = 0; t < steps; ++t) {
            const S by = x.normalised ? divisor<S>(denominator[t], stabiliser[t]) : S(1);
            unpack<S>(h + t * chunk.v_stride, 0, 1, x.V, S(1) / by,
                      x.h + at.step(start + t) * x.row, 0);
        }
        if (x.denominators) {
            std::memcpy(x.denominators + head * x.T + start, denominator, sizeof(S) * steps);
            std::memcpy(x.stabilisers + head * x.T + start, stabiliser, sizeof(S) * steps);
        }

        const S decay = chunk.d0[steps - 1];
        for (int64_t r = 0; r < x.K; ++r)
            scale_row<S>(chunk.c + r * chunk.v_stride, decay, chunk.V);
        scale_row<S>(chunk.n, x.normalised ? decay : S(1), chunk.K);
        for (int64_t j = 0; j < steps; ++j) {
            scale_row<S>(chunk.k + j * chunk.k_stride, chunk.w[j], chunk.K);
            if (x.normalised) add_row<S>(chunk.n, chunk.k + j * chunk.k_stride, S(1), chunk.K);
        }
        product<S, true>(chunk.K, chunk.V, steps, chunk.k, chunk.k_stride, chunk.v, chunk.v_stride,
                         chunk.c, chunk.v_stride, true);
    }
    unpack<S>(chunk.c, chunk.v_stride, x.K, x.V, S(1), x.c_last + head * state, x.row);
    if (!x.n_last) return;
    std::memcpy(x.n_last + head * x.K, chunk.n, sizeof(S) * x.K);
    x.m_last[head] = m;
}

// A single step is one pass over the memory.
template <typename S>
void forward_step(const Forward<S>& x, const Place& at) {
    const int64_t head = at.of_head();
    const S older = x.log_f[head] + x.m[head];
    const S m = x.normalised ? older_max(older, x.log_i[head]) : S(0);
    const S forget = exp_of(older - m), input = exp_of(x.log_i[head] - m);
    const S *q = x.q + at.b * x.q_step + at.head * x.K, *k = x.k + at.b * x.k_step + at.head * x.K;
    const S* v = x.v + at.b * x.v_step + at.head * x.V;
    S* h = x.h + head * x.V;
    std::memset(h, 0, sizeof(S) * x.V);
    S denominator = 0;
    for (int64_t r = 0; r < x.K; ++r) {
        const S *c = x.c + (head * x.K + r) * x.V, written = input * k[r], query = x.scale() * q[r];
        S* c_last = x.c_last + (head * x.K + r) * x.V;
        for (int64_t y = 0; y < x.V; y += lanes<S>) {
            const int64_t left = x.V - y;
            const Vec<S> new_c = forget * load_n(c + y, left) + written * load_n(v + y, left);
            store_n(c_last + y, new_c, left);
            store_n(h + y, load_n(h + y, left) + query * new_c, left);
        }
        const S n = x.n[head * x.K + r], new_n = x.normalised ? forget * n + written : n;
        x.n_last[head * x.K + r] = new_n;
        denominator += query * new_n;
    }
    x.m_last[head] = m;
    const S by = x.normalised ? divisor(denominator, m) : S(1);
    for (int64_t y = 0; y < x.V; ++y) h[y] *= S(1) / by;
    if (x.denominators) {
        x.denominators[head] = denominator;
        x.stabilisers[head] = m;
    }
}

// Little work is done before other threads are awake.
template <typename S>
Threads enough(Threads threads, int64_t batch, const Inputs<S>& x) {
    const bool little = batch * x.T * x.H * x.K * x.V < (1 << 15);
    return little ? Threads{nullptr, 1} : threads;
}

// Some of the columns of v, h and c: they do not depend on the others. What all share is computed
// again and written once, with the first.
template <typename S>
Forward<S> columns_of(Forward<S> x, int64_t from, int64_t to) {
    x.V = to - from;
    x.v += from, x.c += from, x.h += from, x.c_last += from;
    if (x.c_starts) x.c_starts += from;
    if (from > 0) x.n_last = x.m_last = x.n_starts = x.denominators = x.stabilisers = nullptr;
    return x;
}

template <typename S>
void forward(Threads threads, int64_t batch, const Forward<S>& x) {
    threads = enough(threads, batch, x);
    huge_pages(x.h, batch * x.T * x.H * x.V);
    if (x.c_starts) huge_pages(x.c_starts, batch * x.H * (x.chunks() - 1) * x.K * x.V);
    if (x.T == 1) {
        threads.run(batch * x.H, [&](int64_t task) {
            forward_step(x, Place{task / x.H, task % x.H, x.T, x.H});
        });
        return;
    }
    // With fewer heads than threads, several share a head. The parts do not change a result.
    const int64_t wanted = batch * x.H < threads.count ? threads.count / (batch * x.H) : 1;
    const int64_t width = round_up((x.V + wanted - 1) / wanted, 2 * lanes<S>);
    const int64_t parts = (x.V + width - 1) / width;
    threads.run(batch * x.H * parts, [&](int64_t task) {
        const int64_t head = task / parts, from = task % parts * width;
        const int64_t to = from + width < x.V ? from + width : x.V;
        forward_head(columns_of(x, from, to), Place{head / x.H, head % x.H, x.T, x.H});
    });
}

template <typename S>
void backward(Threads threads, int64_t batch, const Backward<S>& x) {
    threads = enough(threads, batch, x);
    huge_pages(x.dq, batch * x.T * x.H * x.K);
    huge_pages(x.dk, batch * x.T * x.H * x.K);
    huge_pages(x.dv, batch * x.T * x.H * x.V);
    if (batch * x.H < threads.count && x.chunks() > 1)
        return backward_by_chunks(threads, batch * x.H, x);
    threads.run(batch * x.H, [&](int64_t task) {
        backward_head(x, Place{task / x.H, task % x.H, x.T, x.H});
    });
}

}  // namespace
}  // namespace exlstm::mlstm

#define EXLSTM_MLSTM(S, NAME)                                                                      \
    EXLSTM_EXPORT void exlstm_mlstm_forward_##NAME(                                                \
        exlstm::Threads threads, int64_t B, int64_t T, int64_t H, int64_t K, int64_t V, int64_t L, \
        int64_t normalised, int64_t q_step, int64_t k_step, int64_t v_step, const S* q, const S* k, const S* v, const S* log_i, const S* log_f,    \
        const S* c, const S* n, const S* m, S* h, S* c_last, S* n_last, S* m_last, S* c_starts,    \
        S* n_starts, S* denominators, S* stabilisers) {                                            \
        exlstm::mlstm::forward<S>(                                                                 \
            threads, B,                                                                            \
            {{T, H, K, V, L, V, q_step, k_step, v_step, normalised != 0, q, k, v, log_i, log_f, c, n, m}, h, c_last,       \
             n_last, m_last, c_starts, n_starts, denominators, stabilisers});                      \
    }                                                                                              \
    EXLSTM_EXPORT void exlstm_mlstm_backward_##NAME(                                               \
        exlstm::Threads threads, int64_t B, int64_t T, int64_t H, int64_t K, int64_t V, int64_t L, \
        int64_t normalised, int64_t q_step, int64_t k_step, int64_t v_step, const S* q, const S* k, const S* v, const S* log_i, const S* log_f,    \
        const S* c, const S* n, const S* m, const S* h,                                            \
        const S* c_starts, const S* n_starts, const S* denominators, const S* stabilisers,         \
        const S* dh, const S* dc_last, const S* dn_last, const S* dm_last, S* dq, S* dk, S* dv,    \
        S* dlog_i, S* dlog_f, S* dc, S* dn, S* dm) {                                               \
        exlstm::mlstm::backward<S>(                                                                \
            threads, B,                                                                            \
            {{T, H, K, V, L, V, q_step, k_step, v_step, normalised != 0, q, k, v, log_i, log_f, c, n, m}, h,               \
             c_starts, n_starts, denominators, stabilisers, dh, dc_last, dn_last, dm_last, dq, dk, \
             dv, dlog_i, dlog_f, dc, dn, dm});                                                     \
    }

EXLSTM_MLSTM(float, float32)
EXLSTM_MLSTM(double, float64)
