// The causal depthwise convolution on the CPU, forward and backward, with the SiLU behind it.
//
// A task is one batch row and a block of channels. It walks over time with pointers to the W rows of
// inputs that the present step sees: a masked step enters no window, and a reset points the window
// at zeros. The backward pass walks the same way with pointers to the rows' gradients beside them:
// it computes a step once more and adds to the gradient of every row the step has seen.
//
// The derivative of SiLU, y = p sigmoid(p), is s (1 + p (1 - s)) with s = sigmoid(p).
//
// Layouts as in Python: weight D W, state B W-1 D, flags B T bytes or null. x and dy need no more
// than channels side by side, since they often are a part of something wider.

#include "cpu.hpp"

namespace exlstm::conv {
namespace {

// Channels of a task, at most: the rows that one step touches stay in the first cache.
template <typename S>
constexpr int64_t BLOCK = 2048 / sizeof(S);

// Steps ahead whose rows are fetched: a row is too short for the processor to foresee the next one.
constexpr int64_t AHEAD = 2;

// Steps whose part of a weight's gradient is summed before it joins the total: a long sequence of
// small terms would lose digits in a large sum.
constexpr int64_t SUMMED = 256;

// B T D with any distance between rows and between steps.
template <typename S>
struct Strided {
    S* first;
    int64_t row, step;
    S* at(int64_t b, int64_t t) const { return first + b * row + t * step; }
};

template <typename S>
struct Inputs {
    int64_t B, T, D, W;
    bool silu;
    Strided<const S> x;
    const S *weight, *bias, *state;
    const uint8_t *mask, *reset;

    bool is(const uint8_t* flag, int64_t b, int64_t t) const { return flag && flag[b * T + t]; }
    bool absent(int64_t b, int64_t t) const { return mask && !mask[b * T + t]; }
    int64_t padded() const { return (D + lanes<S> - 1) / lanes<S> * lanes<S>; }

    // W rows of taps and one of biases, in whole vectors.
    template <int WIDTH>
    void pack(S* filter) const {
        const int64_t width = WIDTH ? WIDTH : W;
        for (int64_t w = 0; w < width; ++w, filter += padded()) {
            for (int64_t d = 0; d < D; ++d) filter[d] = weight[d * width + w];
        }
        if (bias) std::memcpy(filter, bias, sizeof(S) * D);
    }

    // body(batch row, first channel, number of channels)
    template <typename Body>
    void run(Threads threads, Body&& body) const {
        // Little work is done before other threads are awake.
        if (B * T * D < (1 << 15)) threads.count = 1;
        // Channels do not see each other: how they are divided changes no result.
        int64_t block = BLOCK<S>;
        while (block > 4 * lanes<S> && B * D < threads.count * block) block /= 2;
        const int64_t blocks = (D + block - 1) / block;
        threads.run(B * blocks, [&](int64_t task) {
            const int64_t from = task % blocks * block;
            body(task / blocks, from, D - from < block ? D - from : block);
        });
    }
};

// The rows a step sees, oldest first. With the width a constant, they are in registers.
template <typename Row, int WIDTH>
struct Window {
    Row rows[WIDTH];
    explicit Window(int64_t) {}
    static constexpr int64_t width() { return WIDTH; }
};

template <typename Row>
struct Window<Row, 0> {
    int64_t width_;
    Scratch<Row> rows;
    explicit Window(int64_t width) : width_(width), rows(width) {}
    int64_t width() const { return width_; }
};

template <typename Row, int WIDTH>
void slide(Window<Row, WIDTH>& window) {
    for (int64_t w = 0; w + 1 < window.width(); ++w) window.rows[w] = window.rows[w + 1];
}

// body(channel, number of channels) for whole vectors, then for what is left.
template <typename S, typename Body>
EXLSTM_INLINE void for_channels(int64_t count, Body&& body) {
    int64_t d = 0;
    for (; d + lanes<S> <= count; d += lanes<S>) body(d, lanes<S>);
    if (d < count) body(d, count - d);
}

template <typename S, int WIDTH>
EXLSTM_INLINE Vec<S> convolve(const Window<const S*, WIDTH>& seen, const S* filter, int64_t padded,
                              int64_t d, int64_t count) {
    Vec<S> sum = load(filter + seen.width() * padded + d);
    for (int64_t w = 0; w < seen.width(); ++w)
        sum += load_n(seen.rows[w] + d, count) * load(filter + w * padded + d);
    return sum;
}

// ---- forward ------------------------------------------------------------------------------------

template <typename S>
struct Forward : Inputs<S> {
    S *y, *last;

