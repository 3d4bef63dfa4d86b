// The sLSTM on the CPU, forward and backward; the math is slstm_reference.py, the derivation of the
// backward pass slstm_sequential.py.
//
// Heads and batch rows do not see each other, so each task, some rows of one head, runs its whole
// time loop alone while the head's recurrent weights stay in its core's cache. A step works block
// by block of cells: the recurrent product of all four gates for a few rows, in registers, then
// what is per cell. How rows are divided among tasks changes no bit of any result.
//
// Layouts as in Python: x and dx B T H G V or B T G H V; r H V G V, from before to, for the forward
// pass also by rows, G H V V, to before from; states B T H V or B H V; flags B T bytes or null.

#include "slstm_cpu.hpp"

namespace {

// ---- forward ------------------------------------------------------------------------------------

template <typename T>
struct Forward {
    Sizes s;
    int64_t exp_forget;
    const T* x;
    int64_t r_by_rows;
    const T* r;
    State<const T> start;
    const uint8_t *mask, *reset;
    T* h;
    State<T> last;  // without h
    State<T> kept;  // without h; for the backward pass, or null

    void run(Threads threads) const {
        threads = worth_it(threads, s);
        const Tasks tasks(s, threads.count);
        huge_pages(h, s.B * s.T * s.H * s.V);
        const bool packs = worth_packing<T>(s);
        const int64_t head_size = padded<T>(s.V) * s.V * GATES;
        const Scratch<T> packed(packs ? s.H * head_size : 0);
        const int64_t size = s.V * s.V, stride = r_by_rows ? size : GATES * size;
        if (packs) {
            threads.run(s.H, [&](int64_t head) {
                const T* from = r + head * stride;
                T* to = packed + head * head_size;
                r_by_rows ? pack_rows(from, s.V, s.H * size, to) : pack(from, s.V, to);
            });
        }
        threads.run(tasks.count(), [&](int64_t index) {
            const Task task = tasks[index];
            run(task, packs ? packed + task.head * head_size : r + task.head * stride, packs);
        });
    }

