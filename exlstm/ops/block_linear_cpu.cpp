// Block-diagonal linear maps on the CPU, forward and backward: several maps, each of its own input,
// into one tensor. The math is in block_linear.py.
//
// Layouts as in Python, the steps of all rows as one axis; Map says where the parts lie.

#include "block_linear_large.hpp"
#include "block_linear_small.hpp"

namespace {

using namespace exlstm;
using namespace exlstm::block_linear;

// body(kernel) with the one for these sizes.
template <typename T, int SIZE = 1, typename Body>
void with_kernel(const Maps<T>& maps, Body&& body) {
    if constexpr (SIZE <= lanes<T>) {
        if (Small<T, SIZE>::fits(maps)) return body(Small<T, SIZE>{maps});
        with_kernel<T, 2 * SIZE>(maps, body);
    } else {
        body(Large<T>{maps});
    }
}

template <typename T>
void forward(Threads threads, const Maps<T>& maps, const T* bias, T* y) {
    huge_pages(y, maps.rows * maps.width);
    with_kernel(maps, [&](auto kernel) { kernel.forward(worth_it(threads, maps), bias, y); });
}

template <typename T>
void backward(Threads threads, const Maps<T>& maps, const T* dy, T* db) {
    for (const Map<T>& map : maps) {
        if (map.dx) huge_pages(map.dx, maps.rows * maps.blocks * map.in);
    }
    with_kernel(maps, [&](auto kernel) { kernel.backward(worth_it(threads, maps), dy, db); });
}

}  // namespace

#define EXLSTM_BLOCK_LINEAR(T, NAME)                                                              \
    EXLSTM_EXPORT void exlstm_block_linear_forward_##NAME(                                        \
        ParallelFor parallel, int64_t threads, int64_t rows, int64_t blocks, int64_t width,       \
        int64_t count, const Map<T>* maps, const T* bias, T* y) {                                 \
        forward<T>({parallel, threads}, {rows, blocks, width, count, maps}, bias, y);             \
    }                                                                                             \
    EXLSTM_EXPORT void exlstm_block_linear_backward_##NAME(                                       \
        ParallelFor parallel, int64_t threads, int64_t rows, int64_t blocks, int64_t width,       \
        int64_t count, const Map<T>* maps, const T* dy, T* db) {                                  \
        backward<T>({parallel, threads}, {rows, blocks, width, count, maps}, dy, db);             \
    }

EXLSTM_BLOCK_LINEAR(float, float32)
EXLSTM_BLOCK_LINEAR(double, float64)
