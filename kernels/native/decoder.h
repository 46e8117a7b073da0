// The forward pass of a Llama-like decoder on a CPU: tokens in, logits out, one team of threads from beginning to end.
#pragma once

#include <vector>

#include "attention.h"
#include "linear.h"

namespace pavane {

struct Layer {  // mirrored by native_decoder.py
    const float *attention_norm, *mlp_norm;  // [hidden]
    const float *q_norm, *k_norm;            // [dim] or null
    Linear q, k, v, o, gate, up, down;
    void *keys, *values;  // this layer's part of the cache
};

struct Model {
    int32_t layers, hidden, inner, heads, kv_heads, dim, vocabulary, threads;
    int32_t round_from;  // products of at least so many rows may round the weights to bfloat16; 0: none may
    float eps;
    const Layer *layer;
    const float *norm;  // [hidden]
    Linear embedding, head;
};

// Rows of activations in bfloat16, laid out as products want them.
class Activations {
  public:
    void resize(int rows, int inputs) {
        inputs_ = (inputs + 31) / 32 * 32;
        rows_ = rows;
        const size_t quads = (rows + 2 * QUAD - 1) / QUAD + 2;  // a tile of eight may begin with the last row
        if (x_.size() < quads * QUAD * inputs_) {
            x_.assign(quads * QUAD * inputs_, 0);
            sums_.assign(quads * QUAD * inputs_ / SUM_GROUP, 0);
        }
    }
    // Values [from, from + SUM_GROUP) of a row; beyond `count` there are none.
    void put(int row, int from, const float *values, int count) {
        uint32_t *to = reinterpret_cast<uint32_t *>(x_.data()) + (int64_t(row / QUAD) * inputs_ / 2 + from / 2) * QUAD;
        Vec value = {};
        if (count == SUM_GROUP) value = at(values);
        else std::copy(values, values + count, reinterpret_cast<float *>(&value));
        const Vec kept = rounded(value);
        const UVec bits = (UVec)kept;
        for (int i = 0; i < SUM_GROUP / 2; i++) to[i * QUAD + row % QUAD] = bits[2 * i] >> 16 | bits[2 * i + 1];
        sums_[(int64_t(row / QUAD) * (inputs_ / SUM_GROUP) + from / SUM_GROUP) * QUAD + row % QUAD] = sum(kept);
    }
    void put_row(int row, const float *values, int count) {
        for (int i = 0; i < inputs_; i += SUM_GROUP)
            put(row, i, values + i, std::max(0, std::min(SUM_GROUP, count - i)));
    }
    Rows rows(int from, int to) const {
        return {x_.data() + int64_t(from) * inputs_, sums_.data() + int64_t(from) * (inputs_ / SUM_GROUP), to - from,
                inputs_};
    }
    int count() const { return rows_; }