    void run(const Task& task, const T* weights, bool packs) const {
        constexpr int64_t W = lanes<T>;
        const int64_t P = padded<T>(s.V), size = task.rows * P;
        const int64_t k_stride = packs ? GATES * W : GATES * s.V, c_stride = packs ? W : s.V;
        const bool by_rows = r_by_rows && !packs;
        const int64_t block_stride = packs ? s.V * GATES * W : by_rows ? W * s.V : W;
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
            const bool keeps = kept.c && (t + 1) % s.kept_steps == 0;
            for (int64_t row = 0; reset && row < task.rows; ++row) {
                if (reset[(task.row + row) * s.T + t]) empty(now, row * P, P);
            }
            for (int64_t cell = 0; cell < s.V; cell += W) {
                const T* block = weights + cell / W * block_stride;
                for_row_tiles(task.rows, [&](int64_t row, auto rows) {
                    constexpr int R = decltype(rows)();
                    Vec<T> sum[R][GATES];
                    const T* h = now.h + row * P;
                    if (by_rows) {
                        product_by_rows<T, R>(h, P, block, s.H * s.V * s.V, s.V, sum);
                    } else {
                        product<T, R, GATES>(h, P, block, k_stride, c_stride, s.V, sum);
                    }
                    for (int k = 0; k < R; ++k) {
                        step(task, t, row + k, cell, sum[k], now, next_h, keeps);
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
                            const Vec<T> (&sum)[GATES], const State<T>& now, T* next_h,
                            bool keeps) const {
        const int64_t b = task.row + row, here = row * padded<T>(s.V) + cell;
        const int64_t count = s.V - cell, step = b * s.T + t;
        const int64_t at = (step * s.H + task.head) * s.V;
        Vec<T> h = load(now.h + here), c = load(now.c + here), n = load(now.n + here),
               m = load(now.m + here);
        if (!mask || mask[step]) {
            const T* input = x + s.input(b, t, task.head) + cell;
            prefetch(input + s.H * GATES * s.V, s.gate_stride);
            const Gates<T> raw = with_input(sum, input, s.gate_stride, count);
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
        exlstm::store_n(this->h + at + cell, h, count);
        if (t == s.T - 1) {
            store_n(last, (b * s.H + task.head) * s.V + cell, c, n, m, count);
        }
        if (keeps) store_n(kept, s.kept(b, t, task.head) + cell, c, n, m, count);
    }

    static void store_n(const State<T>& to, int64_t at, Vec<T> c, Vec<T> n, Vec<T> m,
                        int64_t count) {
        exlstm::store_n(to.c + at, c, count);
        exlstm::store_n(to.n + at, n, count);
        exlstm::store_n(to.m + at, m, count);
    }
};

// ---- backward -----------------------------------------------------------------------------------

// What the reverse loop needs of a step, per cell. f and i are the gates in effect, z and o activated.
enum Factor {
    FORGET,       // f
    INPUT,        // i
    OLDER_WINS,   // 1 or 0: whose exponent m is
    CANDIDATE,    // z
    C_BEFORE,     // c and n that the step started from
    N_BEFORE,     //
    H_BY_C,       // dh/dc = o / n
    H_BY_N,       // -dh/dn = o c / n^2, or 0 at the floor of n, which has no gradient
    SLOPE_F,      // of log f in f's pre-activation
    SLOPE_Z,      // of c in z's
    SLOPE_O,      // of h in o's
    FACTORS
};

template <typename T>
struct Backward {
    Sizes s;
    int64_t exp_forget;
    const T *x, *r;
    State<const T> start;
    const T* h;
    State<const T> kept;  // without h
    const uint8_t *mask, *reset;
    const T* dh;
    State<const T> d_end;
    T* dx;
    State<T> d_start;

    // What one task keeps for the steps between two kept states, or from step to step: rows x padded cells each.
    struct Memory {
        T* h;        // that each step starts from
        T* factors;  // of each step, per row [block of cells][factor][lane]
        T* dg;       // of the pre-activations of one step, per row [gate][cell]
        State<T> now, d;
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
            for_row_groups(task, [&](const Task& group) {
                if (packs) {
                    run<true>(group, packed + head * head_size, back + head * back_size);
                } else {
                    run<false>(group, r + head * size, r + head * size);
                }
            });
        });
    }

    // As many rows at once as leave the factors in the cache.
    template <typename Body>
    static void for_row_groups(const Task& task, Body&& body) {
        int64_t groups = (task.rows + 7) / 8;
        for (int64_t row = 0; row < task.rows; --groups) {
            const int64_t count = (task.rows - row + groups - 1) / groups;
            body(Task{task.head, task.row + row, count});
            row += count;
        }
    }

    template <bool PACKED>
    void run(const Task& task, const T* weights, const T* weights_back) const {
        const int64_t size = task.rows * padded<T>(s.V), length = s.kept_steps;
        const int64_t steps = length < s.T ? length : s.T;
        const Scratch<T> scratch((steps * (FACTORS + 1) + GATES + 7) * size);
        T* next = scratch;
        const auto take = [&](int64_t count) { return (next += count * size) - count * size; };
        const Memory memory{take(steps), take(steps * FACTORS), take(GATES),
                            {nullptr, take(1), take(1), take(1)},
                            {take(1), take(1), take(1), take(1)}};
        for (int64_t row = 0; row < task.rows; ++row) {
            copy(memory.d, row * padded<T>(s.V), d_end, (task.row + row) * s.H + task.head);
            std::memcpy(memory.d.h + row * padded<T>(s.V),
                        d_end.h + ((task.row + row) * s.H + task.head) * s.V, s.V * sizeof(T));
        }
        for (int64_t first = (s.T - 1) / length * length; first >= 0; first -= length) {
            const int64_t end = first + length < s.T ? first + length : s.T;
            replay<PACKED>(task, first, end, weights, memory);
            for (int64_t t = end - 1; t >= first; --t) {
                gates(task, t, t - first, memory);
                recurrent<PACKED>(task, t, weights_back, memory);
            }
        }
        for (int64_t row = 0; row < task.rows; ++row) {
            const int64_t at = ((task.row + row) * s.H + task.head) * s.V, bytes = s.V * sizeof(T);
            const int64_t from = row * padded<T>(s.V);
            std::memcpy(d_start.h + at, memory.d.h + from, bytes);
            std::memcpy(d_start.c + at, memory.d.c + from, bytes);
            std::memcpy(d_start.n + at, memory.d.n + from, bytes);
            std::memcpy(d_start.m + at, memory.d.m + from, bytes);
        }
    }

    // c, n and m of one row, which is the `index`-th of those `from`.
    void copy(const State<T>& to, int64_t at, const State<const T>& from, int64_t index) const {
        std::memcpy(to.c + at, from.c + index * s.V, s.V * sizeof(T));
        std::memcpy(to.n + at, from.n + index * s.V, s.V * sizeof(T));
        std::memcpy(to.m + at, from.m + index * s.V, s.V * sizeof(T));
    }

    bool is(const uint8_t* flag, const Task& task, int64_t row, int64_t t) const {
        return flag && flag[(task.row + row) * s.T + t];
    }

    // Where h before a step is.
    const T* h_before(const Task& task, int64_t row, int64_t t) const {
        const int64_t b = task.row + row;
        return t ? h + ((b * s.T + t - 1) * s.H + task.head) * s.V
                 : start.h + (b * s.H + task.head) * s.V;
    }

    // The steps from `first` to `end` again. Since every h is known, all their products are one.
    template <bool PACKED>
    void replay(const Task& task, int64_t first, int64_t end, const T* weights,
                const Memory& memory) const {
        constexpr int64_t W = lanes<T>;
        const int64_t P = padded<T>(s.V), all = (end - first) * task.rows;
        for (int64_t row = 0; row < task.rows; ++row) {
            const int64_t b = task.row + row;
            if (first) {
                copy(memory.now, row * P, kept, s.kept(b, first - 1, task.head) / s.V);
            } else {
                copy(memory.now, row * P, start, b * s.H + task.head);
            }
        }
        for (int64_t k = 0; k < all; ++k) {
            const int64_t row = k % task.rows, t = first + k / task.rows;
            if (is(reset, task, row, t)) {
                std::memset(memory.h + k * P, 0, s.V * sizeof(T));
            } else {
                std::memcpy(memory.h + k * P, h_before(task, row, t), s.V * sizeof(T));
            }
        }
        for (int64_t cell = 0; cell < s.V; cell += W) {
            const T* block = weights + (PACKED ? cell * s.V * GATES : cell);
            const int64_t k_stride = GATES * (PACKED ? W : s.V), c_stride = PACKED ? W : s.V;
            for_row_tiles(all, [&](int64_t k, auto rows) {
                constexpr int R = decltype(rows)();
                Vec<T> sum[R][GATES];
                product<T, R, GATES>(memory.h + k * P, P, block, k_stride, c_stride, s.V, sum);
                for (int j = 0; j < R; ++j) {
                    const int64_t row = (k + j) % task.rows, t = first + (k + j) / task.rows;
                    if (is(reset, task, row, t)) empty(memory.now, row * P + cell);
                    if (mask && !is(mask, task, row, t)) continue;
                    step(task, t, row, cell, sum[j], memory.now,
                         memory.factors + ((k + j) * P + cell) * FACTORS);
                }
            });
        }
    }

    static void empty(const State<T>& state, int64_t at) {
        store(state.c + at, Vec<T>{});
        store(state.n + at, Vec<T>{});
        store(state.m + at, splat(std::numeric_limits<T>::lowest()));
    }

    EXLSTM_INLINE void step(const Task& task, int64_t t, int64_t row, int64_t cell,
                            const Vec<T> (&sum)[GATES], const State<T>& now, T* factors) const {
        constexpr int64_t W = lanes<T>;
        const int64_t here = row * padded<T>(s.V) + cell;
        const T* input = x + s.input(task.row + row, t, task.head) + cell;
        prefetch(input + s.H * GATES * s.V, s.gate_stride);
        const Vec<T> c_before = load(now.c + here), n_before = load(now.n + here);
        const Vec<T> m_before = load(now.m + here), one = splat(T(1));
        const Gates<T> raw = with_input(sum, input, s.gate_stride, s.V - cell);
        Vec<T> slope_f = one;
        const Vec<T> log_f = exp_forget ? raw.f : log_sigmoid(raw.f, &slope_f);
        const Scales<Vec<T>> scales(log_f + m_before, raw.i);
        const Vec<T> z = tanh(raw.z), o = sigmoid(raw.o);
        const Vec<T> c = scales.f * c_before + scales.i * z, n_true = scales.f * n_before + scales.i;
        const Vec<T> n = max(n_true, splat(std::numeric_limits<T>::min()));
        const Vec<T> h_by_c = o / n;
        store(now.c + here, c);
        store(now.n + here, n_true);
        store(now.m + here, scales.m);
        store(factors + FORGET * W, scales.f);
        store(factors + INPUT * W, scales.i);
        store(factors + OLDER_WINS * W, select(scales.older_wins, one, Vec<T>{}));
        store(factors + CANDIDATE * W, z);
        store(factors + C_BEFORE * W, c_before);
        store(factors + N_BEFORE * W, n_before);
        store(factors + H_BY_C * W, h_by_c);
        store(factors + H_BY_N * W, select(n_true < n, Vec<T>{}, h_by_c * c / n));
        store(factors + SLOPE_F * W, slope_f);
        store(factors + SLOPE_Z * W, scales.i * (one - z * z));
        store(factors + SLOPE_O * W, c * h_by_c * (one - o));
    }

    // The gradients of a step's pre-activations and of c, n, m before it.
    void gates(const Task& task, int64_t t, int64_t replayed, const Memory& memory) const {
        constexpr int64_t W = lanes<T>;
        const int64_t P = padded<T>(s.V);
        for (int64_t row = 0; row < task.rows; ++row) {
            const int64_t b = task.row + row, at = ((b * s.T + t) * s.H + task.head) * s.V;
            const T* factors = memory.factors + (replayed * task.rows + row) * P * FACTORS;
            for (int64_t cell = 0; cell < s.V; cell += W, factors += W * FACTORS) {
                const int64_t here = row * P + cell, count = s.V - cell;
                T* d_raw = memory.dg + row * GATES * P + cell;
                T* d_x = dx + s.input(b, t, task.head) + cell;
                __builtin_prefetch(dh + at - s.H * s.V + cell);
                prefetch<1>(d_x - s.H * GATES * s.V, s.gate_stride);
                const Vec<T> d_h = load(memory.d.h + here) + load_n(dh + at + cell, count);
                Vec<T> d_gates[GATES] = {};
                if (mask && !is(mask, task, row, t)) {
                    store(memory.d.h + here, d_h);
                } else {
                    step_back(factors, here, d_h, memory.d, d_gates);
                }
                for (int g = 0; g < GATES; ++g) {
                    store(d_raw + g * P, d_gates[g]);
                    store_n(d_x + g * s.gate_stride, d_gates[g], count);
                }
            }
        }
    }

    EXLSTM_INLINE void step_back(const T* factors, int64_t here, Vec<T> d_h, const State<T>& d,
                                 Vec<T> (&d_gates)[GATES]) const {
        const auto factor = [&](Factor which) { return load(factors + which * lanes<T>); };
        const Vec<T> f = factor(FORGET), i = factor(INPUT), older = factor(OLDER_WINS);
        const Vec<T> d_c = load(d.c + here) + d_h * factor(H_BY_C);
        const Vec<T> d_n = load(d.n + here) - d_h * factor(H_BY_N);
        const Vec<T> through_f = f * (d_c * factor(C_BEFORE) + d_n * factor(N_BEFORE));
        const Vec<T> through_i = i * (d_c * factor(CANDIDATE) + d_n);
        const Vec<T> through_m = load(d.m + here) - through_f - through_i;
        const Vec<T> d_older = through_f + older * through_m;
        d_gates[0] = through_i + (T(1) - older) * through_m;
        d_gates[1] = d_older * factor(SLOPE_F);
        d_gates[2] = d_c * factor(SLOPE_Z);
        d_gates[3] = d_h * factor(SLOPE_O);
        store(d.c + here, d_c * f);
        store(d.n + here, d_n * f);
        store(d.m + here, d_older);
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
                for_row_tiles(task.rows, [&](int64_t row, auto rows) {
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
};

}  // namespace

#define EXLSTM_SLSTM(T, NAME)                                                                      \
    EXLSTM_EXPORT void exlstm_slstm_forward_##NAME(                                                \
        exlstm::ParallelFor parallel, int64_t threads, int64_t B, int64_t steps, int64_t H,        \
        int64_t V, int64_t kept_steps, int64_t head_stride, int64_t gate_stride,                   \
        int64_t exp_forget, const T* x, int64_t r_by_rows, const T* r, const T* h0, const T* c0,   \
        const T* n0, const T* m0, const uint8_t* mask, const uint8_t* reset, T* h, T* c_last,      \
        T* n_last, T* m_last, T* c_kept, T* n_kept, T* m_kept) {                                   \
        const Sizes sizes{B, steps, H, V, kept_steps, head_stride, gate_stride};                   \
        Forward<T>{sizes, exp_forget, x, r_by_rows, r, {h0, c0, n0, m0}, mask, reset, h,           \
                   {nullptr, c_last, n_last, m_last}, {nullptr, c_kept, n_kept, m_kept}}           \
            .run({parallel, threads});                                                             \
    }                                                                                              \
    EXLSTM_EXPORT void exlstm_slstm_backward_##NAME(                                               \
        exlstm::ParallelFor parallel, int64_t threads, int64_t B, int64_t steps, int64_t H,        \
        int64_t V, int64_t kept_steps, int64_t head_stride, int64_t gate_stride,                   \
        int64_t exp_forget, const T* x, const T* r, const T* h0, const T* c0, const T* n0,         \
        const T* m0, const T* h, const T* c_kept, const T* n_kept, const T* m_kept,                \
        const uint8_t* mask, const uint8_t* reset, const T* dh, const T* dh_last,                  \
        const T* dc_last, const T* dn_last, const T* dm_last, T* dx, T* dh0, T* dc0, T* dn0,       \
        T* dm0) {                                                                                  \
        const Sizes sizes{B, steps, H, V, kept_steps, head_stride, gate_stride};                   \
        Backward<T>{sizes, exp_forget, x, r, {h0, c0, n0, m0}, h,                                  \
                    {nullptr, c_kept, n_kept, m_kept}, mask, reset, dh,                            \
                    {dh_last, dc_last, dn_last, dm_last}, dx, {dh0, dc0, dn0, dm0}}                \
            .run({parallel, threads});                                                             \
    }

EXLSTM_SLSTM(float, float32)
EXLSTM_SLSTM(double, float64)
