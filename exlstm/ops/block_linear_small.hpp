// Block-diagonal maps whose blocks are square and so small that a vector holds whole blocks. With
// x_i the vector that has element i of each block of x in all lanes of that block,
//
//   y = sum over i of w_i x_i      dx = sum over o of w'_o dy_o      dw_i += x_i dy
//
// where w_i in the lane of output o is the block's w[o, i], and so is w'_o in the lane of input i.
// All three run at the speed of the memory.
#pragma once

#include "block_linear_maps.hpp"

namespace exlstm::block_linear {

// Each lane: lane I of its block of SIZE lanes.
template <int SIZE, int I, typename V, std::size_t... LANE>
EXLSTM_INLINE V from_block(V x, std::index_sequence<LANE...>) {
#if __has_builtin(__builtin_shufflevector)
    return __builtin_shufflevector(x, x, (int(LANE) / SIZE * SIZE + I)...);
#else
    return __builtin_shuffle(x, IntsOf<V>{(int(LANE) / SIZE * SIZE + I)...});
#endif
}

template <typename T, int SIZE>
struct Small {
    static constexpr int64_t W = lanes<T>;
    static constexpr int64_t ROWS = 4;            // share one load of the weights
    static constexpr int64_t ROWS_IN_CACHE = 16;  // of x and dx, when the next part wants them
    static constexpr int64_t MAX_CHUNKS = 32;     // sums of dw, each over its own rows
    static constexpr auto each_lane = std::make_index_sequence<W>();
    static constexpr auto each_i = std::make_index_sequence<SIZE>();

    Maps<T> maps;
    int64_t width = maps.blocks * SIZE;
    int64_t padded = (width + W - 1) / W * W;

    static bool fits(const Maps<T>& maps) {
        for (const Map<T>& map : maps) {
            if (map.in != SIZE || map.out != SIZE) return false;
            if (map.block_stride != SIZE || map.pieces != 1) return false;
        }
        return true;
    }

    // The vectors w_i or w'_o: [vector][i or o][lane].
    void pack(const T* w, bool transposed, T* packed) const {
        for (int64_t first = 0; first < width; first += W) {
            const int64_t end = first + W < width ? first + W : width;
            for (int64_t from = 0; from < SIZE; ++from, packed += W) {
                for (int64_t to = first; to < end; ++to) {
                    const int64_t block = to / SIZE * SIZE;
                    packed[to - first] = transposed ? w[(block + from) * SIZE + (to - block)]
                                                    : w[to * SIZE + from];
                }
            }
        }
    }

    template <std::size_t... I>
    static EXLSTM_INLINE Vec<T> multiply(Vec<T> sum, Vec<T> x, const Vec<T> (&w)[SIZE],
                                         std::index_sequence<I...>) {
        ((sum += from_block<SIZE, I>(x, each_lane) * w[I]), ...);
        return sum;
    }

    template <std::size_t... I>
    static EXLSTM_INLINE void multiply_add(Vec<T> (&dw)[SIZE], Vec<T> x, Vec<T> dy,
                                           std::index_sequence<I...>) {
        ((dw[I] += from_block<SIZE, I>(x, each_lane) * dy), ...);
    }

    // body(first element, how many up to W) for all vectors of a row.
    template <typename Body>
    EXLSTM_INLINE void for_vectors(Body&& body) const {
        int64_t at = 0;
        for (; at + W <= width; at += W) body(at, std::integral_constant<int64_t, W>{});
        if (at < width) body(at, width - at);
    }

    // body(part, row, constant number of rows) for rows a few at a time.
    template <typename Body>
    EXLSTM_INLINE void for_rows(Rows rows, Body&& body) const {
        for (int64_t block = rows.begin; block < rows.end; block += ROWS_IN_CACHE) {
            const int64_t end = block + ROWS_IN_CACHE < rows.end ? block + ROWS_IN_CACHE : rows.end;
            for (int64_t part = 0; part < maps.count; ++part) {
                int64_t row = block;
                for (; row + ROWS <= end; row += ROWS) {
                    body(part, row, std::integral_constant<int64_t, ROWS>{});
                }
                for (; row < end; ++row) body(part, row, std::integral_constant<int64_t, 1>{});
            }
        }
    }

