// Block-diagonal maps of any block size, block by block as products of matrices:
//
//   y = x w'      dx = dy w      dw = dy' x
//
// The right factor is read in panels of a few vectors of columns, packed where its rows do not end
// with a vector; the left one is read where it lies. For dw both are packed, some rows at a time: a
// column of x or dy falls on a few sets of the cache. A tile of the result stays in registers for the
// whole depth of the product.
#pragma once

#include "block_linear_maps.hpp"
#include "mlstm_products.hpp"

namespace exlstm::block_linear {

// A tile has TILE_ROWS x PANEL vectors.
constexpr int PANEL = 4;

// The right factor of a product: packed, or of whole vectors of columns and rows `stride` apart.
template <typename T>
struct Right {
    const T* first;
    int64_t stride;
};
constexpr int64_t PACKED = 0;

// body(first column, number of vectors) for all panels.
template <typename T, typename Body>
EXLSTM_INLINE void for_panels(int64_t columns, Body&& body) {
    for (int64_t first = 0; first < columns; first += PANEL * lanes<T>) {
        const int64_t vectors = (columns - first + lanes<T> - 1) / lanes<T>;
        body(first, vectors < PANEL ? vectors : PANEL);
    }
}

// A matrix, its rows `stride` apart, in panels: [panel][row][vector][lane], zeros beyond the last
// column. A panel begins at its first column times the depth, the number of rows.
template <typename T>
void pack(const T* from, int64_t stride, int64_t depth, int64_t columns, T* packed) {
    for_panels<T>(columns, [&](int64_t first, int64_t vectors) {
        for (int64_t k = 0; k < depth; ++k) {
            for (int64_t x = 0; x < vectors; ++x, packed += lanes<T>) {
                const int64_t column = first + x * lanes<T>;
                store(packed, load_n(from + k * stride + column, columns - column));
            }
        }
    });
}

// The same of its transpose.
template <typename T>
void pack_transposed(const T* from, int64_t stride, int64_t depth, int64_t columns, T* packed) {
    constexpr int64_t W = lanes<T>;
    for_panels<T>(columns, [&](int64_t first, int64_t vectors) {
        for (int64_t x = 0; x < vectors * W; x += W) {
            const T* rows = from + (first + x) * stride;
            T* to = packed + first * depth + x;
            const int64_t count = columns - first - x;
            int64_t k = 0;
            for (; count >= W && k + W <= depth; k += W) {
                mlstm::transpose_square(rows + k, stride, to + k * vectors * W, vectors * W);
            }
            for (; k < depth; ++k) {
                for (int64_t c = 0; c < W; ++c) {
                    to[k * vectors * W + c] = c < count ? rows[c * stride + k] : T(0);
                }
            }
        }
    });
}

// What `product` does with a tile that ends within a vector; apart, since it is long when unrolled.
template <typename T>
__attribute__((noinline)) void write_edge(const T* tile, int64_t rows, int64_t width, int64_t count,
                                          T* c, int64_t c_stride, bool add, const T* start) {
    for (int64_t row = 0; row < rows; ++row, tile += width, c += c_stride) {
        for (int64_t x = 0; x < count; ++x) {
            c[x] = tile[x] + (start ? start[x] : T(0)) + (add ? c[x] : T(0));
        }
    }
}

// c = product of `a`, or of `a` transposed, and `b`; plus `start` for each row, if any; plus what c
// holds, if `add`.
template <typename T, bool TRANSPOSED>
void product(int64_t rows, int64_t columns, int64_t depth, const T* a, int64_t a_stride,
             Right<T> b, T* c, int64_t c_stride, bool add, const T* start = nullptr) {
    constexpr int64_t W = lanes<T>;
    for_panels<T>(columns, [&](int64_t first, int64_t vectors) {
        with_constant<PANEL>(vectors, [&](auto c_constant) {
            constexpr int C = decltype(c_constant)::value;
            const int64_t step = b.stride == PACKED ? C * W : b.stride;
            const T* panel = b.first + first * (b.stride == PACKED ? depth : 1);
            for_row_tiles(rows, [&](int64_t row, auto r_constant) {
                constexpr int R = decltype(r_constant)::value;
                const T* left = a + row * (TRANSPOSED ? 1 : a_stride);
                const T* right = panel;
                Vec<T> sum[R][C] = {};
                for (int64_t k = 0; k < depth; ++k, right += step) {
                    Vec<T> v[C];
#pragma GCC unroll 8
                    for (int x = 0; x < C; ++x) v[x] = load(right + x * W);
#pragma GCC unroll 8
                    for (int r = 0; r < R; ++r) {
                        const Vec<T> s = splat(TRANSPOSED ? left[k * a_stride + r]
                                                          : left[r * a_stride + k]);
#pragma GCC unroll 8
                        for (int x = 0; x < C; ++x) sum[r][x] += s * v[x];
                    }
                }
                T* to = c + row * c_stride + first;
                const T* first_start = start ? start + first : nullptr;
                if (columns - first < C * W) {
                    T tile[R * C * W];
#pragma GCC unroll 8
                    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
                        for (int x = 0; x < C; ++x) store(tile + (r * C + x) * W, sum[r][x]);
                    }
                    write_edge(tile, R, C * W, columns - first, to, c_stride, add, first_start);
                    return;
                }
#pragma GCC unroll 8
                for (int r = 0; r < R; ++r, to += c_stride) {
#pragma GCC unroll 8
                    for (int x = 0; x < C; ++x) {
                        if (start) sum[r][x] += load(first_start + x * W);
                        if (add) sum[r][x] += load(to + x * W);
                        store(to + x * W, sum[r][x]);
                    }
                }
            });
        });
    });
}

