// DAG attention of one layer on a CPU: writes K and V of the step's rows, then for every segment the partial results of
// its queries (online softmax over blocks of keys), then per row their merge by log-sum-exp.
//
// Every query is computed by itself, in an order that depends only on the keys it sees, in their logical order: blocks
// of BLOCK keys within chunks of CHUNK keys from the segment's start. So a row's result is the same to the bit whatever
// else is in the batch and wherever the keys lie, as long as its segments are.
//
// Keys lie in blocks of LANES slots, dimension by dimension, so that one vector holds the same two dimensions (bfloat16)
// or the same one (float32) of sixteen keys and nothing is transposed while reading; values lie slot by slot.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "vec.h"

namespace pavane {

constexpr int BLOCK = 64, CHUNK = 512, MAX_QUERIES = 64, MAX_DIM = 256;

struct Plan {  // mirrored by native_attention.py; the arrays are those of a Batch
    int32_t rows, segments, heads, kv_heads, dim;
    int32_t half;              // the cache holds bfloat16, not float32
    int64_t slots;             // of the cache, a multiple of LANES
    const float *cos, *sin;    // [positions, dim / 2]
    int64_t origin;            // the row of position 0 in these
    const int32_t *positions, *row_slots;  // [rows]
    const int32_t *extents;         // [., 2]
    const int32_t *extent_indptr;   // [segments + 1]
    const int32_t *row_indptr;      // [segments + 1], over pairs
    const int32_t *pair_rows, *pair_deltas;  // [pairs]
    const int32_t *own;             // [segments]
    float *shares;  // [pairs], or null: each pair's share of its row's attention is added, head after head
};

// q, k, v of a step's rows, unrotated: [rows, heads or kv_heads, dim], rows `*_stride` floats apart.
struct Inputs {
    const float *q, *k, *v;
    int64_t q_stride, k_stride, v_stride;
};

struct Task {
    int32_t segment, head, first, count, chunk;
};

inline int padded(int dim) { return (dim + LANES - 1) / LANES * LANES; }

// What follows from a plan, the same for all layers: pieces of work, and which partial results make a row.
struct Work {
    std::vector<Task> tasks;
    std::vector<int32_t> lengths;        // [segments]: keys
    std::vector<int32_t> partial_begin;  // [pairs + 1]: chunks that each pair sees, summed
    std::vector<int32_t> merge_indptr, merge_pairs;  // [rows + 1], [pairs]: the pairs of each row, in their order
    float *partials;                     // [partial_begin[pairs], heads, dim + 2], until the thread's next plan

    explicit Work(const Plan &p) : merge_indptr(p.rows + 1), merge_pairs(p.row_indptr[p.segments]) {
        const int tile = std::max(1, MAX_QUERIES / (p.heads / p.kv_heads));
        partial_begin.push_back(0);
        for (int s = 0; s < p.segments; s++) {
            int length = 0;
            for (int e = p.extent_indptr[s]; e < p.extent_indptr[s + 1]; e++) length += p.extents[2 * e + 1];
            lengths.push_back(length);
            const int first = p.row_indptr[s], end = p.row_indptr[s + 1];
            for (int pair = first; pair < end; pair++) {
                const int seen = p.own[s] ? length - p.own[s] + (pair - first) + 1 : length;
                partial_begin.push_back(partial_begin.back() + (seen + CHUNK - 1) / CHUNK);
            }
            for (int at = first; at < end; at += tile) {
                const int count = std::min(tile, end - at), last = at + count;  // the last row sees the most
                for (int chunk = 0; chunk < partial_begin[last] - partial_begin[last - 1]; chunk++)
                    for (int h = 0; h < p.kv_heads; h++) tasks.push_back({s, h, at, count, chunk});
            }
        }
        const int pairs = int(merge_pairs.size());
        for (int i = 0; i < pairs; i++) merge_indptr[p.pair_rows[i] + 1]++;
        for (int r = 0; r < p.rows; r++) merge_indptr[r + 1] += merge_indptr[r];
        std::vector<int32_t> next(merge_indptr.begin(), merge_indptr.end() - 1);
        for (int i = 0; i < pairs; i++) merge_pairs[next[p.pair_rows[i]]++] = i;
        static thread_local std::vector<float> buffer;
        const size_t needed = size_t(partial_begin[pairs]) * p.heads * (p.dim + 2);
        if (buffer.size() < needed) buffer.resize(needed);
        partials = buffer.data();
    }
};

template <class T>
inline T narrow(float value) {
    if constexpr (sizeof(T) == 2) return to_bf16(value);
    else return value;
}

inline Vec widen(const float *from) { return at(from); }
inline Vec widen(const uint16_t *from) {
#if defined(PAVANE_BF16_DOT)  // GCC makes it of four smaller ones
    return (Vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)from)), 16);