    void forward(Threads threads, const T* bias, T* y) const {
        const Scratch<T> weights(maps.count * padded * SIZE);
        for (int64_t part = 0; part < maps.count; ++part) {
            pack(maps[part].w, false, weights + part * padded * SIZE);
        }
        const int64_t tasks = (maps.rows + 2 * ROWS_IN_CACHE - 1) / (2 * ROWS_IN_CACHE);
        threads.run(tasks, [&](int64_t task) {
            for_rows({maps.rows, tasks, task}, [&](int64_t part, int64_t row, auto rows) {
                const Map<T>& map = maps[part];
                const T* x = map.x + row * map.x_stride;
                const T* from = weights + part * padded * SIZE;
                const T* b = bias ? bias + map.offset : nullptr;
                T* to = y + row * maps.width + map.offset;
                for_vectors([&](int64_t at, auto n) {
                    Vec<T> w[SIZE];
#pragma GCC unroll 16
                    for (int i = 0; i < SIZE; ++i) w[i] = load(from + at * SIZE + i * W);
                    const Vec<T> start = b ? load_n(b + at, n) : Vec<T>{};
                    for (int64_t r = 0; r < rows; ++r) {
                        const Vec<T> v = load_n(x + r * map.x_stride + at, n);
                        store_n(to + r * maps.width + at, multiply(start, v, w, each_i), n);
                    }
                });
            });
        });
    }

    void backward(Threads threads, const T* dy, T* db) const {
        const int64_t size = padded * SIZE;
        const Scratch<T> weights(maps.count * size);
        for (int64_t part = 0; part < maps.count; ++part) {
            pack(maps[part].w, true, weights + part * size);
        }
        const int64_t wanted = (maps.rows + 2 * ROWS_IN_CACHE - 1) / (2 * ROWS_IN_CACHE);
        const int64_t chunks = wanted < MAX_CHUNKS ? wanted : MAX_CHUNKS;
        const int64_t part_size = size + padded;  // the sums of dw and those of db
        const Scratch<T> sums(chunks * maps.count * part_size);
        threads.run(chunks, [&](int64_t chunk) {
            for_rows({maps.rows, chunks, chunk}, [&](int64_t part, int64_t row, auto rows) {
                const Map<T>& map = maps[part];
                const T* x = map.x + row * map.x_stride;
                const T* from = dy + row * maps.width + map.offset;
                const T* weight = weights + part * size;
                T* to = map.dx + row * width;
                T* dw_sum = sums + (chunk * maps.count + part) * part_size;
                T* db_sum = dw_sum + size;
                for_vectors([&](int64_t at, auto n) {
                    Vec<T> w[SIZE], dw[SIZE], bias_sum = load(db_sum + at);
#pragma GCC unroll 16
                    for (int i = 0; i < SIZE; ++i) {
                        w[i] = load(weight + at * SIZE + i * W);
                        dw[i] = load(dw_sum + at * SIZE + i * W);
                    }
                    for (int64_t r = 0; r < rows; ++r) {
                        const Vec<T> d = load_n(from + r * maps.width + at, n);
                        T* dx = to + r * width + at;
                        const Vec<T> start = map.add ? load_n(dx, n) : Vec<T>{};
                        store_n(dx, multiply(start, d, w, each_i), n);
                        multiply_add(dw, load_n(x + r * map.x_stride + at, n), d, each_i);
                        bias_sum += d;
                    }
#pragma GCC unroll 16
                    for (int i = 0; i < SIZE; ++i) store(dw_sum + at * SIZE + i * W, dw[i]);
                    store(db_sum + at, bias_sum);
                });
            });
        });
        for (int64_t part = 0; part < maps.count; ++part) {
            T* total = sums + part * part_size;
            for (int64_t chunk = 1; chunk < chunks; ++chunk) {
                const T* more = total + chunk * maps.count * part_size;
                for (int64_t at = 0; at < part_size; at += W) {
                    store(total + at, load(total + at) + load(more + at));
                }
            }
            for (int64_t to = 0; to < width; ++to) {
                const T* from = total + to / W * W * SIZE + to % W;
                for (int64_t i = 0; i < SIZE; ++i) maps[part].dw[to * SIZE + i] = from[i * W];
            }
            std::memcpy(db + maps[part].offset, total + size, sizeof(T) * width);
        }
    }
};

}  // namespace exlstm::block_linear