// Of whole vectors, for weights that are read too seldom to be packed.
template <typename T>
T dot(const T* a, const T* b, int64_t depth) {
    constexpr int64_t W = lanes<T>;
    Vec<T> total[2] = {};
    int64_t k = 0;
    for (; k + 2 * W <= depth; k += 2 * W) {
        total[0] += load(a + k) * load(b + k);
        total[1] += load(a + k + W) * load(b + k + W);
    }
    if (k < depth) total[0] += load(a + k) * load(b + k);
    return sum(total[0] + total[1]);
}

template <typename T>
struct Large {
    static constexpr int64_t W = lanes<T>;
    static constexpr int64_t TASK_ROWS = 128;     // of y and dx, a block each
    static constexpr int64_t TASK_OUTPUTS = 128;  // rows of dw
    static constexpr int64_t DEPTH = 128;         // of the products that dw is the sum of
    static constexpr int64_t PACK_FROM = 8;       // rows; fewer do not pay for packing

    Maps<T> maps;

    // body(part, block, rows) by tasks of some rows of a block.
    template <typename Body>
    void for_tasks(Threads threads, Body&& body) const {
        const int64_t chunks = (maps.rows + TASK_ROWS - 1) / TASK_ROWS;
        threads.run(maps.blocks * chunks, [&](int64_t task) {
            for (int64_t part = 0; part < maps.count; ++part) {
                body(part, task / chunks, Rows(maps.rows, chunks, task % chunks));
            }
        });
    }

    // The weights of all parts and blocks as right factors, packed where they must be.
    class Weights {
      public:
        Weights(Threads threads, const Maps<T>& maps, bool transposed)
            : maps_(maps), transposed_(transposed), size_(largest()),
              memory_(maps.count * maps.blocks * size_) {
            threads.run(maps.count * maps.blocks, [&](int64_t task) {
                const Map<T>& map = maps[task / maps.blocks];
                const T* w = map.w + task % maps.blocks * map.out * map.in;
                if (!packs(map)) return;
                if (transposed) {
                    pack_transposed<T>(w, map.in, map.in, map.out, memory_ + task * size_);
                } else {
                    pack<T>(w, map.in, map.out, map.in, memory_ + task * size_);
                }
            });
        }
        Right<T> at(int64_t part, int64_t block) const {
            const Map<T>& map = maps_[part];
            if (!packs(map)) return {map.w + block * map.out * map.in, map.in};
            return {memory_ + (part * maps_.blocks + block) * size_, PACKED};
        }

      private:
        bool packs(const Map<T>& map) const { return transposed_ || (map.in % W && map.dx); }
        int64_t largest() const {
            int64_t most = 0;
            for (const Map<T>& map : maps_) {
                const int64_t size =
                    transposed_ ? padded<T>(map.out) * map.in : padded<T>(map.in) * map.out;
                if (packs(map) && size > most) most = size;
            }
            return most;
        }

