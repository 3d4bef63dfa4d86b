// Which of the libraries the processor can run. Compiled for the oldest machine and linked into
// each library, so that a library too new for the processor can still say so.

#include <cstring>

extern "C" __attribute__((visibility("default"))) int exlstm_cpu_runs(const char* level) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool v2 = __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("popcnt");
    const bool v3 = v2 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
    const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                    __builtin_cpu_supports("avx512vl");
    if (!std::strcmp(level, "v4")) return v4;
    if (!std::strcmp(level, "v3")) return v3;
    if (!std::strcmp(level, "v2")) return v2;
#endif
    return !std::strcmp(level, "baseline");
}
