// The head norm with its skip and gate on the CPU, forward and backward, each in one pass over
// memory.
//
//     y = (x * weight + skip * skipped) * activation(gate)      x = (h - mean) / std, per head
//
// A row is one step of one batch row: H heads of V values side by side. `gate`, `skipped` and `dy`
// may be slices of something wider: each comes with the stride of its rows. What all rows share,
// dweight and dskip, is summed chunk of rows by chunk of rows and then over the chunks in order; the
// chunks follow from the number of rows alone, so the number of threads changes no bit.

#include <cmath>

#include "cpu.hpp"

namespace {

using namespace exlstm;

enum class Gate { none, sigmoid, silu };

template <typename T>
struct Rows {
    T* data;  // null: there is none
    int64_t stride;

    T* at(int64_t row, int64_t column) const { return data + row * stride + column; }
};

// h - mean = (h - near) - rest: where h has a large offset, its mean is no number of its dtype.
template <typename T>
struct Moments {
    T near, rest, inverse_std;

};

// body(first, n) for every vector of V values; n is a constant but in the last.
template <typename T, typename Body>
EXLSTM_INLINE void for_vectors(int64_t V, Body&& body) {
    int64_t v = 0;
    for (; v + lanes<T> <= V; v += lanes<T>) body(v, std::integral_constant<int64_t, lanes<T>>{});
    if (v < V) body(v, V - v);
}

// The first n lanes; zero in the others.
template <typename V>
EXLSTM_INLINE V first(V x, int64_t n) {
    if (n >= lanes<ScalarOf<V>>) return x;
    IntsOf<V> lane{};
    for (int64_t k = 0; k < lanes<ScalarOf<V>>; ++k) lane[k] = k;
    return select<V>(lane < static_cast<decltype(lane[0] + 0)>(n), x, V{});
}

template <Gate GATE, typename V>
EXLSTM_INLINE V activation(V gate, V* slope = nullptr) {
    const auto one = ScalarOf<V>(1);
    const V s = sigmoid(gate);
    if (slope) *slope = GATE == Gate::silu ? s * (one + gate * (one - s)) : s * (one - s);
    return GATE == Gate::silu ? gate * s : s;
}

template <typename T>
Moments<T> moments(const T* h, int64_t V, T eps) {
    Vec<T> total{}, rest{}, squares{};
    for_vectors<T>(V, [&](int64_t v, auto n) { total += load_n(h + v, n); });
    const T near = sum(total) / V;
    for_vectors<T>(V, [&](int64_t v, auto n) {
        const Vec<T> d = first(load_n(h + v, n) - near, n);
        rest += d;
        squares += d * d;
    });
    const T mean_rest = sum(rest) / V;
    return {near, mean_rest, T(1) / std::sqrt(sum(squares) / V - mean_rest * mean_rest + eps)};
}

// x of a row, from h and the moments of its heads. It writes up to a vector behind the row.
template <typename T>
void normalise(const T* h, const Moments<T>* heads, int64_t H, int64_t V, T* x) {
    for (int64_t head = 0; head < H; ++head, h += V, x += V) {
        const Moments<T> m = heads[head];
        for_vectors<T>(V, [&](int64_t v, auto n) {
            store(x + v, ((load_n(h + v, n) - m.near) - m.rest) * m.inverse_std);
        });
    }
}

// Little work is done before other threads are awake.
constexpr int64_t SERIAL_BELOW = 1 << 15;

template <typename T>
struct HeadNorm {
    int64_t rows, H, V;
    const T *h, *weight;
    Rows<const T> gate;
    const T* skip;
    Rows<const T> skipped;

    int64_t width() const { return H * V; }

    // About the root of the number of rows: as many to add in a chunk as there are chunks.
    int64_t chunk_rows() const {
        int64_t count = 16;
        while (count * count < rows) count *= 2;
        return count;
    }