        const Maps<T>& maps_;
        bool transposed_;
        int64_t size_;
        Scratch<T> memory_;
    };

    void forward(Threads threads, const T* bias, T* y) const {
        bool whole = true;  // vectors, and so quick to read
        for (const Map<T>& map : maps) whole = whole && map.in % W == 0;
        if (whole && maps.rows < PACK_FROM) return forward_unpacked(threads, bias, y);
        const Weights weights(threads, maps, true);
        for_tasks(threads, [&](int64_t part, int64_t block, Rows rows) {
            const Map<T>& map = maps[part];
            const int64_t at = map.offset + block * map.block_stride;
            product<T, false>(rows.end - rows.begin, map.out, map.in,
                              map.x + rows.begin * map.x_stride + block * map.in, map.x_stride,
                              weights.at(part, block),
                              y + rows.begin * maps.width + at, maps.width, false,
                              bias ? bias + at : nullptr);
        });
    }

    void forward_unpacked(Threads threads, const T* bias, T* y) const {
        for_tasks(threads, [&](int64_t part, int64_t block, Rows) {
            const Map<T>& map = maps[part];
            const int64_t at = map.offset + block * map.block_stride;
            const T* w = map.w + block * map.out * map.in;
            for (int64_t o = 0; o < map.out; ++o, w += map.in) {
                for (int64_t row = 0; row < maps.rows; ++row) {
                    const T* x = map.x + row * map.x_stride + block * map.in;
                    y[row * maps.width + at + o] =
                        dot(x, w, map.in) + (bias ? bias[at + o] : T(0));
                }
            }
        });
    }

    void backward(Threads threads, const T* dy, T* db) const {
        const Weights weights(threads, maps, false);
        for_tasks(threads, [&](int64_t part, int64_t block, Rows rows) {
            const Map<T>& map = maps[part];
            if (!map.dx) return;
            const int64_t dx_stride = maps.blocks * map.in;
            const int64_t at = map.offset + block * map.block_stride;
            product<T, false>(rows.end - rows.begin, map.in, map.out,
                              dy + rows.begin * maps.width + at, maps.width,
                              weights.at(part, block),
                              map.dx + rows.begin * dx_stride + block * map.in, dx_stride,
                              map.add);
        });
        for (const Map<T>& map : maps) {
            const int64_t groups = (map.out + TASK_OUTPUTS - 1) / TASK_OUTPUTS;
            threads.run(maps.blocks * groups, [&](int64_t task) {
                d_weights(map, task / groups, Rows(map.out, groups, task % groups), dy, db);
            });
        }
    }

    // Some outputs of a block, over all rows in order.
    void d_weights(const Map<T>& map, int64_t block, Rows outputs, const T* dy, T* db) const {
        const int64_t count = outputs.end - outputs.begin;
        const int64_t stride = (padded<T>(count) / W | 1) * W;  // spreads a column over the cache
        const int64_t at = map.offset + block * map.block_stride + outputs.begin;
        const int64_t most = maps.rows < DEPTH ? maps.rows : DEPTH;
        const int64_t dw_stride = map.pieces * map.in;
        const Scratch<T> memory((most + 1) * stride + most * padded<T>(map.in));
        T *left = memory, *bias = left + most * stride, *right = bias + stride;
        T* dw = map.dw + (block * map.out + outputs.begin) * dw_stride;
        for (int64_t row = 0; row < maps.rows; row += DEPTH) {
            const int64_t depth = maps.rows - row < DEPTH ? maps.rows - row : DEPTH;
            for (int64_t k = 0; k < depth; ++k) {
                const T* from = dy + (row + k) * maps.width + at;
                for (int64_t o = 0; o < count; o += W) {
                    const Vec<T> v = load_n(from + o, count - o);
                    store(left + k * stride + o, v);
                    store(bias + o, load(bias + o) + v);
                }
            }
            for (int64_t piece = 0; piece < map.pieces; ++piece) {
                const T* x = map.x + row * map.x_stride + (piece * maps.blocks + block) * map.in;
                pack<T>(x, map.x_stride, depth, map.in, right);
                product<T, true>(count, map.in, depth, left, stride, {right, PACKED},
                                 dw + piece * map.in, dw_stride, row > 0);
            }
        }
        std::memcpy(db + at, bias, sizeof(T) * count);
    }
};

}  // namespace exlstm::block_linear