#else
    typedef uint16_t Short __attribute__((vector_size(LANES * 2), aligned(2), may_alias));
    return (Vec)(__builtin_convertvector(*reinterpret_cast<const Short *>(from), UVec) << 16);
#endif
}

template <class T>
void write_row(const Plan &p, const Inputs &in, int r, T *keys, T *values) {
    const int half = p.dim / 2, stride = padded(p.dim), pack = 4 / sizeof(T);
    const int64_t angle = (p.origin + p.positions[r]) * half;
    const float *cos = p.cos + angle, *sin = p.sin + angle;
    const int64_t slot = p.row_slots[r];
    for (int h = 0; h < p.kv_heads; h++) {
        const float *k = in.k + r * in.k_stride + h * p.dim, *v = in.v + r * in.v_stride + h * p.dim;
        T *block = keys + (h * p.slots + slot / LANES * LANES) * p.dim;
        const auto put = [&](int d, float value) {
            block[(d / pack * LANES + slot % LANES) * pack + d % pack] = narrow<T>(value);
        };
        for (int d = 0; d < half; d++) {
            put(d, k[d] * cos[d] - k[d + half] * sin[d]);
            put(d + half, k[d + half] * cos[d] + k[d] * sin[d]);
        }
        T *row = values + (h * p.slots + slot) * stride;
        for (int d = 0; d < p.dim; d++) row[d] = narrow<T>(v[d]);
        std::fill(row + p.dim, row + stride, T(0));
    }
}

// A query as products with keys of type T take it.
#ifdef PAVANE_BF16_DOT
template <class T>
using Query = T;
#else
template <class T>
using Query = float;
#endif

// Rounded like the keys, whatever it is kept in.
template <class T>
inline Query<T> as_query(float value) {
    if constexpr (sizeof(Query<T>) == 2) return to_bf16(value);
    else return sizeof(T) == 2 ? from_bf16(to_bf16(value)) : value;
}

// Scores of 4 queries (stride MAX_DIM) with N blocks of sixteen keys.
template <int N, class T>
inline void scores4(const Query<T> *q, const T *const *blocks, int dim, Vec (*out)[4]) {
    Vec acc[N][4] = {};
    for (int d = 0; d < dim; d += 4 / sizeof(T)) {
#pragma GCC unroll 4
        for (int b = 0; b < N; b++) {
            if constexpr (sizeof(T) == 4) {
                const Vec k = at(blocks[b] + d * LANES);
#pragma GCC unroll 4
                for (int i = 0; i < 4; i++) acc[b][i] += q[i * MAX_DIM + d] * k;
            } else if constexpr (sizeof(Query<T>) == 2) {
                const Pair k = load16(blocks[b] + d * LANES);
#pragma GCC unroll 4
                for (int i = 0; i < 4; i++) acc[b][i] = dot(acc[b][i], k, q + i * MAX_DIM + d);
            } else {
                const UVec pair = *reinterpret_cast<const UVec *>(blocks[b] + d * LANES);
                const Vec even = (Vec)(pair << 16), odd = (Vec)(pair & 0xffff0000u);
#pragma GCC unroll 4
                for (int i = 0; i < 4; i++) acc[b][i] += q[i * MAX_DIM + d] * even;
#pragma GCC unroll 4
                for (int i = 0; i < 4; i++) acc[b][i] += q[i * MAX_DIM + d + 1] * odd;
            }
        }
    }
    for (int b = 0; b < N; b++)
        for (int i = 0; i < 4; i++) out[b][i] = acc[b][i];
}

// out[4][at .. at + LANES * N] += weights[4][count] * values
template <int N, class T>
inline void weigh4(const float *weights, const T *const *values, int count, int from, float *out) {
    Vec acc[4][N];
    for (int i = 0; i < 4; i++)
        for (int b = 0; b < N; b++) acc[i][b] = at(out + i * MAX_DIM + from + b * LANES);
    for (int j = 0; j < count; j++)
        for (int b = 0; b < N; b++) {
            const Vec v = widen(values[j] + from + b * LANES);
            for (int i = 0; i < 4; i++) acc[i][b] += weights[i * BLOCK + j] * v;
        }
    for (int i = 0; i < 4; i++)
        for (int b = 0; b < N; b++) at(out + i * MAX_DIM + from + b * LANES) = acc[i][b];
}