    // body(chunk, first row, last row + 1)
    template <typename Body>
    void for_chunks(Threads threads, Body&& body) const {
        if (rows * width() < SERIAL_BELOW) threads.count = 1;
        const int64_t size = chunk_rows();
        threads.run((rows + size - 1) / size, [&](int64_t chunk) {
            const int64_t begin = chunk * size;
            body(chunk, begin, begin + size < rows ? begin + size : rows);
        });
    }

    // body(the gate as a constant, whether there is a skip as a constant)
    template <typename Body>
    void specialised(bool silu, Body&& body) const {
        const auto with_gate = [&](auto has_skip) {
            if (!gate.data) return body(std::integral_constant<Gate, Gate::none>{}, has_skip);
            if (silu) return body(std::integral_constant<Gate, Gate::silu>{}, has_skip);
            body(std::integral_constant<Gate, Gate::sigmoid>{}, has_skip);
        };
        skip ? with_gate(std::true_type{}) : with_gate(std::false_type{});
    }
};

template <typename T>
struct Forward : HeadNorm<T> {
    T eps, *y;
    Moments<T>* kept;

    void run(Threads threads, bool silu) const {
        huge_pages(y, this->rows * this->width());
        this->specialised(silu, [&](auto gate, auto skip) {
            this->for_chunks(threads, [&](int64_t, int64_t begin, int64_t end) {
                const Scratch<T> x(this->width() + lanes<T>);
                for (int64_t row = begin; row < end; ++row) one<gate, skip>(row, x);
            });
        });
    }

    template <Gate GATE, bool SKIP>
    void one(int64_t row, T* x) const {
        const T* h = this->h + row * this->width();
        Moments<T>* heads = kept + row * this->H;
        for (int64_t head = 0; head < this->H; ++head) {
            heads[head] = moments(h + head * this->V, this->V, eps);
        }
        normalise(h, heads, this->H, this->V, x);
        for_vectors<T>(this->width(), [&](int64_t v, auto n) {
            Vec<T> out = load(x + v) * load_n(this->weight + v, n);
            if constexpr (SKIP) {
                out += load_n(this->skip + v, n) * load_n(this->skipped.at(row, v), n);
            }
            if constexpr (GATE != Gate::none) {
                out *= activation<GATE>(load_n(this->gate.at(row, v), n));
            }
            store_n(y + row * this->width() + v, out, n);
        });
    }
};

template <typename T>
struct Backward : HeadNorm<T> {
    const Moments<T>* kept;
    Rows<const T> dy;
    T *dh, *dweight, *dgate, *dskip, *dskipped;

    void run(Threads threads, bool silu) const {
        const int64_t width = this->width(), size = this->chunk_rows();
        const int64_t chunks = (this->rows + size - 1) / size;
        for (T* gradient : {dh, dgate, dskipped}) {
            if (gradient) huge_pages(gradient, this->rows * width);
        }
        const Scratch<T> sums(chunks * 2 * width);
        this->specialised(silu, [&](auto gate, auto skip) {
            this->for_chunks(threads, [&](int64_t chunk, int64_t begin, int64_t end) {
                const Scratch<T> x(width + lanes<T>), dx(width + lanes<T>);
                for (int64_t row = begin; row < end; ++row) {
                    one<gate, skip>(row, sums + chunk * 2 * width, x, dx);
                }
            });
        });
        add(sums, chunks, dweight);
        if (dskip) add(sums + width, chunks, dskip);
    }

    void add(const T* sums, int64_t chunks, T* out) const {
        for_vectors<T>(this->width(), [&](int64_t v, auto n) {
            Vec<T> total{};
            for (int64_t chunk = 0; chunk < chunks; ++chunk) {
                total += load_n(sums + chunk * 2 * this->width() + v, n);
            }
            store_n(out + v, total, n);
        });
    }