    template <int WIDTH>
    void row(const S* filter, int64_t b, int64_t from, int64_t count) const {
        const int64_t D = this->D, W = this->W, P = this->padded();
        const Scratch<S> zeros(count);
        Window<const S*, WIDTH> seen(W);
        for (int64_t w = 0; w < W - 1; ++w)
            seen.rows[w] = this->state + (b * (W - 1) + w) * D + from;
        for (int64_t t = 0; t < this->T; ++t) {
            S* out = y + (b * this->T + t) * D + from;
            if (this->is(this->reset, b, t)) {
                for (int64_t w = 0; w < W - 1; ++w) seen.rows[w] = zeros;
            }
            if (this->absent(b, t)) {
                std::memset(out, 0, sizeof(S) * count);
                continue;
            }
            seen.rows[W - 1] = this->x.at(b, t) + from;
            const S* next = this->x.at(b, t + AHEAD) + from;
            S* next_out = out + AHEAD * D;
            for_channels<S>(count, [&](int64_t d, int64_t n) {
                __builtin_prefetch(next + d);
                __builtin_prefetch(next_out + d, 1);
                const Vec<S> p = convolve(seen, filter + from, P, d, n);
                store_n(out + d, this->silu ? p * sigmoid(p) : p, n);
            });
            slide(seen);
        }
        for (int64_t w = 0; w < W - 1; ++w)
            std::memcpy(last + (b * (W - 1) + w) * D + from, seen.rows[w], sizeof(S) * count);
    }

    template <int WIDTH>
    void run(Threads threads) const {
        huge_pages(y, this->B * this->T * this->D);
        const Scratch<S> filter((this->W + 1) * this->padded());
        this->template pack<WIDTH>(filter);
        Inputs<S>::run(threads, [&](int64_t b, int64_t from, int64_t count) {
            row<WIDTH>(filter, b, from, count);
        });
    }
};

// ---- backward -----------------------------------------------------------------------------------

template <typename S>
struct Backward : Inputs<S> {
    Strided<const S> dy;
    const S* d_last;
    S *dx, *d_weight, *d_bias, *d_state;

    template <int WIDTH>
    void row(const S* filter, S* total, int64_t b, int64_t from, int64_t count) const {
        const int64_t D = this->D, W = this->W, P = this->padded();
        // The rows of an empty window, and where gradients of zeros go.
        const Scratch<S> zeros(count), nowhere(count);
        // Gradients of the taps and the bias.
        const Scratch<S> sums((W + 1) * BLOCK<S>);
        Window<const S*, WIDTH> seen(W);
        Window<S*, WIDTH> d_seen(W);
        for (int64_t w = 0; w < W - 1; ++w) {
            const int64_t at = (b * (W - 1) + w) * D + from;
            seen.rows[w] = this->state + at;
            d_seen.rows[w] = d_state + at;
            std::memset(d_state + at, 0, sizeof(S) * count);
        }
        for (int64_t t = 0; t < this->T; ++t) {
            S* d_in = dx + (b * this->T + t) * D + from;
            if (t % SUMMED == SUMMED - 1) add_and_clear(sums, total + from, count);
            if (this->is(this->reset, b, t)) {
                for (int64_t w = 0; w < W - 1; ++w) seen.rows[w] = zeros, d_seen.rows[w] = nowhere;
            }
            if (this->absent(b, t)) {
                std::memset(d_in, 0, sizeof(S) * count);
                continue;
            }
            seen.rows[W - 1] = this->x.at(b, t) + from;
            d_seen.rows[W - 1] = d_in;
            const S* d_out = dy.at(b, t) + from;
            const S *next = this->x.at(b, t + AHEAD) + from, *next_out = dy.at(b, t + AHEAD) + from;
            S* next_in = d_in + AHEAD * D;
            for_channels<S>(count, [&](int64_t d, int64_t n) {
                __builtin_prefetch(next + d);
                __builtin_prefetch(next_out + d);
                __builtin_prefetch(next_in + d, 1);
                Vec<S> dp = load_n(d_out + d, n);
                if (this->silu) {
                    const Vec<S> p = convolve(seen, filter + from, P, d, n), s = sigmoid(p);
                    dp *= s * (S(1) + p * (S(1) - s));
                }
                auto add = [&](int64_t row, Vec<S> term) {
                    S* sum = sums + row * BLOCK<S> + d;
                    store(sum, load(sum) + term);
                };
                for (int64_t w = 0; w < seen.width(); ++w) {
                    S* d_row = d_seen.rows[w] + d;
                    Vec<S> through = dp * load(filter + w * P + from + d);
                    if (w < seen.width() - 1) through += load_n(d_row, n);
                    store_n(d_row, through, n);
                    add(w, dp * load_n(seen.rows[w] + d, n));
                }
                add(seen.width(), dp);
            });
            slide(seen);
            slide(d_seen);
        }
        add_and_clear(sums, total + from, count);
        for (int64_t w = 0; w < W - 1; ++w) {
            const S* d_end = d_last + (b * (W - 1) + w) * D + from;
            for (int64_t d = 0; d < count; ++d) d_seen.rows[w][d] += d_end[d];
        }
    }

