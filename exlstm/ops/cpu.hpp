// What the CPU kernels share: vectors, elementary functions on them, threads, scratch memory.
//
// The width of a vector is a constant of the ISA level a file is compiled for, EXLSTM_VECTOR_BYTES:
// wider vectors than the machine's are lowered to something 20 times slower. Kernels are templates
// over the scalar T, float or double, and say what they do per vector:
//
//   Vec<T>                     a vector of lanes<T> scalars; + - * / < >= work on it, also with
//                              scalars; splat<T>(s) makes one
//   load<T>(p), store(p, v)    anywhere in memory, no alignment needed
//   load_n<T>(p, n), store_n(p, v, n)
//                              the first n lanes only (n > lanes: all); others load as zero
//   select(condition, a, b)    per lane; max(a, b): a where they are equal
//   sum(v)                     of the lanes, always in the same order
//   padded<T>(n), for_row_tiles, with_constant
//                              sizes in whole vectors and tiles, loops over them
//   exp, tanh, sigmoid, log_sigmoid
//                              on vectors; float: 1-2 ulp, double: below 1e-15 relative;
//                              infinities give the limit and NaN stays NaN
//
// An entry point is `EXLSTM_EXPORT void exlstm_<name>_<float32|float64>(ParallelFor parallel,
// int64_t threads, ...)`, the rest pointers and int64_t only; exlstm/ops/native.py calls it. Its
// threads are torch's, `const Threads threads{parallel, count}`:
//
//   threads.run(tasks, [&](int64_t task) { ... });    each task once, in any order
//   Scratch<T> memory(count);                         zeroed, aligned, freed at its scope's end
//   huge_pages(p, count);                             for a large new tensor, before it is written
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>
#ifdef __linux__
#include <sys/mman.h>
#endif

#ifndef EXLSTM_VECTOR_BYTES
#error "EXLSTM_VECTOR_BYTES is the width of a vector of the ISA level: see CMakeLists.txt"
#endif

#define EXLSTM_EXPORT extern "C" __attribute__((visibility("default")))
#define EXLSTM_INLINE inline __attribute__((always_inline))

