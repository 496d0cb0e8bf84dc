// Products of bfloat16 matrices in AVX-512 registers, and the packing they read. Included by attention.cpp alone.
//
// The processor multiplies pairs: a 32-bit word holds two numbers that are neighbours along the summed dimension. The
// left operand is any array of such words, the right one has rows of them, 16 columns to a register.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")

namespace s4d {

// Word (row, pair) of the left operand lies at base + 2 * (row * row_step + pair * pair_step).
struct Left {
    const uint16_t* base;
    std::ptrdiff_t row_step, pair_step;
};

// Where a product goes: `sums` keeps it in float32, added to what is there if `adds`; without `sums` it is multiplied
// by `factor`, or the row's entry in `factors`, and stored as bfloat16.
struct Target {
    float* sums;
    uint16_t* rounded;
    std::ptrdiff_t row_step;
    const float* factors;
    float factor;
    bool adds;
};

inline __m512i broadcast_word(const uint16_t* place) {
    int32_t word;
    std::memcpy(&word, place, sizeof word);
    return _mm512_set1_epi32(word);
}

inline __m256i rounded(__m512 values) { return (__m256i)_mm512_cvtneps_pbh(values); }

// M rows by N registers of columns, kept in registers while `pairs` are summed.
template <int M, int N>
void product_tile(const Left& a, const uint32_t* b, std::ptrdiff_t b_step, int64_t pairs, const Target& c) {
    __m512 sum[M][N];
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) {
#pragma GCC unroll 4
        for (int n = 0; n < N; ++n) {
            sum[m][n] = c.adds ? _mm512_loadu_ps(c.sums + m * c.row_step + 16 * n) : _mm512_setzero_ps();
        }
    }
    const uint16_t* word = a.base;
    for (int64_t pair = 0; pair < pairs; ++pair, word += 2 * a.pair_step, b += b_step) {
        __m512bh right[N];
#pragma GCC unroll 4
        for (int n = 0; n < N; ++n) right[n] = (__m512bh)_mm512_loadu_si512(b + 16 * n);
#pragma GCC unroll 16
        for (int m = 0; m < M; ++m) {
            const auto left = (__m512bh)broadcast_word(word + 2 * m * a.row_step);
#pragma GCC unroll 4
            for (int n = 0; n < N; ++n) sum[m][n] = _mm512_dpbf16_ps(sum[m][n], left, right[n]);
        }
    }
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) {
        const __m512 factor = _mm512_set1_ps(c.factors == nullptr ? c.factor : c.factors[m]);
#pragma GCC unroll 4
        for (int n = 0; n < N; ++n) {
            if (c.sums != nullptr) {
                _mm512_storeu_ps(c.sums + m * c.row_step + 16 * n, sum[m][n]);
            } else {
                const __m256i narrow = rounded(_mm512_mul_ps(sum[m][n], factor));
                _mm256_storeu_si256(reinterpret_cast<__m256i*>(c.rounded + m * c.row_step + 16 * n), narrow);
            }
        }
    }
}

// The most rows whose sums fit the registers beside N columns.
template <int N>
constexpr int kRows = N == 1   ? 12
                      : N == 2 ? 12
                      : N == 3 ? 8
                               : 6;

template <int M, int N>
void product_rows(int rows, const Left& a, const uint32_t* b, std::ptrdiff_t b_step, int64_t pairs, const Target& c) {
    if constexpr (M > 1) {
        if (rows < M) return product_rows<M - 1, N>(rows, a, b, b_step, pairs, c);
    }
    product_tile<M, N>(a, b, b_step, pairs, c);
}

template <int N>
void product_columns(int64_t rows, Left a, const uint32_t* b, std::ptrdiff_t b_step, int64_t pairs, Target c) {
    while (rows > 0) {
        // Even shares: a last tile of a row or two would leave the multipliers waiting.
        const int64_t tiles = (rows + kRows<N> - 1) / kRows<N>;
        const int64_t now = (rows + tiles - 1) / tiles;
        product_rows<kRows<N>, N>(static_cast<int>(now), a, b, b_step, pairs, c);
        rows -= now;
        a.base += 2 * now * a.row_step;
        (c.sums != nullptr ? (c.sums += now * c.row_step, void()) : (c.rounded += now * c.row_step, void()));
        if (c.factors != nullptr) c.factors += now;
    }
}