    void add_and_clear(S* sums, S* total, int64_t count) const {
        for (int64_t w = 0; w <= this->W; ++w, sums += BLOCK<S>, total += this->padded()) {
            for (int64_t d = 0; d < count; ++d) total[d] += sums[d];
            std::memset(sums, 0, sizeof(S) * count);
        }
    }

    template <int WIDTH>
    void run(Threads threads) const {
        huge_pages(dx, this->B * this->T * this->D);
        const int64_t size = (this->W + 1) * this->padded();
        const Scratch<S> filter(size), totals(this->B * size);
        this->template pack<WIDTH>(filter);
        Inputs<S>::run(threads, [&](int64_t b, int64_t from, int64_t count) {
            row<WIDTH>(filter, totals + b * size, b, from, count);
        });
        for (int64_t b = 1; b < this->B; ++b) {
            for (int64_t i = 0; i < size; ++i) totals[i] += totals[b * size + i];
        }
        for (int64_t w = 0; w < this->W; ++w) {
            for (int64_t d = 0; d < this->D; ++d)
                d_weight[d * this->W + w] = totals[w * this->padded() + d];
        }
        if (d_bias)
            std::memcpy(d_bias, totals + this->W * this->padded(), sizeof(S) * this->D);
    }
};

template <typename Pass>
void run(const Pass& pass, Threads threads) {
    switch (pass.W) {
        case 2: return pass.template run<2>(threads);
        case 3: return pass.template run<3>(threads);
        case 4: return pass.template run<4>(threads);
        default: return pass.template run<0>(threads);
    }
}

}  // namespace
}  // namespace exlstm::conv

#define EXLSTM_CONV(S, NAME)                                                                       \
    EXLSTM_EXPORT void exlstm_conv_forward_##NAME(                                                 \
        exlstm::ParallelFor parallel, int64_t threads, int64_t B, int64_t T, int64_t D, int64_t W, \
        int64_t silu, const S* x, int64_t x_row, int64_t x_step, const S* weight, const S* bias,   \
        const S* state, const uint8_t* mask, const uint8_t* reset, S* y, S* last) {                \
        exlstm::conv::run(                                                                         \
            exlstm::conv::Forward<S>{{B, T, D, W, silu != 0, {x, x_row, x_step}, weight, bias,     \
                                      state, mask, reset}, y, last},                               \
            {parallel, threads});                                                                  \
    }                                                                                              \
    EXLSTM_EXPORT void exlstm_conv_backward_##NAME(                                                \
        exlstm::ParallelFor parallel, int64_t threads, int64_t B, int64_t T, int64_t D, int64_t W, \
        int64_t silu, const S* x, int64_t x_row, int64_t x_step, const S* weight, const S* bias,   \
        const S* state, const uint8_t* mask, const uint8_t* reset, const S* dy, int64_t dy_row,    \
        int64_t dy_step, const S* d_last, S* dx, S* d_weight, S* d_bias, S* d_state) {             \
        exlstm::conv::run(                                                                         \
            exlstm::conv::Backward<S>{{B, T, D, W, silu != 0, {x, x_row, x_step}, weight, bias,    \
                                       state, mask, reset}, {dy, dy_row, dy_step}, d_last, dx,     \
                                      d_weight, d_bias, d_state},                                  \
            {parallel, threads});                                                                  \
    }

EXLSTM_CONV(float, float32)
EXLSTM_CONV(double, float64)
