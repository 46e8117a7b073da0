// The C ABI: called through ctypes, without the GIL. Threads are OpenMP's, of the runtime that torch has loaded.
#include <new>

#include "decoder.h"

#define PAVANE_EXPORT extern "C" __attribute__((visibility("default")))

using namespace pavane;

PAVANE_EXPORT int pavane_max_dim() { return MAX_DIM; }
PAVANE_EXPORT int pavane_max_group() { return MAX_QUERIES; }

// Runs `body`; 0, or 1 if there is no memory for it. Only what is outside of parallel regions may throw.
template <class Body>
static int guarded(Body &&body) {
    try {
        body();
        return 0;
    } catch (const std::bad_alloc &) {
        return 1;
    }
}

// One layer's attention alone. The result is float32 [rows, heads * dim].
static void attend(const Plan *plan, const Inputs *inputs, float *keys, float *values, int threads, float *result) {
    const Plan &p = *plan;
    const Inputs &in = *inputs;
    Work work(p);
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(static)
        for (int r = 0; r < p.rows; r++) write_row<float>(p, in, r, keys, values);
#pragma omp for schedule(dynamic, 1)
        for (size_t t = 0; t < work.tasks.size(); t++) run_task<float>(p, work, work.tasks[t], in, keys, values);
#pragma omp for schedule(static)
        for (int r = 0; r < p.rows; r++)
            for (int h = 0; h < p.heads; h++) merge(p, work, r, h, result + (int64_t(r) * p.heads + h) * p.dim);
    }
}

PAVANE_EXPORT int pavane_attend(const Plan *plan, const Inputs *inputs, float *keys, float *values, int threads,
                                float *result) {
    return guarded([&] { attend(plan, inputs, keys, values, threads, result); });
}

PAVANE_EXPORT int pavane_forward(const Model *model, const Plan *plan, const int32_t *tokens, int n_samples,
                                 const int32_t *sample_rows, float *logits, int n_kept, const int32_t *kept_rows,
                                 float *states) {
    return guarded(
        [&] { forward(*model, *plan, tokens, n_samples, sample_rows, logits, n_kept, kept_rows, states); });
}

PAVANE_EXPORT int pavane_head(const Model *model, int n, const float *states, float *logits) {
    return guarded([&] { head(*model, n, states, logits); });
}
