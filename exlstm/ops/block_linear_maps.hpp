// Several block-diagonal linear maps with one output: what the kernels for small and for large
// blocks share. For block_linear_cpu.cpp only.
#pragma once

#include "cpu.hpp"

namespace exlstm::block_linear {

// One part, a row of the table that block_linear_native.py makes.
template <typename T>
struct Map {
    int64_t in, out;               // channels of a block, I and O
    const T* x;                    // rows x_stride apart, of N blocks of I
    int64_t x_stride;
    const T* w;                    // N O I
    int64_t offset, block_stride;  // in a row of y: its first block, from one block to the next
    T* dx;                         // rows of N blocks of I; null if large blocks need none
    int64_t add;                   // to dx, since a part before this one has the same input
    T* dw;
    int64_t pieces;                // 1, or P: x is P N I, dw is N O P I, and dw alone is asked for
};
static_assert(sizeof(Map<float>) == 11 * sizeof(int64_t));

template <typename T>
struct Maps {
    int64_t rows, blocks, width;  // B T, N, and the length of a row of y
    int64_t count;
    const Map<T>* maps;

    const Map<T>* begin() const { return maps; }
    const Map<T>* end() const { return maps + count; }
    const Map<T>& operator[](int64_t part) const { return maps[part]; }
};

// A thread is worth its start from about this many multiplications on.
constexpr int64_t SERIAL_BELOW = 1 << 18;

template <typename T>
Threads worth_it(Threads threads, const Maps<T>& maps) {
    int64_t work = 0;
    for (const Map<T>& map : maps) work += maps.rows * maps.blocks * map.in * map.out;
    if (work < SERIAL_BELOW) threads.count = 1;
    return threads;
}

// A range of rows for each of `parts` tasks.
struct Rows {
    int64_t begin, end;

    Rows(int64_t rows, int64_t parts, int64_t part)
        : begin(part * rows / parts), end((part + 1) * rows / parts) {}
};

}  // namespace exlstm::block_linear