    template <Gate GATE, bool SKIP>
    void one(int64_t row, T* sums, T* x_row, T* dx_row) const {
        const int64_t width = this->width(), at = row * width;
        const Moments<T>* heads = kept + row * this->H;
        normalise(this->h + at, heads, this->H, this->V, x_row);
        for_vectors<T>(width, [&](int64_t v, auto n) {
            const Vec<T> x = load(x_row + v), weight = load_n(this->weight + v, n);
            Vec<T> d = load_n(dy.at(row, v), n), skip{}, skipped{};
            if constexpr (SKIP) {
                skip = load_n(this->skip + v, n);
                skipped = load_n(this->skipped.at(row, v), n);
            }
            if constexpr (GATE != Gate::none) {
                Vec<T> slope;
                const Vec<T> open = activation<GATE>(load_n(this->gate.at(row, v), n), &slope);
                store_n(dgate + at + v, d * (x * weight + skip * skipped) * slope, n);
                d *= open;
            }
            if constexpr (SKIP) {
                store_n(dskipped + at + v, d * skip, n);
                add_to(sums + width + v, d * skipped, n);
            }
            add_to(sums + v, d * x, n);
            store(dx_row + v, d * weight);
        });
        for (int64_t head = 0; head < this->H; ++head) {
            const int64_t from = head * this->V;
            through_norm(x_row + from, dx_row + from, heads[head].inverse_std, dh + at + from);
        }
    }

    // dh = (dx - mean(dx) - x * mean(dx * x)) / std
    void through_norm(const T* x, const T* dx, T inverse_std, T* out) const {
        Vec<T> dx_sum{}, dx_x_sum{};
        for_vectors<T>(this->V, [&](int64_t v, auto n) {
            const Vec<T> d = first(load(dx + v), n);
            dx_sum += d;
            dx_x_sum += d * first(load(x + v), n);
        });
        const T dx_mean = sum(dx_sum) / this->V, dx_x_mean = sum(dx_x_sum) / this->V;
        for_vectors<T>(this->V, [&](int64_t v, auto n) {
            store_n(out + v, (load(dx + v) - dx_mean - load(x + v) * dx_x_mean) * inverse_std, n);
        });
    }

    static EXLSTM_INLINE void add_to(T* p, Vec<T> v, int64_t n) {
        store_n(p, load_n(p, n) + v, n);
    }
};

}  // namespace

// `eps` is the bits of a double; strides are those of rows, in values.
#define EXLSTM_HEAD_NORM(T, NAME)                                                                  \
    EXLSTM_EXPORT void exlstm_head_norm_forward_##NAME(                                            \
        exlstm::ParallelFor parallel, int64_t threads, int64_t rows, int64_t H, int64_t V,         \
        int64_t eps, int64_t silu, const T* h, const T* weight, const T* gate,                     \
        int64_t gate_stride, const T* skip, const T* skipped, int64_t skipped_stride, T* y,        \
        T* kept) {                                                                                 \
        Forward<T>{{rows, H, V, h, weight, {gate, gate_stride}, skip, {skipped, skipped_stride}},  \
                   static_cast<T>(exlstm::bits<double>(eps)),                                      \
                   y,                                                                              \
                   reinterpret_cast<Moments<T>*>(kept)}                                            \
            .run({parallel, threads}, silu);                                                       \
    }                                                                                              \
    EXLSTM_EXPORT void exlstm_head_norm_backward_##NAME(                                           \
        exlstm::ParallelFor parallel, int64_t threads, int64_t rows, int64_t H, int64_t V,         \
        int64_t silu, const T* h, const T* weight, const T* gate, int64_t gate_stride,             \
        const T* skip, const T* skipped, int64_t skipped_stride, const T* kept, const T* dy,       \
        int64_t dy_stride, T* dh, T* dweight, T* dgate, T* dskip, T* dskipped) {                   \
        Backward<T>{{rows, H, V, h, weight, {gate, gate_stride}, skip, {skipped, skipped_stride}}, \
                    reinterpret_cast<const Moments<T>*>(kept),                                     \
                    {dy, dy_stride},                                                               \
                    dh,                                                                            \
                    dweight,                                                                       \
                    dgate,                                                                         \
                    dskip,                                                                         \
                    dskipped}                                                                      \
            .run({parallel, threads}, silu);                                                       \
    }

EXLSTM_HEAD_NORM(float, float32)
EXLSTM_HEAD_NORM(double, float64)
