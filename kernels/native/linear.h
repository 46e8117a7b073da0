// Matrix products with packed weights: y[row, out] = sum over k of x[row, k] * w[out, k].
//
// A panel is PANEL outputs side by side. A group of inputs is stored as pairs: vector t holds inputs 2t and 2t + 1 of
// every output of the panel. Weights of 4 and 8 bits are integers q with a scale per group and perhaps a minimum,
// w = scale * q + minimum, so a group adds scale * dot(x, q) + minimum * sum(x). Such integers are exact in bfloat16: the
// only roundings are that of x to bfloat16 and those of the float32 sums.
//
// Every output is summed in one order whatever the number of rows: results do not depend on the batch. Only where the
// caller allows it, the weights themselves, scale * q + minimum, are rounded to bfloat16 for many rows: a group then adds
// nothing but its products, which is a fifth faster.
#pragma once

#include <algorithm>
#include <vector>

#include "vec.h"

namespace pavane {

constexpr int PANEL = LANES, QUAD = 4, SUM_GROUP = 16;

enum Format : int32_t { INT4 = 0, INT8 = 1, BF16 = 2 };

struct Linear {  // mirrored by packing.py
    int32_t outputs, inputs;  // inputs are padded with zeros to a multiple of 32
    int32_t format, group;    // inputs per scale: 32, or 16 (INT8 only)
    int32_t wide;             // scales and minimums are float32, not float16
    const void *weights;      // [panels, inputs / 2, PANEL, 2]: 4 bits (see unpack4), 8 bits, or bfloat16
    const void *scales;       // [panels, inputs / group, PANEL]
    const void *minimums;     // the same, or null
    const float *bias;        // [outputs] or null
};

// Rows of activations for one product, four side by side, so that a tile of rows needs few pointers; the last four may
// be filled up with anything finite.
struct Rows {
    const uint16_t *x;  // bfloat16 [rows / QUAD, inputs / 2, QUAD, 2], inputs padded to 32
    const float *sums;  // [rows / QUAD, inputs / SUM_GROUP, QUAD]: of x, as rounded
    int32_t count, inputs;
};

#ifdef PAVANE_BF16_DOT

struct Unpack4 {  // 64 bytes are 32 words, nibble s of word (2 * output + parity) is pair s: four pairs
    __m512i table;
    Unpack4() {
        alignas(64) uint16_t entries[32];  // an index has five bits, the fifth belongs to the next nibble
        for (int i = 0; i < 32; i++) entries[i] = to_bf16(float(i & 15));
        table = _mm512_load_si512(entries);
    }
    Pair get(const uint8_t *from, int pair) const {
        typedef uint16_t Words __attribute__((vector_size(64)));
        const Words words = (Words)_mm512_loadu_si512(from) >> (4 * pair);
        return (Pair)_mm512_permutexvar_epi16((__m512i)words, table);
    }
};

inline Pair unpack8(const int8_t *from) {  // 32 bytes are one pair of every output
    const __m512i low = _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)from));
    const __m512i high = _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(from + 16)));
    return _mm512_cvtne2ps_pbh(_mm512_cvtepi32_ps(high), _mm512_cvtepi32_ps(low));
}

#else

struct Unpack4 {
    Pair get(const uint8_t *from, int pair) const {
        const UVec words = *reinterpret_cast<const UVec *>(from);  // two of 16 bits each
        return {__builtin_convertvector((IVec)((words >> (4 * pair)) & 15), Vec),
                __builtin_convertvector((IVec)((words >> (16 + 4 * pair)) & 15), Vec)};
    }
};

inline Pair unpack8(const int8_t *from) {
    const IVec words = __builtin_convertvector(*reinterpret_cast<const ShortVec *>(from), IVec);
    return {__builtin_convertvector(words << 24 >> 24, Vec), __builtin_convertvector(words >> 8, Vec)};
}


#endif

inline float half_to_float(uint16_t value) {
#if defined(__F16C__)
    return _cvtsh_ss(value);
#else
    _Float16 half;
    std::memcpy(&half, &value, 2);
    return float(half);
#endif
}

inline Vec load_scale(const void *base, int64_t index, bool wide) {
    if (wide) return at(static_cast<const float *>(base) + index);
    const uint16_t *from = static_cast<const uint16_t *>(base) + index;
#if defined(PAVANE_BF16_DOT)
    return (Vec)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)from));
#else
    Vec out;
    for (int i = 0; i < LANES; i++) out[i] = half_to_float(from[i]);
    return out;