// Sixteen slots that hold the keys [to, to + count) of a block, from lane `lane` on.
struct Piece {
    int64_t block;
    int lane, count, to;
};

inline void put_scores(float *row, const Piece &piece, Vec scores) {
    if (piece.count == LANES) {
        at(row + piece.to) = scores;
        return;
    }
    for (int i = 0; i < piece.count; i++) row[piece.to + i] = scores[piece.lane + i];
}

// The first `left` visible keys of a segment, block by block in logical order.
struct Walk {
    const int32_t *extent;
    int within;  // keys of the extent that are behind

    Walk(const Plan &p, int segment, int begin) : extent(p.extents + 2 * p.extent_indptr[segment]), within(begin) {
        while (within >= extent[1]) within -= extent[1], extent += 2;
    }

    // The next `count` keys: where they lie, and the slot of each.
    int next(int count, Piece *pieces, int64_t *slots) {
        int n = 0;
        for (int done = 0; done < count;) {
            while (within == extent[1]) within = 0, extent += 2;
            const int64_t slot = extent[0] + within;
            const int lane = int(slot % LANES), here = std::min({LANES - lane, extent[1] - within, count - done});
            pieces[n++] = {slot - lane, lane, here, done};
            for (int i = 0; i < here; i++) slots[done + i] = slot + i;
            done += here;
            within += here;
        }
        return n;
    }
};

