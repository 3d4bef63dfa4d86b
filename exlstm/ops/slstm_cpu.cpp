// The sLSTM on the CPU, forward and backward; the math is slstm_reference.py, the derivation of the
// backward pass slstm_sequential.py.
//
// Heads and batch rows do not see each other, so each task, some rows of one head, runs its whole
// time loop alone while the head's recurrent weights stay in its core's cache. A step works block
// by block of cells: the recurrent product of all four gates for a few rows, in registers, then
// what is per cell. How rows are divided among tasks changes no bit of any result.
//
// Layouts as in Python: x B T H G V, r H V G V, states B T H V or B H V, flags B T bytes or null.

#include "slstm_cpu.hpp"

namespace {

// ---- forward ------------------------------------------------------------------------------------

template <typename T>
struct Forward {
    Sizes s;
    int64_t exp_forget, keep;
    const T *x, *r;
    State<const T> start;
    const uint8_t *mask, *reset;
    State<T> out;

    void run(Threads threads) const {
        threads = worth_it(threads, s);
        const Tasks tasks(s, threads.count);
        huge_pages(out.h, s.B * s.T * s.H * s.V);
        for (T* states : {out.c, out.n, out.m}) {
            if (keep) huge_pages(states, s.B * s.T * s.H * s.V);
        }
        const bool packs = worth_packing<T>(s);
        const int64_t head_size = padded<T>(s.V) * s.V * GATES;
        const Scratch<T> packed(packs ? s.H * head_size : 0);
        if (packs) {
            threads.run(s.H, [&](int64_t head) {
                pack(r + head * s.V * GATES * s.V, s.V, packed + head * head_size);
            });
        }
        threads.run(tasks.count(), [&](int64_t index) {
            const Task task = tasks[index];
            const T* weights = packs ? packed + task.head * head_size
                                     : r + task.head * s.V * GATES * s.V;
            run(task, weights, packs);
        });
    }

    void run(const Task& task, const T* weights, bool packs) const {
        constexpr int64_t W = lanes<T>;
        const int64_t P = padded<T>(s.V), size = task.rows * P;
        const int64_t k_stride = packs ? GATES * W : GATES * s.V, c_stride = packs ? W : s.V;
        const int64_t block_stride = packs ? s.V * GATES * W : W;
        const Scratch<T> memory(5 * size);
        State<T> now{memory, memory + 2 * size, memory + 3 * size, memory + 4 * size};
        T* next_h = memory + size;
        for (int64_t row = 0; row < task.rows; ++row) {
            const int64_t at = ((task.row + row) * s.H + task.head) * s.V;
            std::memcpy(now.h + row * P, start.h + at, s.V * sizeof(T));
            std::memcpy(now.c + row * P, start.c + at, s.V * sizeof(T));
            std::memcpy(now.n + row * P, start.n + at, s.V * sizeof(T));
            std::memcpy(now.m + row * P, start.m + at, s.V * sizeof(T));
        }
        for (int64_t t = 0; t < s.T; ++t) {
            for (int64_t row = 0; reset && row < task.rows; ++row) {
                if (reset[(task.row + row) * s.T + t]) empty(now, row * P, P);
            }
            for (int64_t cell = 0; cell < s.V; cell += W) {
                const T* block = weights + cell / W * block_stride;
                for_row_blocks(task.rows, [&](int64_t row, auto rows) {
                    constexpr int R = decltype(rows)();
                    Vec<T> sum[R][GATES];
                    product<T, R, GATES>(now.h + row * P, P, block, k_stride, c_stride, s.V, sum);
                    for (int k = 0; k < R; ++k) {
                        step(task, t, row + k, cell, sum[k], now, next_h);
                    }
                });
            }
            std::swap(now.h, next_h);
        }
    }

    static void empty(const State<T>& state, int64_t at, int64_t count) {
        for (int64_t k = at; k < at + count; ++k) {
            state.h[k] = state.c[k] = state.n[k] = 0;
            state.m[k] = std::numeric_limits<T>::lowest();
        }
    }