namespace exlstm {

// ---- vectors ------------------------------------------------------------------------------------

template <typename T>
struct VectorOf {
    using Int = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
    typedef T type __attribute__((vector_size(EXLSTM_VECTOR_BYTES)));
    typedef Int ints __attribute__((vector_size(EXLSTM_VECTOR_BYTES)));
};
template <typename T>
using Vec = typename VectorOf<T>::type;
template <typename V>
using ScalarOf = std::decay_t<decltype(std::declval<V>()[0])>;
template <typename V>
using IntsOf = typename VectorOf<ScalarOf<V>>::ints;

template <typename T>
constexpr int64_t lanes = EXLSTM_VECTOR_BYTES / sizeof(T);

template <typename T>
EXLSTM_INLINE Vec<T> splat(T s) {
    return s - Vec<T>{};  // s + 0 would be an addition, since it is not s for s = -0
}

template <typename T>
EXLSTM_INLINE Vec<T> load(const T* p) {
    Vec<T> v;
    std::memcpy(&v, p, sizeof v);
    return v;
}

template <typename V>
EXLSTM_INLINE void store(ScalarOf<V>* p, V v) {
    std::memcpy(p, &v, sizeof v);
}

template <typename T>
EXLSTM_INLINE Vec<T> load_n(const T* p, int64_t n) {
    if (n >= lanes<T>) return load(p);
    const int count = static_cast<int>(n);
    T lane[lanes<T>];
    for (int k = 0; k < lanes<T>; ++k) lane[k] = k < count ? p[k] : T(0);
    return load(lane);
}

template <typename V>
EXLSTM_INLINE void store_n(ScalarOf<V>* p, V v, int64_t n) {
    if (n >= lanes<ScalarOf<V>>) return store(p, v);
    const int count = static_cast<int>(n);
    ScalarOf<V> lane[lanes<ScalarOf<V>>];
    store(lane, v);
    for (int k = 0; k < lanes<ScalarOf<V>>; ++k) {
        if (k < count) p[k] = lane[k];
    }
}

template <typename V>
EXLSTM_INLINE V select(IntsOf<V> condition, V a, V b) {
    return condition ? a : b;
}

template <typename V>
EXLSTM_INLINE V max(V a, V b) {
    return a >= b ? a : b;
}

template <typename V>
EXLSTM_INLINE ScalarOf<V> sum(V v) {
    ScalarOf<V> parts[lanes<ScalarOf<V>>];
    store(parts, v);
#pragma GCC unroll 8
    for (int64_t width = lanes<ScalarOf<V>> / 2; width > 0; width /= 2) {
        for (int64_t lane = 0; lane < width; ++lane) parts[lane] += parts[lane + width];
    }
    return parts[0];
}

// ---- elementary functions -----------------------------------------------------------------------

template <typename To, typename From>
EXLSTM_INLINE To bits(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

template <typename V>
EXLSTM_INLINE V abs(V x) {
    constexpr auto all_but_sign = std::numeric_limits<typename VectorOf<ScalarOf<V>>::Int>::max();
    return bits<V>(bits<IntsOf<V>>(x) & all_but_sign);
}

template <typename V>
EXLSTM_INLINE V with_sign_of(V magnitude, V sign) {
    constexpr auto sign_bit = std::numeric_limits<typename VectorOf<ScalarOf<V>>::Int>::min();
    return bits<V>(bits<IntsOf<V>>(magnitude) | (bits<IntsOf<V>>(sign) & sign_bit));
}

// c[0] x^(N-1) + ... + c[N-1]
template <typename V, int N>
EXLSTM_INLINE V polynomial(V x, const ScalarOf<V> (&c)[N]) {
    V y = splat(c[0]);
#pragma GCC unroll 32
    for (int k = 1; k < N; ++k) y = y * x + c[k];
    return y;
}

// Coefficients of the small rational functions are those of the Cephes library (Moshier), the
// longer ones are Taylor's.
template <typename T>
struct Constants;

template <>
struct Constants<float> {
    static constexpr int mantissa = 23, bias = 127;
    static constexpr float round = 0x1.8p23f;  // added and subtracted, it rounds to an integer
    // Beyond these exp is 0 and infinity.
    static constexpr float exp_low = -105.0f, exp_high = 89.5f;
    static constexpr float log2_e = 1.44269504088896341f;
    static constexpr float ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
    // exp(x) = 1 + x + x^2 p(x), |x| < ln(2) / 2
    static constexpr float exp[] = {1.9875691500e-4f, 1.3981999507e-3f, 8.3334519073e-3f,
                                    4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f};
    // tanh(x) = x + x^3 p(x^2) / q(x^2), |x| < 0.625
    static constexpr float tanh_p[] = {-5.70498872745e-3f, 2.06390887954e-2f, -5.37397155531e-2f,
                                       1.33314422036e-1f, -3.33332819422e-1f};
    // atanh(x) / x in x^2, |x| <= 1/3
    static constexpr float atanh[] = {1.0f / 15, 1.0f / 13, 1.0f / 11, 1.0f / 9,
                                      1.0f / 7,  1.0f / 5,  1.0f / 3,  1.0f};
};

template <>
struct Constants<double> {
    static constexpr int mantissa = 52, bias = 1023;
    static constexpr double round = 0x1.8p52;
    static constexpr double exp_low = -746.0, exp_high = 710.0;
    static constexpr double log2_e = 1.44269504088896340736;
    static constexpr double ln2_high = 6.93145751953125e-1, ln2_low = 1.42860682030941723212e-6;
    static constexpr double exp[] = {1.0 / 6227020800, 1.0 / 479001600, 1.0 / 39916800,
                                     1.0 / 3628800,    1.0 / 362880,    1.0 / 40320,
                                     1.0 / 5040,       1.0 / 720,       1.0 / 120,
                                     1.0 / 24,         1.0 / 6,         1.0 / 2};
    static constexpr double tanh_p[] = {-9.64399179425052238628e-1, -9.92877231001918586564e1,
                                        -1.61468768441708447952e3};
    static constexpr double tanh_q[] = {1.0, 1.12811678491632931402e2, 2.23548839060100448583e3,
                                        4.84406305325125486048e3};
    static constexpr double atanh[] = {1.0 / 33, 1.0 / 31, 1.0 / 29, 1.0 / 27, 1.0 / 25, 1.0 / 23,
                                       1.0 / 21, 1.0 / 19, 1.0 / 17, 1.0 / 15, 1.0 / 13, 1.0 / 11,
                                       1.0 / 9,  1.0 / 7,  1.0 / 5,  1.0 / 3,  1.0};
};

// 2^n of an integer n in a float
template <typename V>
EXLSTM_INLINE V power_of_two(V n) {
    using C = Constants<ScalarOf<V>>;
    using Int = typename VectorOf<ScalarOf<V>>::Int;
    // The sum's low bits are n; what stands above them leaves on the left.
    return bits<V>((bits<IntsOf<V>>(n + C::round) << C::mantissa) + (Int(C::bias) << C::mantissa));
}

template <typename V>
EXLSTM_INLINE V exp(V x) {
    using C = Constants<ScalarOf<V>>;
    x = select(x < C::exp_low, splat(C::exp_low), x);
    x = select(x > C::exp_high, splat(C::exp_high), x);
    const V n = (x * C::log2_e + C::round) - C::round;
    const V y = (x - n * C::ln2_high) - n * C::ln2_low;
    // In two factors, since 2^n itself may be out of range where the result is not.
    const V half = (n * ScalarOf<V>(0.5) + C::round) - C::round;
    const V p = (polynomial(y, C::exp) * (y * y) + y) + ScalarOf<V>(1);
    return p * power_of_two(half) * power_of_two(n - half);
}

template <typename V>
EXLSTM_INLINE V sigmoid(V x) {
    return ScalarOf<V>(1) / (ScalarOf<V>(1) + exp(-x));
}

template <typename V>
EXLSTM_INLINE V tanh(V x) {
    using T = ScalarOf<V>;
    const V a = abs(x), square = x * x;
    const V large = T(1) - T(2) / (exp(a + a) + T(1));
    V small = polynomial(square, Constants<T>::tanh_p);
    if constexpr (sizeof(T) == 8) small /= polynomial(square, Constants<T>::tanh_q);
    small = x * square * small + x;
    return select(a < T(0.625), small, with_sign_of(large, x));
}

// log(sigmoid(x)) = min(x, 0) - log(1 + e), e = exp(-|x|), where log(1 + e) = 2 atanh(e / (2 + e)).
// Its slope is sigmoid(-x).
template <typename V>
EXLSTM_INLINE V log_sigmoid(V x, V* slope = nullptr) {
    using T = ScalarOf<V>;
    const V e = exp(-abs(x));
    const V s = e / (T(2) + e);
    if (slope) *slope = select(x > T(0), e, splat(T(1))) / (T(1) + e);
    return select(x > T(0), V{}, x) - (s + s) * polynomial(s * s, Constants<T>::atanh);
}

// ---- tiles of products --------------------------------------------------------------------------

// Rows of a tile that is 4 vectors wide: the registers must hold their sums and a row of weights.
#if EXLSTM_VECTOR_BYTES == 64 || defined(__aarch64__)
constexpr int TILE_ROWS = 6;
#elif EXLSTM_VECTOR_BYTES == 32
constexpr int TILE_ROWS = 3;
#else
constexpr int TILE_ROWS = 2;
#endif

template <typename T>
int64_t padded(int64_t count) {
    return (count + lanes<T> - 1) / lanes<T> * lanes<T>;
}

// body(integral constant n) for 1 <= n <= N
template <int N, typename Body>
EXLSTM_INLINE void with_constant(int64_t n, Body&& body) {
    if constexpr (N > 1) {
        if (n < N) return with_constant<N - 1>(n, body);
    }
    body(std::integral_constant<int, N>{});
}

// body(first row, number of rows as a constant) for all rows, in tiles as equal as can be.
template <typename Body>
EXLSTM_INLINE void for_row_tiles(int64_t rows, Body&& body) {
    int64_t tiles = (rows + TILE_ROWS - 1) / TILE_ROWS;
    for (int64_t row = 0; row < rows; --tiles) {
        const int64_t count = (rows - row + tiles - 1) / tiles;
        with_constant<TILE_ROWS>(count, [&](auto constant) { body(row, constant); });
        row += count;
    }
}

// ---- threads and memory -------------------------------------------------------------------------

// torch's own torch_parallel_for, or null: then one thread runs everything.
using ParallelFor = int32_t (*)(int64_t begin, int64_t end, int64_t grain,
                                void (*body)(int64_t begin, int64_t end, void* context),
                                void* context);

struct Threads {
    ParallelFor parallel;
    int64_t count;

    template <typename Body>
    void run(int64_t tasks, Body&& body) const {
        auto range = [](int64_t begin, int64_t end, void* context) {
            for (int64_t task = begin; task < end; ++task) {
                (*static_cast<std::remove_reference_t<Body>*>(context))(task);
            }
        };
        if (!parallel || count < 2 || tasks < 2 || parallel(0, tasks, 1, range, &body) != 0) {
            range(0, tasks, &body);
        }
    }
};

template <typename T>
class Scratch {
  public:
    explicit Scratch(int64_t count) {
        const size_t bytes = (static_cast<size_t>(count) * sizeof(T) + 63) / 64 * 64;
        memory_ = static_cast<T*>(std::aligned_alloc(64, bytes ? bytes : 64));
        if (!memory_) std::abort();
        std::memset(memory_, 0, bytes);
    }
    ~Scratch() { std::free(memory_); }
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;
    operator T*() const { return memory_; }

  private:
    T* memory_;
};

// Memory fresh from the system is mapped page by page as it is written, which for a large tensor
// costs more than writing it. Ask for pages of 2 MiB; the system may ignore it.
template <typename T>
void huge_pages([[maybe_unused]] T* memory, [[maybe_unused]] int64_t count) {
#ifdef __linux__
    constexpr uintptr_t page = 2 << 20;
    const uintptr_t begin = (reinterpret_cast<uintptr_t>(memory) + page - 1) / page * page;
    const uintptr_t end = reinterpret_cast<uintptr_t>(memory + count) / page * page;
    if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

}  // namespace exlstm
