// Sixteen floats as one value, on any processor: GCC's vector extensions, cut into what the machine has.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#if defined(__AVX512BF16__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define PAVANE_BF16_DOT 1
#endif
#if defined(PAVANE_BF16_DOT) || defined(__F16C__)
#include <immintrin.h>
#endif

namespace pavane {

constexpr int LANES = 16;
constexpr float NEVER = -std::numeric_limits<float>::infinity();
typedef float Vec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef int32_t IVec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef int16_t ShortVec __attribute__((vector_size(LANES * 2), aligned(2), may_alias));
typedef uint32_t UVec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

inline Vec &at(float *p) { return *reinterpret_cast<Vec *>(p); }
inline const Vec &at(const float *p) { return *reinterpret_cast<const Vec *>(p); }

inline float from_bf16(uint16_t value) {
    const uint32_t bits = uint32_t(value) << 16;
    float out;
    std::memcpy(&out, &bits, 4);
    return out;
}

inline uint16_t to_bf16(float value) {  // to nearest, ties to even; inputs are finite
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    return uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

inline Vec rounded(Vec v) {  // like to_bf16
    const UVec bits = (UVec)v;
    return (Vec)((bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000u);
}

// Halves, folded until one number is left.
template <class Op>
inline float fold(Vec v, Op &&op) {
    v = op(v, __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7));
    v = op(v, __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11));
    v = op(v, __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13));
    v = op(v, __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14));
    return v[0];
}

inline Vec larger(Vec a, Vec b) { return a > b ? a : b; }
inline float sum(Vec v) { return fold(v, [](Vec a, Vec b) { return a + b; }); }
inline float top(Vec v) { return fold(v, larger); }

// exp(x) for x <= 0 after Cephes' expf: 2**n * exp(r), |r| <= ln(2) / 2; exactly 0 where x is -inf or underflows.
inline Vec exp_nonpositive(Vec x) {
    const Vec low = Vec{} - 87.0f;
    const IVec dead = x < low;
    x = dead ? low : x;
    Vec n = x * 1.44269504088896341f + 12582912.0f;  // 1.5 * 2**23: rounds to the nearest integer
    const IVec exponent = (IVec)n - 0x4B400000;
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
    const Vec scale = (Vec)((exponent + 127) << 23);
    return dead ? Vec{} : p * scale;
}

// x * sigmoid(x), from the exponential of -|x|, which cannot overflow.
inline Vec silu(Vec x) {
    const Vec e = exp_nonpositive(x > 0 ? -x : x);
    return x * ((x > 0 ? Vec{} + 1.0f : e) / (1.0f + e));
}

// Two bfloat16 numbers of each of sixteen vectors.
#ifdef PAVANE_BF16_DOT

typedef __m512bh Pair;

inline Vec dot(Vec acc, Pair w, const uint16_t *x) {
    uint32_t pair;
    std::memcpy(&pair, x, 4);
    return (Vec)_mm512_dpbf16_ps((__m512)acc, w, (__m512bh)_mm512_set1_epi32(int(pair)));
}

inline Pair load16(const uint16_t *from) { return (Pair)_mm512_loadu_si512(from); }

#else

struct Pair {
    Vec even, odd;
};

inline Vec dot(Vec acc, Pair w, const uint16_t *x) {
    acc += w.even * from_bf16(x[0]);
    return acc + w.odd * from_bf16(x[1]);
}

inline Pair load16(const uint16_t *from) {
    const UVec words = *reinterpret_cast<const UVec *>(from);
    return {(Vec)(words << 16), (Vec)(words & 0xffff0000u)};
}

#endif

}  // namespace pavane