// (rows, 16 * registers) = left (rows, pairs) times right (pairs, 16 * registers).
inline void product(int64_t rows, int64_t registers, const Left& a, const uint32_t* b, std::ptrdiff_t b_step,
                    int64_t pairs, Target c) {
    while (registers > 0) {
        // 5 registers as 3 + 2, not 4 + 1.
        const int64_t now = registers >= 4 && registers != 5 ? 4 : registers == 5 ? 3 : registers;
        if (now == 4) {
            product_columns<4>(rows, a, b, b_step, pairs, c);
        } else if (now == 3) {
            product_columns<3>(rows, a, b, b_step, pairs, c);
        } else if (now == 2) {
            product_columns<2>(rows, a, b, b_step, pairs, c);
        } else {
            product_columns<1>(rows, a, b, b_step, pairs, c);
        }
        registers -= now;
        b += 16 * now;
        (c.sums != nullptr ? (c.sums += 16 * now, void()) : (c.rounded += 16 * now, void()));
    }
}

// Words of 16 rows become columns, in place.
inline void transpose(__m512i (&r)[16]) {
    __m512i t[16];
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
        t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
        r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xDD);
        t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xDD);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xDD);
        r[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
        r[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xDD);
    }
}

// Rows (length, dim) with their pairs along dim become words (dim / 2, 16 * registers), zero past `length`.
inline void pack_transposed(const uint16_t* rows, std::ptrdiff_t row_step, int64_t length, int64_t dim, uint32_t* out) {
    const int64_t step = (length + 15) / 16 * 16;
    for (int64_t j = 0; j < length; j += 16) {
        for (int64_t pair = 0; pair < dim / 2; pair += 16) {
            const int64_t pairs = dim / 2 - pair < 16 ? dim / 2 - pair : 16;
            const auto mask = static_cast<__mmask16>((1u << pairs) - 1u);
            __m512i words[16];
#pragma GCC unroll 16
            for (int i = 0; i < 16; ++i) {
                words[i] = j + i < length ? _mm512_maskz_loadu_epi32(mask, rows + (j + i) * row_step + 2 * pair)
                                          : _mm512_setzero_si512();
            }
            transpose(words);
#pragma GCC unroll 16
            for (int i = 0; i < 16; ++i) {
                if (i < pairs) _mm512_storeu_si512(out + (pair + i) * step + j, words[i]);
            }
        }
    }
}

inline __m512i interleave(__m256i even, __m256i odd) {
    return _mm512_or_si512(_mm512_cvtepu16_epi32(even), _mm512_slli_epi32(_mm512_cvtepu16_epi32(odd), 16));
}

// Rows (length, dim) become words (length / 2 rounded up, dim) with their pairs along the rows.
inline void pack_pairs(const uint16_t* rows, std::ptrdiff_t row_step, int64_t length, int64_t dim, uint32_t* out) {
    for (int64_t j = 0; j < length; j += 2) {
        const uint16_t* row = rows + j * row_step;
        for (int64_t d = 0; d < dim; d += 16) {
            const __m256i even = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row + d));
            const __m256i odd = j + 1 < length
                                    ? _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row + row_step + d))
                                    : _mm256_setzero_si256();
            _mm512_storeu_si512(out + j / 2 * dim + d, interleave(even, odd));
        }
    }
}

// e^x to 2 units in the last place for x <= 0; NaN stays NaN.
inline __m512 exponential(__m512 x) {
    // The second operand is what a NaN leaves.
    x = _mm512_max_ps(_mm512_set1_ps(-104.0f), x);
    const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 0x08);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693145752f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(1.42860677e-6f), r);
    // The Taylor polynomial of degree 7 within half of log 2: its error is below 2^-27.
    __m512 p = _mm512_set1_ps(1.0f / 5040);
    for (const float c : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f}) {
        p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(c));
    }
    return _mm512_scalef_ps(p, n);
}

}  // namespace s4d

#pragma GCC pop_options