    EXLSTM_INLINE void step(const Task& task, int64_t t, int64_t row, int64_t cell,
                            const Vec<T> (&sum)[GATES], const State<T>& now, T* next_h) const {
        const int64_t b = task.row + row, here = row * padded<T>(s.V) + cell;
        const int64_t count = s.V - cell, step = b * s.T + t;
        const int64_t at = (step * s.H + task.head) * s.V;
        Vec<T> h = load(now.h + here), c = load(now.c + here), n = load(now.n + here),
               m = load(now.m + here);
        if (!mask || mask[step]) {
            const T* input = x + at * GATES + cell;
            prefetch(input + s.H * GATES * s.V, s.V);
            const Gates<T> raw = with_input(sum, input, s.V, count);
            const Scales<Vec<T>> scales((exp_forget ? raw.f : log_sigmoid(raw.f)) + m, raw.i);
            m = scales.m;
            c = scales.f * c + scales.i * tanh(raw.z);
            n = scales.f * n + scales.i;
            h = c / (max(n, splat(std::numeric_limits<T>::min())) * (T(1) + exp(-raw.o)));
        }
        store(next_h + here, h);
        store(now.c + here, c);
        store(now.n + here, n);
        store(now.m + here, m);
        store_n(out.h + at + cell, h, count);
        if (keep || t == s.T - 1) {
            const int64_t kept = (keep ? at : (b * s.H + task.head) * s.V) + cell;
            store_n(out.c + kept, c, count);
            store_n(out.n + kept, n, count);
            store_n(out.m + kept, m, count);
        }
    }
};

// ---- backward -----------------------------------------------------------------------------------

template <typename T>
struct Backward {
    Sizes s;
    int64_t exp_forget;
    const T *x, *r;
    State<const T> start, states;
    const uint8_t *mask, *reset;
    const T* dh;
    State<const T> d_end;
    T* dx;
    State<T> d_start;

    // What one task keeps from step to step, rows x padded cells each.
    struct Memory {
        T* h;     // that the step starts from
        T* dg;    // of the pre-activations, per row [gate][cell]
        State<T> d;
    };

    void run(Threads threads) const {
        threads = worth_it(threads, s);
        const Tasks tasks(s, threads.count);
        huge_pages(dx, s.B * s.T * s.H * GATES * s.V);
        const bool packs = worth_packing<T>(s);
        const int64_t P = padded<T>(s.V), size = s.V * GATES * s.V;
        const int64_t head_size = s.V * GATES * P, back_size = P * GATES * P;
        const Scratch<T> packed(packs ? s.H * head_size : 0), back(packs ? s.H * back_size : 0);
        if (packs) {
            threads.run(s.H, [&](int64_t head) {
                pack(r + head * size, s.V, packed + head * head_size);
                pack_transposed(r + head * size, s.V, back + head * back_size);
            });
        }
        threads.run(tasks.count(), [&](int64_t index) {
            const Task task = tasks[index];
            const int64_t head = task.head;
            if (packs) {
                run<true>(task, packed + head * head_size, back + head * back_size);
            } else {
                run<false>(task, r + head * size, r + head * size);
            }
        });
    }

    template <bool PACKED>
    void run(const Task& task, const T* weights, const T* weights_back) const {
        const int64_t P = padded<T>(s.V), size = task.rows * P;
        const Scratch<T> scratch(9 * size);
        const Memory memory{scratch,
                            scratch + size,
                            {scratch + 5 * size, scratch + 6 * size, scratch + 7 * size,
                             scratch + 8 * size}};
        for (int64_t row = 0; row < task.rows; ++row) {
            const int64_t at = ((task.row + row) * s.H + task.head) * s.V, bytes = s.V * sizeof(T);
            std::memcpy(memory.d.h + row * P, d_end.h + at, bytes);
            std::memcpy(memory.d.c + row * P, d_end.c + at, bytes);
            std::memcpy(memory.d.n + row * P, d_end.n + at, bytes);
            std::memcpy(memory.d.m + row * P, d_end.m + at, bytes);
        }
        for (int64_t t = s.T - 1; t >= 0; --t) {
            gates<PACKED>(task, t, weights, memory);
            recurrent<PACKED>(task, t, weights_back, memory);
        }
        for (int64_t row = 0; row < task.rows; ++row) {
            const int64_t at = ((task.row + row) * s.H + task.head) * s.V, bytes = s.V * sizeof(T);
            std::memcpy(d_start.h + at, memory.d.h + row * P, bytes);
            std::memcpy(d_start.c + at, memory.d.c + row * P, bytes);
            std::memcpy(d_start.n + at, memory.d.n + row * P, bytes);
            std::memcpy(d_start.m + at, memory.d.m + row * P, bytes);
        }
    }

    bool is(const uint8_t* flag, const Task& task, int64_t row, int64_t t) const {
        return flag && flag[(task.row + row) * s.T + t];
    }

