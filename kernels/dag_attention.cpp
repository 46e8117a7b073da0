// DAG attention of one layer on a CPU, as one call: writes K and V of the step's rows, then for every segment the
// partial results of its queries (online softmax over blocks of keys), then per row their merge by log-sum-exp.
//
// Every query is computed by itself, in an order that depends only on the keys it sees, in their logical order: blocks
// of BLOCK keys within chunks of CHUNK keys from the segment's start. So a row's result is the same to the bit whatever
// else is in the batch and wherever the keys lie, as long as its segments are.
//
// Plain C ABI, called through ctypes without the GIL. Threads are OpenMP's, of the runtime that torch has loaded.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

namespace {

constexpr int LANES = 16, BLOCK = 64, CHUNK = 512, MAX_QUERIES = 64, MAX_DIM = 256;
constexpr float NEVER = -std::numeric_limits<float>::infinity();
typedef float Vec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef int32_t IVec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

struct Plan {  // mirrored by native_attention.py
    int32_t rows, pairs, segments, heads, kv_heads, dim, bf16;
    int64_t slots;           // of the cache: distance of two heads, in tokens
    const int32_t *row_slots;       // [rows]
    const float *key_cos, *key_sin;    // [rows, dim / 2]
    const int32_t *extents;         // [., 2]
    const int32_t *extent_indptr;   // [segments + 1]
    const int32_t *row_indptr;      // [segments + 1], over pairs
    const int32_t *own;             // [segments]
    const int32_t *pair_rows;       // [pairs]
    const float *query_cos, *query_sin;  // [pairs, dim / 2], scaled
    const int32_t *partial_begin;   // [pairs + 1]: chunks of each pair's segment, summed
    const int32_t *merge_indptr;    // [rows + 1]
    const int32_t *merge_pairs;     // [pairs]
    float *partials;                // [partial_begin[pairs], heads, dim + 2]
};

struct Task {
    int32_t segment, head, first, count, chunk;
};

inline float load(const void *base, int64_t at, bool bf16) {
    if (!bf16) return static_cast<const float *>(base)[at];
    uint32_t bits = uint32_t(static_cast<const uint16_t *>(base)[at]) << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

inline void store(void *base, int64_t at, float value, bool bf16) {
    if (!bf16) {
        static_cast<float *>(base)[at] = value;
        return;
    }
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    bits += 0x7fff + ((bits >> 16) & 1);  // to nearest, ties to even; inputs are finite
    static_cast<uint16_t *>(base)[at] = uint16_t(bits >> 16);
}

// exp(x) for x <= 0 after Cephes' expf: 2**n * exp(r), |r| <= ln(2) / 2; exactly 0 where x is -inf or underflows.
inline Vec exp_nonpositive(Vec x) {
    const Vec low = Vec{} - 87.0f;
    IVec dead = x < low;
    x = dead ? low : x;
    Vec n = x * 1.44269504088896341f + 12582912.0f;  // 1.5 * 2**23: rounds to the nearest integer
    IVec exponent = (IVec)n - 0x4B400000;
    n -= 12582912.0f;
    Vec r = x - n * 0.693359375f;
    r = r + n * 2.12194440e-4f;
    Vec p = Vec{} + 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    Vec scale = (Vec)((exponent + 127) << 23);
    return dead ? Vec{} : p * scale;
}

inline float sum(Vec v) {
    float total = 0;
    for (int i = 0; i < LANES; i++) total += v[i];
    return total;
}

// Scores of 4 queries (stride MAX_DIM) against a packed block of keys.
inline void scores4(const float *q, const float (*keys)[BLOCK], int dim, float *out) {
    Vec acc[4][BLOCK / LANES] = {};
    for (int d = 0; d < dim; d++) {
        const Vec *k = reinterpret_cast<const Vec *>(keys[d]);
        for (int i = 0; i < 4; i++)
            for (int b = 0; b < BLOCK / LANES; b++) acc[i][b] += q[i * MAX_DIM + d] * k[b];
    }
    for (int i = 0; i < 4; i++)
        for (int b = 0; b < BLOCK / LANES; b++) reinterpret_cast<Vec *>(out + i * BLOCK)[b] = acc[i][b];
}

// out[4][at .. at + LANES * N] += weights[4][count] * values
template <int N>
inline void weigh4(const float *weights, const float *const *values, int count, int at, float *out) {
    Vec acc[4][N];
    for (int i = 0; i < 4; i++)
        for (int b = 0; b < N; b++) acc[i][b] = reinterpret_cast<const Vec *>(out + i * MAX_DIM + at)[b];
    for (int j = 0; j < count; j++) {
        const Vec *v = reinterpret_cast<const Vec *>(values[j] + at);
        for (int i = 0; i < 4; i++)
            for (int b = 0; b < N; b++) acc[i][b] += weights[i * BLOCK + j] * v[b];
    }
    for (int i = 0; i < 4; i++)
        for (int b = 0; b < N; b++) reinterpret_cast<Vec *>(out + i * MAX_DIM + at)[b] = acc[i][b];
}

void write_rows(const Plan &p, const void *k, int64_t k_stride, const void *v, int64_t v_stride, float *keys,
                float *values) {
    const int half = p.dim / 2;
#pragma omp parallel for schedule(static) if (p.rows > 16)
    for (int r = 0; r < p.rows; r++) {
        const float *cos = p.key_cos + int64_t(r) * half, *sin = p.key_sin + int64_t(r) * half;
        for (int h = 0; h < p.kv_heads; h++) {
            const int64_t to = (h * p.slots + p.row_slots[r]) * p.dim;
            const int64_t from_k = r * k_stride + h * p.dim, from_v = r * v_stride + h * p.dim;
            for (int d = 0; d < half; d++) {
                const float a = load(k, from_k + d, p.bf16), b = load(k, from_k + d + half, p.bf16);
                keys[to + d] = a * cos[d] - b * sin[d];
                keys[to + d + half] = b * cos[d] + a * sin[d];
            }
            for (int d = 0; d < p.dim; d++) values[to + d] = load(v, from_v + d, p.bf16);
        }
    }
}

void run_task(const Plan &p, const Task &task, const void *q, int64_t q_stride, const float *keys,
              const float *values) {
    alignas(64) static thread_local float queries[MAX_QUERIES * MAX_DIM], out[MAX_QUERIES * MAX_DIM];
    alignas(64) static thread_local float scores[MAX_QUERIES * BLOCK], packed[MAX_DIM][BLOCK];
    alignas(64) static thread_local float copied[BLOCK][MAX_DIM];
    float peak[MAX_QUERIES], mass[MAX_QUERIES];
    const float *value_rows[BLOCK];

    const int dim = p.dim, half = dim / 2, group = p.heads / p.kv_heads, s = task.segment;
    const int padded = (dim + LANES - 1) / LANES * LANES;
    const int count = task.count * group, rounded = (count + 3) / 4 * 4;
    for (int i = 0; i < rounded; i++) {
        peak[i] = NEVER;
        mass[i] = 0;
        std::fill(out + i * MAX_DIM, out + i * MAX_DIM + padded, 0.0f);
        if (i >= count) std::fill(queries + i * MAX_DIM, queries + i * MAX_DIM + dim, 0.0f);
    }
    for (int i = 0; i < task.count; i++) {
        const int pair = task.first + i;
        const float *cos = p.query_cos + int64_t(pair) * half, *sin = p.query_sin + int64_t(pair) * half;
        for (int g = 0; g < group; g++) {
            const int64_t from = p.pair_rows[pair] * q_stride + (task.head * group + g) * dim;
            float *to = queries + (i * group + g) * MAX_DIM;
            for (int d = 0; d < half; d++) {
                const float a = load(q, from + d, p.bf16), b = load(q, from + d + half, p.bf16);
                to[d] = a * cos[d] - b * sin[d];
                to[d + half] = b * cos[d] + a * sin[d];
            }
        }
    }

    // Key j of the segment is seen by its row i if j < seen(i).
    const int first_in_segment = task.first - p.row_indptr[s];
    int length = 0;
    for (int e = p.extent_indptr[s]; e < p.extent_indptr[s + 1]; e++) length += p.extents[2 * e + 1];
    const auto seen = [&](int i) { return p.own[s] ? length - p.own[s] + first_in_segment + i + 1 : length; };
    const int end = std::min((task.chunk + 1) * CHUNK, seen(task.count - 1));
    int e = p.extent_indptr[s], within = task.chunk * CHUNK;  // walk over the extents, in logical order
    while (within >= p.extents[2 * e + 1]) within -= p.extents[2 * e++ + 1];

    const float *head_keys = keys + task.head * p.slots * dim, *head_values = values + task.head * p.slots * dim;
    for (int at = task.chunk * CHUNK; at < end; at += BLOCK) {
        const int here = std::min(BLOCK, end - at);
        for (int j = 0; j < here; j++) {
            while (within == p.extents[2 * e + 1]) e++, within = 0;
            const int64_t slot = int64_t(p.extents[2 * e] + within++) * dim;
            for (int d = 0; d < dim; d++) packed[d][j] = head_keys[slot + d];
            value_rows[j] = head_values + slot;
            if (dim != padded) {
                std::copy(head_values + slot, head_values + slot + dim, copied[j]);
                std::fill(copied[j] + dim, copied[j] + padded, 0.0f);
                value_rows[j] = copied[j];
            }
        }
        for (int d = 0; d < dim && here < BLOCK; d++) std::fill(packed[d] + here, packed[d] + BLOCK, 0.0f);
        for (int i = 0; i < rounded; i += 4) {
            scores4(queries + i * MAX_DIM, packed, dim, scores + i * BLOCK);
            for (int u = i; u < i + 4; u++) {
                float *row = scores + u * BLOCK;
                const int limit = u < count ? std::min(here, seen(u / group) - at) : here;
                for (int j = std::max(0, limit); j < BLOCK; j++) row[j] = NEVER;
                float top = peak[u];
                for (int j = 0; j < BLOCK; j++) top = std::max(top, row[j]);
                if (top == NEVER) {  // nothing seen so far
                    std::fill(row, row + BLOCK, 0.0f);
                    continue;
                }
                const float keep = peak[u] == NEVER ? 0.0f : std::exp(peak[u] - top);
                Vec total = {};
                for (int b = 0; b < BLOCK / LANES; b++) {
                    Vec &part = reinterpret_cast<Vec *>(row)[b];
                    part = exp_nonpositive(part - top);
                    total += part;
                }
                mass[u] = mass[u] * keep + sum(total);
                peak[u] = top;
                if (keep != 1.0f)
                    for (int d = 0; d < padded; d++) out[u * MAX_DIM + d] *= keep;
            }
            int d = 0;
            for (; d + 4 * LANES <= padded; d += 4 * LANES)
                weigh4<4>(scores + i * BLOCK, value_rows, here, d, out + i * MAX_DIM);
            for (; d < padded; d += LANES) weigh4<1>(scores + i * BLOCK, value_rows, here, d, out + i * MAX_DIM);
        }
    }
    for (int i = 0; i < task.count; i++)
        for (int g = 0; g < group; g++) {
            const int u = i * group + g;
            const int64_t at = p.partial_begin[task.first + i] + task.chunk;
            float *to = p.partials + (at * p.heads + task.head * group + g) * (dim + 2);
            to[0] = peak[u];
            to[1] = mass[u];
            std::copy(out + u * MAX_DIM, out + u * MAX_DIM + dim, to + 2);
        }
}

void merge_rows(const Plan &p, void *result) {
    const int dim = p.dim;
#pragma omp parallel for schedule(static) if (p.rows > 16)
    for (int r = 0; r < p.rows; r++) {
        float total[MAX_DIM];
        for (int h = 0; h < p.heads; h++) {
            float top = NEVER, mass = 0;
            const auto each = [&](auto &&use) {
                for (int m = p.merge_indptr[r]; m < p.merge_indptr[r + 1]; m++) {
                    const int pair = p.merge_pairs[m];
                    for (int c = p.partial_begin[pair]; c < p.partial_begin[pair + 1]; c++)
                        use(p.partials + (int64_t(c) * p.heads + h) * (dim + 2));
                }
            };
            each([&](const float *part) { top = std::max(top, part[0]); });
            std::fill(total, total + dim, 0.0f);
            each([&](const float *part) {
                if (part[1] == 0) return;
                const float weight = std::exp(part[0] - top);
                mass += part[1] * weight;
                for (int d = 0; d < dim; d++) total[d] += part[2 + d] * weight;
            });
            const int64_t to = (int64_t(r) * p.heads + h) * dim;
            for (int d = 0; d < dim; d++) store(result, to + d, total[d] / mass, p.bf16);
        }
    }
}

}  // namespace

extern "C" int pavane_chunk() { return CHUNK; }
extern "C" int pavane_max_dim() { return MAX_DIM; }
extern "C" int pavane_max_group() { return MAX_QUERIES; }

extern "C" void pavane_attend(const Plan *plan, const void *q, int64_t q_stride, const void *k, int64_t k_stride,
                              const void *v, int64_t v_stride, float *keys, float *values, void *result) {
    const Plan &p = *plan;
    write_rows(p, k, k_stride, v, v_stride, keys, values);
    const int tile = std::max(1, MAX_QUERIES / (p.heads / p.kv_heads));
    static thread_local std::vector<Task> tasks;
    tasks.clear();
    for (int s = 0; s < p.segments; s++)
        for (int first = p.row_indptr[s]; first < p.row_indptr[s + 1]; first += tile) {
            const int count = std::min(tile, p.row_indptr[s + 1] - first);
            const int chunks = p.partial_begin[first + 1] - p.partial_begin[first];
            for (int chunk = 0; chunk < chunks; chunk++)
                for (int h = 0; h < p.kv_heads; h++) tasks.push_back({s, h, first, count, chunk});
        }
    const Task *list = tasks.data();
    const int n = int(tasks.size());
#pragma omp parallel for schedule(dynamic, 1)
    for (int t = 0; t < n; t++) run_task(p, list[t], q, q_stride, keys, values);
    merge_rows(p, result);
}