template <class T>
void run_task(const Plan &p, Work &work, const Task &task, const Inputs &in, const T *keys, const T *values) {
    alignas(64) static thread_local Query<T> queries[MAX_QUERIES * MAX_DIM];
    alignas(64) static thread_local float out[MAX_QUERIES * MAX_DIM];
    alignas(64) static thread_local float scores[4 * BLOCK];
    alignas(64) static thread_local float masses[MAX_QUERIES * LANES];  // to be summed at the end
    float peak[MAX_QUERIES];
    Piece pieces[BLOCK];
    int64_t slots[BLOCK];
    const T *value_rows[BLOCK];

    const int dim = p.dim, half = dim / 2, group = p.heads / p.kv_heads, s = task.segment, wide = padded(dim);
    const float scale = 1.0f / std::sqrt(float(dim));
    const int count = task.count * group, rounded = (count + 3) / 4 * 4;
    for (int i = 0; i < rounded; i++) {
        peak[i] = NEVER;
        at(masses + i * LANES) = Vec{};
        std::fill(out + i * MAX_DIM, out + i * MAX_DIM + wide, 0.0f);
        if (i >= count) std::fill(queries + i * MAX_DIM, queries + i * MAX_DIM + dim, Query<T>(0));
    }
    for (int i = 0; i < task.count; i++) {
        const int64_t pair = task.first + i;
        const int64_t angle = (p.origin + p.positions[p.pair_rows[pair]] - p.pair_deltas[pair]) * half;
        const float *cos = p.cos + angle, *sin = p.sin + angle;
        for (int g = 0; g < group; g++) {
            const float *q = in.q + p.pair_rows[pair] * in.q_stride + (task.head * group + g) * dim;
            Query<T> *to = queries + (i * group + g) * MAX_DIM;
            for (int d = 0; d < half; d++) {
                to[d] = as_query<T>((q[d] * cos[d] - q[d + half] * sin[d]) * scale);
                to[d + half] = as_query<T>((q[d + half] * cos[d] + q[d] * sin[d]) * scale);
            }
        }
    }

    // Key j of the segment is seen by its row i if j < seen(i).
    const int first_in_segment = task.first - p.row_indptr[s];
    const int length = work.lengths[s];
    const auto seen = [&](int i) { return p.own[s] ? length - p.own[s] + first_in_segment + i + 1 : length; };
    const int end = std::min((task.chunk + 1) * CHUNK, seen(task.count - 1));
    const T *head_keys = keys + task.head * p.slots * dim, *head_values = values + task.head * p.slots * wide;
    Walk walk(p, s, task.chunk * CHUNK);
    for (int start = task.chunk * CHUNK; start < end; start += BLOCK) {
        const int here = std::min(BLOCK, end - start);
        const int n = walk.next(here, pieces, slots);
        for (int j = 0; j < here; j++) value_rows[j] = head_values + slots[j] * wide;
        for (int i = 0; i < rounded; i += 4) {
            const auto score = [&]<int N>(int b) {
                const T *blocks[N];
                for (int x = 0; x < N; x++) blocks[x] = head_keys + pieces[b + x].block * dim;
                Vec acc[N][4];
                scores4<N>(queries + i * MAX_DIM, blocks, dim, acc);
                for (int x = 0; x < N; x++)
                    for (int u = 0; u < 4; u++) put_scores(scores + u * BLOCK, pieces[b + x], acc[x][u]);
            };
            int b = 0;
            for (; b + 4 <= n; b += 4) score.template operator()<4>(b);
            if (n - b == 3) score.template operator()<3>(b);
            else if (n - b == 2) score.template operator()<2>(b);
            else if (n - b == 1) score.template operator()<1>(b);
            for (int u = i; u < i + 4; u++) {
                float *row = scores + (u - i) * BLOCK;
                const int limit = u < count ? std::min(here, seen(u / group) - start) : here;
                for (int j = std::max(0, limit); j < BLOCK; j++) row[j] = NEVER;
                Vec tops = at(row);
                for (int b = LANES; b < BLOCK; b += LANES) tops = larger(tops, at(row + b));
                const float highest = std::max(peak[u], top(tops));
                if (highest == NEVER) {  // nothing seen so far
                    std::fill(row, row + BLOCK, 0.0f);
                    continue;
                }
                const float keep = peak[u] == NEVER ? 0.0f : std::exp(peak[u] - highest);
                Vec total = {};
                for (int b = 0; b < BLOCK; b += LANES) {
                    at(row + b) = exp_nonpositive(at(row + b) - highest);
                    total += at(row + b);
                }
                at(masses + u * LANES) = at(masses + u * LANES) * keep + total;
                peak[u] = highest;
                if (keep != 1.0f)
                    for (int d = 0; d < wide; d += LANES) at(out + u * MAX_DIM + d) *= keep;
            }
            int d = 0;
            for (; d + 4 * LANES <= wide; d += 4 * LANES) weigh4<4>(scores, value_rows, here, d, out + i * MAX_DIM);
            for (; d < wide; d += LANES) weigh4<1>(scores, value_rows, here, d, out + i * MAX_DIM);
        }
    }
    for (int i = 0; i < task.count; i++)
        for (int g = 0; g < group; g++) {
            const int u = i * group + g;
            const int64_t part = work.partial_begin[task.first + i] + task.chunk;
            if (part >= work.partial_begin[task.first + i + 1]) continue;  // it sees nothing of this chunk
            float *to = work.partials + (part * p.heads + task.head * group + g) * (dim + 2);
            to[0] = peak[u];
            to[1] = sum(at(masses + u * LANES));
            std::copy(out + u * MAX_DIM, out + u * MAX_DIM + dim, to + 2);
        }
}

// The attention of row r and head h: out [dim]. All heads of a row belong to one thread.
inline void merge(const Plan &p, const Work &work, int r, int h, float *out) {
    float top = NEVER, mass = 0;
    const auto each = [&](auto &&use) {
        for (int m = work.merge_indptr[r]; m < work.merge_indptr[r + 1]; m++) {
            const int pair = work.merge_pairs[m];
            for (int c = work.partial_begin[pair]; c < work.partial_begin[pair + 1]; c++)
                use(work.partials + (int64_t(c) * p.heads + h) * (p.dim + 2));
        }
    };
    each([&](const float *part) { top = std::max(top, part[0]); });
    std::fill(out, out + p.dim, 0.0f);
    each([&](const float *part) {
        if (part[1] == 0) return;
        const float weight = std::exp(part[0] - top);
        mass += part[1] * weight;
        for (int d = 0; d < p.dim; d++) out[d] += part[2 + d] * weight;
    });
    for (int d = 0; d < p.dim; d++) out[d] /= mass;
    if (!p.shares) return;
    for (int m = work.merge_indptr[r]; m < work.merge_indptr[r + 1]; m++) {
        const int pair = work.merge_pairs[m];
        float own = 0;
        for (int c = work.partial_begin[pair]; c < work.partial_begin[pair + 1]; c++) {
            const float *part = work.partials + (int64_t(c) * p.heads + h) * (p.dim + 2);
            if (part[1] != 0) own += part[1] * std::exp(part[0] - top);
        }
        p.shares[pair] += own / mass;
    }
}

}  // namespace pavane