    // The step again, then the gradients of its pre-activations and of c, n, m before it.
    template <bool PACKED>
    void gates(const Task& task, int64_t t, const T* weights, const Memory& memory) const {
        constexpr int64_t W = lanes<T>;
        const int64_t P = padded<T>(s.V);
        for (int64_t row = 0; row < task.rows; ++row) {
            T* h = memory.h + row * P;
            if (is(reset, task, row, t)) {
                std::memset(h, 0, s.V * sizeof(T));
            } else {
                std::memcpy(h, before(states.h, start.h, task, row, t), s.V * sizeof(T));
            }
        }
        for (int64_t cell = 0; cell < s.V; cell += W) {
            const T* block = weights + (PACKED ? cell * s.V * GATES : cell);
            const int64_t k_stride = GATES * (PACKED ? W : s.V), c_stride = PACKED ? W : s.V;
            for_row_blocks(task.rows, [&](int64_t row, auto rows) {
                constexpr int R = decltype(rows)();
                Vec<T> sum[R][GATES];
                product<T, R, GATES>(memory.h + row * P, P, block, k_stride, c_stride, s.V, sum);
                for (int k = 0; k < R; ++k) step(task, t, row + k, cell, sum[k], memory);
            });
        }
    }

    // The gradient of the h before, through the pre-activations.
    template <bool PACKED>
    void recurrent(const Task& task, int64_t t, const T* weights, const Memory& memory) const {
        if constexpr (PACKED) {
            recurrent_packed(task, t, weights, memory);
        } else {
            recurrent_rare(task, t, weights, memory);
        }
        for (int64_t row = 0; row < task.rows; ++row) {
            if (!is(reset, task, row, t)) continue;
            for (T* d : {memory.d.h, memory.d.c, memory.d.n, memory.d.m}) {
                std::memset(d + row * padded<T>(s.V), 0, s.V * sizeof(T));
            }
        }
    }

    void recurrent_packed(const Task& task, int64_t t, const T* weights,
                          const Memory& memory) const {
        constexpr int64_t W = lanes<T>;
        const int64_t P = padded<T>(s.V), depth = GATES * P;
        for (int64_t cell = 0; cell < P; cell += 4 * W) {
            with_constant<4>((P - cell) / W, [&](auto blocks) {
                for_row_blocks(task.rows, [&](int64_t row, auto rows) {
                    constexpr int R = decltype(rows)(), C = decltype(blocks)();
                    Vec<T> sum[R][C];
                    product<T, R, C>(memory.dg + row * depth, depth, weights + cell * depth, C * W,
                                     W, depth, sum);
                    for (int k = 0; k < R; ++k) {
                        if (mask && !is(mask, task, row + k, t)) continue;
                        for (int c = 0; c < C; ++c) {
                            store(memory.d.h + (row + k) * P + cell + c * W, sum[k][c]);
                        }
                    }
                });
            });
        }
    }

    void recurrent_rare(const Task& task, int64_t t, const T* weights, const Memory& memory) const {
        const int64_t depth = GATES * s.V;  // whole vectors, so nothing is padded
        for (int64_t row = 0; row < task.rows; ++row) {
            if (mask && !is(mask, task, row, t)) continue;
            for (int64_t cell = 0; cell < s.V; ++cell) {
                memory.d.h[row * s.V + cell] =
                    dot(memory.dg + row * depth, weights + cell * depth, depth);
            }
        }
    }

    const T* before(const T* all, const T* first, const Task& task, int64_t row, int64_t t) const {
        const int64_t b = task.row + row;
        return t ? all + ((b * s.T + t - 1) * s.H + task.head) * s.V
                 : first + (b * s.H + task.head) * s.V;
    }

