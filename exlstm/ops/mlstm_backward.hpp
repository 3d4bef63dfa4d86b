// The backward pass of the mLSTM, chunk by chunk from the last to the first. The derivation is in
// docs/math/mlstm.md.
#pragma once

#include "mlstm_chunk.hpp"

namespace exlstm::mlstm {

template <typename S>
struct Backward : Inputs<S> {
    const S *h, *c_starts, *n_starts, *denominators, *stabilisers;
    const S *dh, *dc_last, *dn_last, *dm_last;
    S *dq, *dk, *dv, *dlog_i, *dlog_f, *dc, *dn, *dm;
};

// What the backward pass of a chunk needs besides.
template <typename S>
struct Gradients {
    Scratch<S> dnum, dden, dscores, g, dq, dk, dv, dc, dn, g_start, g_input;
    // Of each row of G: its sum, the column of the largest weight (-1: the start), and whether the
    // true sum with g_start is zero: it is where h is a ratio of two sums with these weights.
    Scratch<S> g_sum, largest, balanced;

    explicit Gradients(const Chunk<S>& x)
        : dnum(x.L * x.v_stride),
          dden(x.L),
          dscores(x.L * x.l_stride),
          g(x.L * x.l_stride),
          dq(x.L * x.k_stride),
          dk(x.L * x.k_stride),
          dv(x.L * x.v_stride),
          dc(x.K * x.v_stride),
          dn(x.K),
          g_start(x.L),
          g_input(x.L),
          g_sum(x.L),
          largest(x.L),
          balanced(x.L) {}
};

// The gradients of numerator and denominator from that of h = num / max(|den|, exp(-m)). At a tie
// each side has half, as in torch.maximum.
template <typename S>
void through_division(const Backward<S>& x, const Place& at, int64_t start, const Chunk<S>& chunk,
                      Gradients<S>& d) {
    const S* denominator = x.denominators + at.of_head() * x.T + start;
    const S* stabiliser = x.stabilisers + at.of_head() * x.T + start;
    for (int64_t t = 0; t < chunk.rows; ++t) {
        S* row = d.dnum + t * chunk.v_stride;
        d.dden[t] = d.balanced[t] = 0;
        if (t >= chunk.steps) {
            std::memset(row, 0, sizeof(S) * chunk.v_stride);
            continue;
        }
        const int64_t from = at.step(start + t) * x.V;
        if (!x.normalised) {
            pack<S>(x.dh + from, 0, 1, x.V, S(1), row, chunk.v_stride, 1);
            continue;
        }
        const S lower = lower_bound(stabiliser[t]), size = magnitude(denominator[t]);
        const S inverse = S(1) / (size < lower ? lower : size);
        pack<S>(x.dh + from, 0, 1, x.V, inverse, row, chunk.v_stride, 1);
        Vec<S> total{};
        for (int64_t y = 0; y < x.V; y += lanes<S>)
            total += load(row + y) * load_n(x.h + from + y, x.V - y);
        const S share = size > lower ? S(1) : size == lower ? S(0.5) : S(0);
        const S sign = denominator[t] > 0 ? S(1) : denominator[t] < 0 ? S(-1) : S(0);
        d.dden[t] = -sum(total) * sign * share;
        d.balanced[t] = size > lower;
    }
}

// The weights of the chunk's start.
template <typename S>
void weigh_start(const Backward<S>& x, const Place& at, int64_t start, Chunk<S>& chunk, S m_start) {
    const S* stabiliser = x.stabilisers + at.of_head() * x.T + start;
    S log_d = 0;
    for (int64_t t = 0; t < chunk.steps; ++t) {
        log_d += x.log_f[at.step(start + t)];
        chunk.d0[t] = exp_of(log_d + m_start - stabiliser[t]);
    }
}

// From scores q k' and d(scores * D) = dnum v', row by row: the weights scores * D, the gradient of
// the scores, and that of log D.
template <typename S>
void through_weights(const Backward<S>& x, const Place& at, int64_t start, Chunk<S>& chunk,
                     Gradients<S>& d) {
    const S* stabiliser = x.stabilisers + at.of_head() * x.T + start;
    Vec<S> column{};
    for (int64_t lane = 0; lane < lanes<S>; ++lane) column[lane] = S(lane);
    for (int64_t t = 0; t < chunk.steps; ++t) {
        chunk.next_row(t, x.log_f[at.step(start + t)]);
        const S m = stabiliser[t];
        S* score = chunk.scores + t * chunk.l_stride;
        S* dscore = d.dscores + t * chunk.l_stride;
        S* g = d.g + t * chunk.l_stride;
        Vec<S> total{}, largest = splat(S(-1));
        for (int64_t j = 0; j < chunk.width(t); j += lanes<S>) {
            const Vec<S> log_d = chunk.log_d(j), decay = exp(log_d - m);
            largest = select(log_d == m, column + S(j), largest);
            if (t == chunk.steps - 1) store(chunk.w + j, decay);
            const Vec<S> raw = load(score + j), draw = (load(dscore + j) + d.dden[t]) * decay;
            store(score + j, raw * decay);
            store(dscore + j, draw);
            store(g + j, raw * draw);
            total += raw * draw;
        }
        d.g_sum[t] = sum(total);
        d.largest[t] = -1;
        for (int64_t lane = 0; lane < lanes<S>; ++lane)
            if (largest[lane] > d.largest[t]) d.largest[t] = largest[lane];
    }
    for (int64_t t = chunk.steps; t < chunk.rows; ++t) {
        std::memset(chunk.scores + t * chunk.l_stride, 0, sizeof(S) * chunk.rows);
        std::memset(d.dscores + t * chunk.l_stride, 0, sizeof(S) * chunk.rows);
        std::memset(d.g + t * chunk.l_stride, 0, sizeof(S) * chunk.rows);
        d.g_start[t] = 0;
    }
}

// The gradients of the gates from those of log D: G_tj goes to log_i of j and to log_f of all steps
// r from j + 1 to t. The memory at the end of the chunk is one more row: `g_input`, and `through`
// for the start. Its sum is dm, the gradient of the m there (of all exponents at once), which is
// still to be added: after the column that is returned, see `add_m_gradient`.
//
// Where the sum of a row is known (0 in a balanced one, dm in the last) the part on one side of r
// follows from the part on the other: the side without the largest weight is taken. Where that is
// all there is, its G is nothing but rounding, and the true gradient may be zero. In the last row
// this also adds m's own gradient, which goes to the largest weight, the older at a tie.
template <typename S>
int64_t gate_gradients(const Backward<S>& x, const Place& at, int64_t start, const Chunk<S>& chunk,
                       Gradients<S>& d, S through, S m_start) {
    const int64_t steps = chunk.steps, rows = chunk.rows, L = chunk.l_stride;
    for (int64_t t = 0; t < steps; ++t) {
        const S rest = d.balanced[t] * (d.g_sum[t] + d.g_start[t]);
        S& largest = d.largest[t] < 0 ? d.g_start[t]
                                      : d.g[t * L + static_cast<int64_t>(d.largest[t])];
        largest -= rest;
        if (!d.balanced[t]) d.largest[t] = S(t);
    }
    S* columns = d.dscores;  // G transposed; its old content has been used
    for (int64_t j = 0; j < rows; j += lanes<S>)
        for (int64_t t = j; t < rows; t += lanes<S>)
            transpose_square<S>(d.g + t * L + j, L, columns + j * L + t, L);

    int64_t winner = -1;  // the column of the last row's largest weight
    S larger = chunk.log_d_start + m_start, others = through;
    for (int64_t j = 0; j < steps; ++j) {
        const S candidate = chunk.segment[j] + chunk.log_i[j];
        if (!(larger >= candidate)) larger = candidate, winner = j;
    }
    if (!x.normalised || larger < EMPTY_M<S>) winner = steps;  // no m, or it does not move
    for (int64_t j = 0; j < steps; ++j) others += j == winner ? S(0) : S(d.g_input[j]);

    S* before = d.g_start;  // of each row, the sum over j < r
    for (int64_t r = 0; r < steps; ++r) {
        Vec<S> left{}, all{};
        for (int64_t t = r / lanes<S> * lanes<S>; t < rows; t += lanes<S>) {
            const Vec<S> column = load(columns + r * L + t), row = load(before + t);
            left += select(load<S>(d.largest + t) >= S(r), row, Vec<S>{});
            all += column;
            store(before + t, row + column);
        }
        const int64_t step = at.step(start + r);
        x.dlog_i[step] = sum(all) + (r == winner ? -others : S(d.g_input[r]));
        x.dlog_f[step] = sum(left) + (r <= winner ? through : S(0));
        through += d.g_input[r];
    }
    S* after = d.g_sum;  // of each row, the sum over j >= r
    S written = 0;       // and of the last
    std::memset(after, 0, sizeof(S) * rows);
    for (int64_t r = steps - 1; r >= 0; --r) {
        Vec<S> right{};
        for (int64_t t = r / lanes<S> * lanes<S>; t < rows; t += lanes<S>) {
            const Vec<S> row = load(after + t) + load(columns + r * L + t);
            right += select(load<S>(d.largest + t) < S(r), row, Vec<S>{});
            store(after + t, row);
        }
        written += d.g_input[r];
        x.dlog_f[at.step(start + r)] -= sum(right) + (r > winner ? written : S(0));
    }
    return winner;
}

// Add the gradient of the m at a chunk's end to the gates on the path of the maximum, and return
// that of the m at its start: that of the first log f, as they stand in one sum and nowhere else.
template <typename S>
S add_m_gradient(const Backward<S>& x, const Place& at, int64_t start, int64_t winner, S dm) {
    const int64_t end = start + x.L < x.T ? start + x.L : x.T;
    if (start + winner < end && winner >= 0) x.dlog_i[at.step(start + winner)] += dm;
    for (int64_t t = start + winner + 1; t < end; ++t) x.dlog_f[at.step(t)] += dm;
    return x.dlog_f[at.step(start)];
}

// Where the memory at the start of a chunk is, and its stabiliser.
template <typename S>
S m_before(const Backward<S>& x, const Place& at, int64_t chunk) {
    const int64_t head = at.of_head();
    return chunk > 0 ? x.stabilisers[head * x.T + chunk * x.L - 1] : x.m[head];
}

template <typename S>
void load_chunk(const Backward<S>& x, const Place& at, int64_t i, Chunk<S>& chunk,
                Gradients<S>& d) {
    const int64_t start = i * x.L, next = start - x.L;
    chunk.load_inputs(x, at, start, next);
    if (next >= 0) {
        const int64_t from = at.step(next) * x.V, stride = x.H * x.V;
        prefetch_rows(x.dh + from, stride, x.L, x.V);
        prefetch_rows(x.h + from, stride, x.L, x.V);
    }
    through_division(x, at, start, chunk, d);
    weigh_start(x, at, start, chunk, m_before(x, at, i));
}

// The gradient of the memory at a chunk's end, scaled to its share of the one at the start, and its
// product with the memory there.
template <typename S>
S scale_memory_gradient(const Backward<S>& x, const Chunk<S>& chunk, Gradients<S>& d) {
    const int64_t V = chunk.v_stride;
    const S decay = chunk.d0[chunk.steps - 1];
    S through = 0;
    for (int64_t r = 0; r < x.K; ++r) {
        scale_row<S>(d.dc + r * V, decay, chunk.V);
        through += dot<S>(chunk.c + r * V, d.dc + r * V, chunk.V);
    }
    if (x.normalised) {
        scale_row<S>(d.dn, decay, chunk.K);
        through += dot<S>(chunk.n, d.dn, chunk.K);
    }
    return through;
}

// What the chunk's outputs add to the gradient of the memory at its start. Overwrites q.
template <typename S>
void add_memory_gradient(const Backward<S>& x, Chunk<S>& chunk, Gradients<S>& d) {
    const int64_t K = chunk.k_stride, V = chunk.v_stride;
    for (int64_t t = 0; t < chunk.steps; ++t) {
        scale_row<S>(chunk.q + t * K, chunk.d0[t], chunk.K);
        if (x.normalised) add_row<S>(d.dn, chunk.q + t * K, d.dden[t], chunk.K);
    }
    product<S, true>(chunk.K, chunk.V, chunk.steps, chunk.q, K, d.dnum, V, d.dc, V, true);
}

// All gradients of a chunk but those of m, from that of the memory at its end, which is scaled to
// its share of the one at the start.
template <typename S>
int64_t backward_chunk(const Backward<S>& x, const Place& at, int64_t i, Chunk<S>& chunk,
                       Gradients<S>& d) {
    const int64_t start = i * x.L, state = x.K * x.V;
    const int64_t head = at.of_head(), kept = head * (x.chunks() - 1) + i - 1;
    const S* c_start = i > 0 ? x.c_starts + kept * state : x.c + head * state;
    const S* n_start = i > 0 ? x.n_starts + kept * x.K : x.n + head * x.K;
    pack<S>(c_start, x.V, x.K, x.V, S(1), chunk.c, chunk.v_stride, chunk.K);
    std::memcpy(chunk.n, n_start, sizeof(S) * x.K);

    const int64_t rows = chunk.rows, steps = chunk.steps, L = chunk.l_stride;
    const int64_t K = chunk.k_stride, V = chunk.v_stride;
    product_with_transpose<S, Part::lower>(rows, rows, x.K, chunk.q, K, chunk.k, K,
                                           chunk.scores, L, chunk.panel);
    product_with_transpose<S, Part::lower>(rows, rows, x.V, d.dnum, V, chunk.v, V, d.dscores, L,
                                           chunk.panel);
    through_weights(x, at, start, chunk, d);

    // What goes through the memory: first what reads it, then what was written to it.
    product_with_transpose<S>(rows, chunk.K, x.V, d.dnum, V, chunk.c, V, d.dq, K, chunk.panel);
    product_with_transpose<S>(rows, chunk.K, x.V, chunk.v, V, d.dc, V, d.dk, K, chunk.panel);
    product<S, false>(rows, chunk.V, x.K, chunk.k, K, d.dc, V, d.dv, V, false);
    for (int64_t t = 0; t < steps; ++t) {
        S *dq = d.dq + t * K, *dk = d.dk + t * K;
        if (x.normalised) {
            add_row<S>(dq, chunk.n, d.dden[t], chunk.K);
            add_row<S>(dk, d.dn, S(1), chunk.K);
        }
        scale_row<S>(dq, chunk.d0[t], chunk.K);
        scale_row<S>(dk, chunk.w[t], chunk.K);
        scale_row<S>(d.dv + t * V, chunk.w[t], chunk.V);
        d.g_start[t] = dot<S>(chunk.q + t * K, dq, chunk.K);
        d.g_input[t] = dot<S>(chunk.k + t * K, dk, chunk.K);
    }
    for (int64_t t = steps; t < rows; ++t) d.g_input[t] = 0;

    product<S, false, Part::lower_left>(rows, chunk.K, steps, d.dscores, L, chunk.k, K, d.dq, K,
                                        true);
    product<S, true, Part::upper_left>(rows, chunk.K, steps, d.dscores, L, chunk.q, K, d.dk, K,
                                       true);
    product<S, true, Part::upper_left>(rows, chunk.V, steps, chunk.scores, L, d.dnum, V,
                                       d.dv, V, true);
    const int64_t first = at.step(start);
    unpack<S>(d.dq, K, steps, x.K, x.scale(), x.dq + first * x.K, x.H * x.K);
    unpack<S>(d.dk, K, steps, x.K, S(1), x.dk + first * x.K, x.H * x.K);
    unpack<S>(d.dv, V, steps, x.V, S(1), x.dv + first * x.V, x.H * x.V);

    const S through = scale_memory_gradient(x, chunk, d);
    return gate_gradients(x, at, start, chunk, d, through, m_before(x, at, i));
}

template <typename S>
void load_last(const Backward<S>& x, const Place& at, const Chunk<S>& chunk, Gradients<S>& d) {
    const int64_t head = at.of_head();
    pack<S>(x.dc_last + head * x.K * x.V, x.V, x.K, x.V, S(1), d.dc, chunk.v_stride, chunk.K);
    std::memcpy(d.dn, x.dn_last + head * x.K, sizeof(S) * x.K);
}

template <typename S>
void store_first(const Backward<S>& x, const Place& at, const Chunk<S>& chunk,
                 const Gradients<S>& d) {
    const int64_t head = at.of_head();
    unpack<S>(d.dc, chunk.v_stride, x.K, x.V, S(1), x.dc + head * x.K * x.V, x.V);
    std::memcpy(x.dn + head * x.K, d.dn, sizeof(S) * x.K);
}

// A whole head, by one thread.
template <typename S>
void backward_head(const Backward<S>& x, const Place& at) {
    Chunk<S> chunk(x);
    Gradients<S> d(chunk);
    load_last(x, at, chunk, d);
    S dm = x.normalised ? x.dm_last[at.of_head()] : S(0);
    for (int64_t i = x.chunks() - 1; i >= 0; --i) {
        load_chunk(x, at, i, chunk, d);
        const int64_t winner = backward_chunk(x, at, i, chunk, d);
        add_memory_gradient(x, chunk, d);
        dm = add_m_gradient(x, at, i * x.L, winner, dm);
    }
    store_first(x, at, chunk, d);
    x.dm[at.of_head()] = x.normalised ? dm : S(0);
}

// The same where there are more threads than heads: first the gradients of all memories, a head
// after the other, then all chunks at once. The sums are the same to the bit.
template <typename S>
void backward_by_chunks(Threads threads, int64_t heads, const Backward<S>& x) {
    const int64_t chunks = x.chunks(), state = x.K * x.V;
    Scratch<S> dc_ends(heads * chunks * state), dn_ends(heads * chunks * x.K);
    Scratch<int64_t> winners(heads * chunks);
    const auto place = [&](int64_t head) { return Place{head / x.H, head % x.H, x.T, x.H}; };
    threads.run(heads, [&](int64_t head) {
        Chunk<S> chunk(x);
        Gradients<S> d(chunk);
        load_last(x, place(head), chunk, d);
        for (int64_t i = chunks - 1; i >= 0; --i) {
            const int64_t kept = head * chunks + i;
            unpack<S>(d.dc, chunk.v_stride, x.K, x.V, S(1), dc_ends + kept * state, x.V);
            std::memcpy(dn_ends + kept * x.K, d.dn, sizeof(S) * x.K);
            load_chunk(x, place(head), i, chunk, d);
            scale_memory_gradient(x, chunk, d);
            add_memory_gradient(x, chunk, d);
        }
        store_first(x, place(head), chunk, d);
    });
    threads.run(heads * chunks, [&](int64_t task) {
        const Place at = place(task / chunks);
        Chunk<S> chunk(x);
        Gradients<S> d(chunk);
        pack<S>(dc_ends + task * state, x.V, x.K, x.V, S(1), d.dc, chunk.v_stride, chunk.K);
        std::memcpy(d.dn, dn_ends + task * x.K, sizeof(S) * x.K);
        load_chunk(x, at, task % chunks, chunk, d);
        winners[task] = backward_chunk(x, at, task % chunks, chunk, d);
    });
    for (int64_t head = 0; head < heads; ++head) {
        S dm = x.normalised ? x.dm_last[head] : S(0);
        for (int64_t i = chunks - 1; i >= 0; --i)
            dm = add_m_gradient(x, place(head), i * x.L, winners[head * chunks + i], dm);
        x.dm[head] = x.normalised ? dm : S(0);
    }
}

}  // namespace exlstm::mlstm