  private:
    std::vector<uint16_t> x_;
    std::vector<float> sums_;
    int rows_ = 0, inputs_ = 0;
};

struct Scratch {
    std::vector<float> x, qkv;
    Activations a, h;
};

inline void rms_norm(const float *x, const float *weight, int n, float eps, float *out) {
    Vec squares = {};
    int i = 0;
    for (; i + LANES <= n; i += LANES) squares += at(x + i) * at(x + i);
    float total = sum(squares);
    for (; i < n; i++) total += x[i] * x[i];
    const float scale = 1.0f / std::sqrt(total / float(n) + eps);
    for (i = 0; i < n; i++) out[i] = x[i] * scale * weight[i];
}

inline float weight_at(const Linear &w, int output, int input) {
    const int inputs = (w.inputs + 31) / 32 * 32, panel = output / PANEL, o = output % PANEL, pair = input / 2;
    const int64_t base = (int64_t(panel) * inputs / 2 + pair / (w.format == INT4 ? 4 : 1) * (w.format == INT4 ? 4 : 1)) *
                         PANEL * 2;  // weights before this one's vector
    const int word = 2 * o + input % 2;
    if (w.format == BF16) return from_bf16(static_cast<const uint16_t *>(w.weights)[base + word]);
    float q;
    if (w.format == INT8) q = static_cast<const int8_t *>(w.weights)[base + word];
    else q = float(static_cast<const uint16_t *>(w.weights)[base / 4 + word] >> (4 * (pair % 4)) & 15);
    const int64_t index = (int64_t(panel) * (inputs / w.group) + input / w.group) * PANEL + o;
    const auto value = [&](const void *from) {
        return w.wide ? static_cast<const float *>(from)[index]
                      : half_to_float(static_cast<const uint16_t *>(from)[index]);
    };
    return q * value(w.scales) + (w.minimums ? value(w.minimums) : 0.0f);
}

constexpr int STRIP = 4, BLOCK_ROWS = 256;  // panels and rows of one piece of work, whole tiles

// Shares out products among the team: use(first panel, end, first row, end). Ends with a barrier.
template <class Use>
void share(int panels, int rows, Use &&use) {
    const int strips = (panels + STRIP - 1) / STRIP, blocks = (rows + BLOCK_ROWS - 1) / BLOCK_ROWS;
#pragma omp for schedule(dynamic, 1)
    for (int t = 0; t < strips * blocks; t++) {
        const int panel = t / blocks * STRIP, row = t % blocks * BLOCK_ROWS;
        use(panel, std::min(panels, panel + STRIP), row, std::min(rows, row + BLOCK_ROWS));
    }
}

inline int panels_of(const Linear &w) { return (w.outputs + PANEL - 1) / PANEL; }

// out[row, first + ...] = or += products of `a` with w, for the panels [begin, end) and rows [from, to).
template <bool ADD>
void linear(const Linear &w, const Activations &a, int begin, int end, int from, int to, bool round, float *out,
            int64_t stride) {
    products(w, a.rows(from, to), begin, end, round, [&](int panel, int row, const Vec &value) {
        float *target = out + (from + row) * stride + panel * PANEL;
        const int here = std::min(PANEL, w.outputs - panel * PANEL);
        if (here == PANEL) {
            if constexpr (ADD) at(target) += value;
            else at(target) = value;
            return;
        }
        for (int i = 0; i < here; i++) target[i] = ADD ? target[i] + value[i] : value[i];
    });
}

template <class T>
void layer_forward(const Model &m, const Layer &l, const Plan &p, Work &work, Scratch &s) {
    const int n = p.rows, q_size = m.heads * m.dim, kv_size = m.kv_heads * m.dim;
    const int64_t width = q_size + 2 * kv_size;
    const bool round = m.round_from && n >= m.round_from;
    T *keys = static_cast<T *>(l.keys), *values = static_cast<T *>(l.values);
    const auto normalise = [&](const float *weight) {
        static thread_local std::vector<float> row;
        row.resize(m.hidden);
#pragma omp for schedule(static)
        for (int r = 0; r < n; r++) {
            rms_norm(s.x.data() + int64_t(r) * m.hidden, weight, m.hidden, m.eps, row.data());
            s.a.put_row(r, row.data(), m.hidden);
        }
    };

#pragma omp single
    s.a.resize(n, m.hidden);
    normalise(l.attention_norm);
    const int q_panels = panels_of(l.q), k_panels = panels_of(l.k), v_panels = panels_of(l.v);
    share(q_panels + k_panels + v_panels, n, [&](int begin, int end, int from, int to) {
        int before = 0, column = 0;
        for (const Linear *w : {&l.q, &l.k, &l.v}) {
            const int lo = std::max(begin - before, 0), hi = std::min(end - before, panels_of(*w));
            if (lo < hi) linear<false>(*w, s.a, lo, hi, from, to, round, s.qkv.data() + column, width);
            before += panels_of(*w);
            column += w->outputs;
        }
    });
    const Inputs in = {s.qkv.data(), s.qkv.data() + q_size, s.qkv.data() + q_size + kv_size, width, width, width};
#pragma omp for schedule(static)
    for (int r = 0; r < n; r++) {
        float *row = s.qkv.data() + r * width;
        if (l.q_norm)
            for (int h = 0; h < m.heads + m.kv_heads; h++)
                rms_norm(row + h * m.dim, h < m.heads ? l.q_norm : l.k_norm, m.dim, m.eps, row + h * m.dim);
        write_row<T>(p, in, r, keys, values);
    }
#pragma omp single
    s.a.resize(n, q_size);
#pragma omp for schedule(dynamic, 1)
    for (size_t t = 0; t < work.tasks.size(); t++) run_task<T>(p, work, work.tasks[t], in, keys, values);
    {
        static thread_local std::vector<float> row;
        row.resize(q_size);
#pragma omp for schedule(static)
        for (int r = 0; r < n; r++) {
            for (int h = 0; h < m.heads; h++) merge(p, work, r, h, row.data() + h * m.dim);
            s.a.put_row(r, row.data(), q_size);
        }
    }
    share(panels_of(l.o), n, [&](int begin, int end, int from, int to) {
        linear<true>(l.o, s.a, begin, end, from, to, round, s.x.data(), m.hidden);
    });
#pragma omp single
    s.a.resize(n, m.hidden);
    normalise(l.mlp_norm);
    share(panels_of(l.gate), n, [&](int begin, int end, int from, int to) {
        static thread_local Vec gate[STRIP][BLOCK_ROWS];
        const Rows rows = s.a.rows(from, to);
        products(l.gate, rows, begin, end, round,
                 [&](int panel, int row, const Vec &value) { gate[panel - begin][row] = value; });
        products(l.up, rows, begin, end, round, [&](int panel, int row, const Vec &value) {
            const Vec product = silu(gate[panel - begin][row]) * value;
            s.h.put(from + row, panel * PANEL, reinterpret_cast<const float *>(&product),
                    std::min(PANEL, m.inner - panel * PANEL));
        });
    });
    share(panels_of(l.down), n, [&](int begin, int end, int from, int to) {
        linear<true>(l.down, s.h, begin, end, from, to, round, s.x.data(), m.hidden);
    });
}

// logits [n, vocabulary] of n final hidden states, state(r) [hidden]. By the whole team; ends with a barrier.
template <class State>
void project(const Model &m, Scratch &s, int n, State &&state, float *logits) {
#pragma omp single
    s.a.resize(n, m.hidden);
    static thread_local std::vector<float> row;
    row.resize(m.hidden);
#pragma omp for schedule(static)
    for (int r = 0; r < n; r++) {
        rms_norm(state(r), m.norm, m.hidden, m.eps, row.data());
        s.a.put_row(r, row.data(), m.hidden);
    }
    const bool round = m.round_from && n >= m.round_from;
    share(panels_of(m.head), n, [&](int begin, int end, int from, int to) {
        linear<false>(m.head, s.a, begin, end, from, to, round, logits, m.vocabulary);
    });
}

// logits [n_samples, vocabulary] of the rows `sample_rows`; states [n_kept, hidden] of the rows `kept_rows`, before the
// norm.
inline void forward(const Model &m, const Plan &p, const int32_t *tokens, int n_samples, const int32_t *sample_rows,
                    float *logits, int n_kept, const int32_t *kept_rows, float *states) {
    static thread_local Scratch s;
    const int n = p.rows;
    s.x.resize(std::max(s.x.size(), size_t(n) * m.hidden));
    s.qkv.resize(std::max(s.qkv.size(), size_t(n) * (m.heads + 2 * m.kv_heads) * m.dim));
    s.a.resize(n, std::max(m.hidden, m.heads * m.dim));  // later changes of its shape allocate nothing
    s.h.resize(n, m.inner);
    Work work(p);
    Scratch *shared = &s;
#pragma omp parallel num_threads(m.threads)
    {
        Scratch &s = *shared;
#pragma omp for schedule(static)
        for (int r = 0; r < n; r++)
            for (int i = 0; i < m.hidden; i++) s.x[int64_t(r) * m.hidden + i] = weight_at(m.embedding, tokens[r], i);
        for (int i = 0; i < m.layers; i++) {
            if (p.half) layer_forward<uint16_t>(m, m.layer[i], p, work, s);
            else layer_forward<float>(m, m.layer[i], p, work, s);
        }
#pragma omp for schedule(static)
        for (int r = 0; r < n_kept; r++)
            std::copy_n(s.x.data() + int64_t(kept_rows[r]) * m.hidden, m.hidden, states + int64_t(r) * m.hidden);
        project(m, s, n_samples, [&](int r) { return s.x.data() + int64_t(sample_rows[r]) * m.hidden; }, logits);
    }
}

// logits [n, vocabulary] of states [n, hidden].
inline void head(const Model &m, int n, const float *states, float *logits) {
    static thread_local Scratch s;
    s.a.resize(n, m.hidden);
    Scratch *shared = &s;
#pragma omp parallel num_threads(m.threads)
    project(m, *shared, n, [&](int r) { return states + int64_t(r) * m.hidden; }, logits);
}

}  // namespace pavane