    EXLSTM_INLINE void step(const Task& task, int64_t t, int64_t row, int64_t cell,
                            const Vec<T> (&sum)[GATES], const Memory& memory) const {
        const int64_t P = padded<T>(s.V), here = row * P + cell, count = s.V - cell;
        const int64_t at = (((task.row + row) * s.T + t) * s.H + task.head) * s.V;
        T *d_raw = memory.dg + row * GATES * P + cell, *d_x = dx + at * GATES + cell;
        const Vec<T> d_h = load(memory.d.h + here) + load_n(dh + at + cell, count);
        if (mask && !is(mask, task, row, t)) {
            store(memory.d.h + here, d_h);
            for (int g = 0; g < GATES; ++g) {
                store(d_raw + g * P, Vec<T>{});
                store_n(d_x + g * s.V, Vec<T>{}, count);
            }
            return;
        }
        const Vec<T> one = splat(T(1));
        Vec<T> c_prev{}, n_prev{}, m_prev = splat(std::numeric_limits<T>::lowest());
        if (!is(reset, task, row, t)) {
            c_prev = load_n(before(states.c, start.c, task, row, t) + cell, count);
            n_prev = load_n(before(states.n, start.n, task, row, t) + cell, count);
            m_prev = load_n(before(states.m, start.m, task, row, t) + cell, count);
        }
        const T* input = x + at * GATES + cell;
        const int64_t per_step = s.H * s.V;
        prefetch(input - per_step * GATES, s.V);
        prefetch<1>(d_x - per_step * GATES, s.V);
        for (const T* next : {dh + at - per_step, states.c + at - 2 * per_step,
                              states.n + at - 2 * per_step, states.m + at - 2 * per_step}) {
            __builtin_prefetch(next + cell);
        }
        const Gates<T> raw = with_input(sum, input, s.V, count);
        Vec<T> slope_f = one;
        const Vec<T> log_f = exp_forget ? raw.f : log_sigmoid(raw.f, &slope_f);
        const Scales<Vec<T>> scales(log_f + m_prev, raw.i);
        const Vec<T> z = tanh(raw.z), o = sigmoid(raw.o);
        const Vec<T> c = scales.f * c_prev + scales.i * z, n_true = scales.f * n_prev + scales.i;
        const Vec<T> n = max(n_true, splat(std::numeric_limits<T>::min()));
        const Vec<T> o_over_n = o / n;
        // The floor of n has no gradient.
        const Vec<T> h_over_n = select(n_true < n, Vec<T>{}, o_over_n * c / n);

        const Vec<T> d_c = load(memory.d.c + here) + d_h * o_over_n;
        const Vec<T> d_n = load(memory.d.n + here) - d_h * h_over_n;
        const Vec<T> through_f = scales.f * (d_c * c_prev + d_n * n_prev);
        const Vec<T> through_i = scales.i * (d_c * z + d_n);
        const Vec<T> through_m = load(memory.d.m + here) - through_f - through_i;
        const Vec<T> d_older = select(scales.older_wins, through_f + through_m, through_f);
        const Vec<T> d_gates[GATES] = {
            select(scales.older_wins, through_i, through_i + through_m),
            d_older * slope_f,
            d_c * scales.i * (one - z * z),
            d_h * c * o_over_n * (one - o),
        };
        for (int g = 0; g < GATES; ++g) {
            store(d_raw + g * P, d_gates[g]);
            store_n(d_x + g * s.V, d_gates[g], count);
        }
        store(memory.d.c + here, d_c * scales.f);
        store(memory.d.n + here, d_n * scales.f);
        store(memory.d.m + here, d_older);
    }
};

}  // namespace

#define EXLSTM_SLSTM(T, NAME)                                                                      \
    EXLSTM_EXPORT void exlstm_slstm_forward_##NAME(                                                \
        exlstm::ParallelFor parallel, int64_t threads, int64_t B, int64_t steps, int64_t H,        \
        int64_t V, int64_t exp_forget, int64_t keep, const T* x, const T* r, const T* h0,          \
        const T* c0, const T* n0, const T* m0, const uint8_t* mask, const uint8_t* reset, T* h,    \
        T* c, T* n, T* m) {                                                                        \
        Forward<T>{{B, steps, H, V}, exp_forget, keep, x, r, {h0, c0, n0, m0}, mask, reset,        \
                   {h, c, n, m}}                                                                   \
            .run({parallel, threads});                                                             \
    }                                                                                              \
    EXLSTM_EXPORT void exlstm_slstm_backward_##NAME(                                               \
        exlstm::ParallelFor parallel, int64_t threads, int64_t B, int64_t steps, int64_t H,        \
        int64_t V, int64_t exp_forget, const T* x, const T* r, const T* h0, const T* c0,           \
        const T* n0, const T* m0, const T* h, const T* c, const T* n, const T* m,                  \
        const uint8_t* mask, const uint8_t* reset, const T* dh, const T* dh_last,                  \
        const T* dc_last, const T* dn_last, const T* dm_last, T* dx, T* dh0, T* dc0, T* dn0,       \
        T* dm0) {                                                                                  \
        Backward<T>{{B, steps, H, V}, exp_forget, x, r, {h0, c0, n0, m0}, {h, c, n, m}, mask,      \
                    reset, dh, {dh_last, dc_last, dn_last, dm_last}, dx, {dh0, dc0, dn0, dm0}}     \
            .run({parallel, threads});                                                             \
    }

EXLSTM_SLSTM(float, float32)
EXLSTM_SLSTM(double, float64)