#endif
}

// scale * q + minimum of every output, rounded to bfloat16.
inline Pair scaled(Pair q, Vec scale, Vec minimum) {
#ifdef PAVANE_BF16_DOT
    const UVec bits = (UVec)(__m512i)q;
    const Vec even = (Vec)(bits << 16) * scale + minimum, odd = (Vec)(bits & 0xffff0000u) * scale + minimum;
    alignas(64) static constexpr uint16_t ORDER[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                       8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    const __m512i both = (__m512i)_mm512_cvtne2ps_pbh((__m512)odd, (__m512)even);
    return (Pair)_mm512_permutexvar_epi16(_mm512_load_si512(ORDER), both);
#else
    return {rounded(q.even * scale + minimum), rounded(q.odd * scale + minimum)};
#endif
}

// Pair t of a group that begins at `from`.
template <int FORMAT>
inline Pair pair_at(const Unpack4 &unpack4, const uint8_t *from, int t) {
    if constexpr (FORMAT == INT4) return unpack4.get(from + t / 4 * 4 * PANEL, t % 4);
    else if constexpr (FORMAT == INT8) return unpack8(reinterpret_cast<const int8_t *>(from) + t * 2 * PANEL);
    else return load16(reinterpret_cast<const uint16_t *>(from) + t * 2 * PANEL);
}

// Where the pairs of a tile come from: unpacked as they are needed, or before (`pairs`), then perhaps with their scales.
enum Source { PACKED, UNPACKED, SCALED };

// out[p][r] = the products of row `row` + r, `row` a multiple of QUAD, with panel `panel` + p; unless PACKED, `pairs` are
// those of these panels, one panel after the other.
template <int FORMAT, int GROUP, int R, int P, Source SOURCE>
__attribute__((always_inline)) inline void product(const Linear &w, const Rows &rows, int row, int panel, const Pair *pairs, Vec (*out)[R]) {
    constexpr int QUADS = (R + QUAD - 1) / QUAD;
    constexpr bool PLAIN = FORMAT == BF16 || SOURCE == SCALED;  // products are all there is to sum
    const int inputs = rows.inputs, groups = inputs / GROUP;
    const uint16_t *x[QUADS];
    const float *sums[QUADS];
    for (int i = 0; i < QUADS; i++) {
        x[i] = rows.x + (int64_t(row) + i * QUAD) * inputs;
        sums[i] = rows.sums + (int64_t(row) + i * QUAD) * (inputs / SUM_GROUP);
    }
    constexpr int BITS = FORMAT == INT4 ? 4 : FORMAT == INT8 ? 8 : 16;
    constexpr int64_t BYTES = GROUP * PANEL * BITS / 8;
    const uint8_t *weights = static_cast<const uint8_t *>(w.weights);
    const Unpack4 unpack4;
    Vec total[P][R] = {};
    for (int g = 0; g < groups; g++) {
        Vec acc[P][R];
        for (int p = 0; p < P; p++)
            for (int r = 0; r < R; r++) acc[p][r] = PLAIN ? total[p][r] : Vec{};
        const uint8_t *from[P];
        for (int p = 0; p < P; p++) from[p] = weights + (int64_t(panel + p) * groups + g) * BYTES;
#pragma GCC unroll 16
        for (int t = 0; t < GROUP / 2; t++) {
            Pair pair[P];
            for (int p = 0; p < P; p++)
                pair[p] = SOURCE != PACKED ? pairs[(int64_t(p) * groups + g) * (GROUP / 2) + t]
                                           : pair_at<FORMAT>(unpack4, from[p], t);
#pragma GCC unroll 8
            for (int r = 0; r < R; r++)
#pragma GCC unroll 4
                for (int p = 0; p < P; p++)
                    acc[p][r] = dot(acc[p][r], pair[p], x[r / QUAD] + (t * QUAD + r % QUAD) * 2);
        }
        for (int p = 0; p < P; p++) {
            if constexpr (PLAIN) {
                for (int r = 0; r < R; r++) total[p][r] = acc[p][r];
                continue;
            }
            const int64_t index = (int64_t(panel + p) * groups + g) * PANEL;
            const Vec scale = load_scale(w.scales, index, w.wide);
            for (int r = 0; r < R; r++) total[p][r] += acc[p][r] * scale;
            if (w.minimums) {
                const Vec minimum = load_scale(w.minimums, index, w.wide);
                for (int r = 0; r < R; r++) {
                    const float *s = sums[r / QUAD] + r % QUAD;
                    total[p][r] += minimum * (GROUP == SUM_GROUP ? s[0] : s[0] + s[QUAD]);
                }
            }
        }
        for (int i = 0; i < QUADS; i++) {
            x[i] += GROUP * QUAD;
            sums[i] += GROUP / SUM_GROUP * QUAD;
        }
    }
    for (int p = 0; p < P; p++)
        for (int r = 0; r < R; r++) {
            out[p][r] = total[p][r];
            if (w.bias) {
                const int first = (panel + p) * PANEL, here = std::min(PANEL, w.outputs - first);
                for (int i = 0; i < here; i++) out[p][r][i] += w.bias[first + i];
            }
        }
}

// Products of all rows with the panels [begin, end): use(panel, row, result) for each.
template <int FORMAT, int GROUP, class Use>
void products_of(const Linear &w, const Rows &rows, int begin, int end, bool round, Use &&use) {
    static thread_local std::vector<Pair> pairs;
    const auto tile = [&]<int R, int P, Source SOURCE>(int row, int panel) {
        Vec out[P][R];
        product<FORMAT, GROUP, R, P, SOURCE>(w, rows, row, panel, pairs.data(), out);
        for (int p = 0; p < P; p++)
            for (int r = 0; r < R && row + r < rows.count; r++) use(panel + p, row + r, out[p][r]);
    };
    const auto strip = [&]<int R, int P>() {
        int panel = begin;
        for (; panel + P <= end; panel += P) tile.template operator()<R, P, PACKED>(0, panel);
        if constexpr (P > 1)
            for (; panel < end; panel++) tile.template operator()<R, 1, PACKED>(0, panel);
    };
    const auto unpack = [&](int panel, int count) {
        const Unpack4 unpack4;
        const int groups = rows.inputs / GROUP;
        constexpr int64_t BYTES = GROUP * PANEL * (FORMAT == INT4 ? 4 : 8) / 8;
        pairs.resize(std::max(pairs.size(), size_t(count) * groups * (GROUP / 2)));
        for (int64_t i = 0; i < count * groups; i++) {
            const int64_t group = int64_t(panel) * groups + i;
            const uint8_t *from = static_cast<const uint8_t *>(w.weights) + group * BYTES;
            const Vec scale = round ? load_scale(w.scales, group * PANEL, w.wide) : Vec{};
            const Vec minimum = round && w.minimums ? load_scale(w.minimums, group * PANEL, w.wide) : Vec{};
#pragma GCC unroll 16
            for (int t = 0; t < GROUP / 2; t++) {
                const Pair q = pair_at<FORMAT>(unpack4, from, t);
                pairs[i * (GROUP / 2) + t] = round ? scaled(q, scale, minimum) : q;
            }
        }
    };
    // Two panels by eight rows: a row's pair is loaded once for both.
    const auto many = [&]<int P, Source SOURCE>(int panel) {
        if constexpr (SOURCE != PACKED) unpack(panel, P);
        for (int row = 0; row < rows.count; row += 8) tile.template operator()<8, P, SOURCE>(row, panel);
    };
    const auto all_of_many = [&]<Source SOURCE>() {
        int panel = begin;
        for (; panel + 2 <= end; panel += 2) many.template operator()<2, SOURCE>(panel);
        if (panel < end) many.template operator()<1, SOURCE>(panel);
    };
    if constexpr (FORMAT != BF16)
        if (round) return all_of_many.template operator()<SCALED>();
    if (rows.count > 8) all_of_many.template operator()<FORMAT == BF16 ? PACKED : UNPACKED>();
    else if (rows.count > 4) strip.template operator()<8, 1>();
    else if (rows.count > 2) strip.template operator()<4, 2>();
    else if (rows.count == 2) strip.template operator()<2, 4>();
    else strip.template operator()<1, 4>();
}

// `round` allows that the weights be rounded to bfloat16.
template <class Use>
void products(const Linear &w, const Rows &rows, int begin, int end, bool round, Use &&use) {
    if (w.format == INT4) products_of<INT4, 32>(w, rows, begin, end, round, use);
    else if (w.format == BF16) products_of<BF16, 32>(w, rows, begin, end, round, use);
    else if (w.group == 32) products_of<INT8, 32>(w, rows, begin, end, round, use);
    else products_of<INT8, 16>(w, rows, begin, end, round, use);
}

}  // namespace pavane
