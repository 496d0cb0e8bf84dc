#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <new>
#include <vector>

#include "huge_pages.h"
#include "s4d_native.h"

// One copy of the processor's instructions is enough: others are refused.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 11
#define S4D_HAS_ATTENTION 1
// g++ 12 takes the undefined operands inside its own intrinsics for mistakes of their callers (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include "attention_tiles.h"
#else
#define S4D_HAS_ATTENTION 0
#endif

const char* s4d_attention_refuses(int64_t head_dim) {
#if S4D_HAS_ATTENTION
    if (!__builtin_cpu_supports("avx512bf16") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512dq")) {
        return "the processor lacks AVX-512 BF16";
    }
    if (head_dim < 16 || head_dim > 256 || head_dim % 16 != 0) return "head_dim is not a multiple of 16 up to 256";
    return nullptr;
#else
    static_cast<void>(head_dim);
    return "built without AVX-512 BF16: needs g++ 11 or newer on x86-64";
#endif
}

#if S4D_HAS_ATTENTION

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")

namespace {

using s4d::Left;
using s4d::Target;

// Queries worked on together: their scores stay in the first caches. Even, since pairs of queries are packed together.
constexpr int64_t kForwardRows = 24;
constexpr int64_t kBackwardRows = 48;

// One head of one sequence; rows of q, k, v and of their gradients are `step` apart, those of the output `out_step`.
struct Head {
    const uint16_t *q, *k, *v;
    std::ptrdiff_t step, out_step;
    int64_t length, dim;
    float scale;

    int64_t columns() const { return (length + 15) / 16; }
    int64_t pairs() const { return (length + 1) / 2; }
};

template <class T>
class Buffer {
  public:
    explicit Buffer(int64_t size)
        : data_(static_cast<T*>(::operator new(static_cast<std::size_t>(size) * sizeof(T), kAlign))) {}
    ~Buffer() { ::operator delete(data_, kAlign); }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    T* get() const { return data_; }

  private:
    static constexpr std::align_val_t kAlign{64};
    T* data_;
};

__mmask16 columns_left(int64_t length, int64_t column) {
    return static_cast<__mmask16>(length - column >= 16 ? 0xFFFFu : (1u << (length - column)) - 1u);
}

// Scores (row) become e^(scaled score - largest), zero past `length`; returns their sum.
float exponentials(float* row, int64_t length, float scale) {
    __m512 most = _mm512_set1_ps(-__builtin_inff());
    const __m512 factor = _mm512_set1_ps(scale);
    for (int64_t j = 0; j < length; j += 16) {
        const __m512 scaled = _mm512_mul_ps(_mm512_loadu_ps(row + j), factor);
        _mm512_storeu_ps(row + j, scaled);
        most = _mm512_mask_max_ps(most, columns_left(length, j), most, scaled);
    }
    const __m512 largest = _mm512_set1_ps(_mm512_reduce_max_ps(most));
    __m512 sum = _mm512_setzero_ps();
    for (int64_t j = 0; j < length; j += 16) {
        const __m512 value = s4d::exponential(_mm512_sub_ps(_mm512_loadu_ps(row + j), largest));
        const __m512 kept = _mm512_maskz_mov_ps(columns_left(length, j), value);
        _mm512_storeu_ps(row + j, kept);
        sum = _mm512_add_ps(sum, kept);
    }
    return _mm512_reduce_add_ps(sum);
}

// Scratch of one thread for sequences up to `length`.
class Forward {
  public:
    Forward(int64_t length, int64_t dim)
        : keys_(dim / 2 * padded(length)),
          values_((length + 1) / 2 * dim),
          scores_(kForwardRows * padded(length)),
          probs_(kForwardRows * padded(length)) {}

    void run(const Head& h, uint16_t* out) {
        const int64_t step = 16 * h.columns();
        s4d::pack_transposed(h.k, h.step, h.length, h.dim, keys_.get());
        s4d::pack_pairs(h.v, h.step, h.length, h.dim, values_.get());
        for (int64_t i = 0; i < h.length; i += kForwardRows) {
            const int64_t rows = std::min(kForwardRows, h.length - i);
            s4d::product(rows, h.columns(), {h.q + i * h.step, h.step / 2, 1}, keys_.get(), step, h.dim / 2,
                         {scores_.get(), nullptr, step, nullptr, 1.0f, false});
            float factors[kForwardRows];
            for (int64_t r = 0; r < rows; ++r) {
                float* row = scores_.get() + r * step;
                factors[r] = 1.0f / exponentials(row, h.length, h.scale);
                for (int64_t j = 0; j < step; j += 16) {
                    _mm256_storeu_si256(reinterpret_cast<__m256i*>(probs_.get() + r * step + j),
                                        s4d::rounded(_mm512_loadu_ps(row + j)));
                }
            }
            s4d::product(rows, h.dim / 16, {probs_.get(), step / 2, 1}, values_.get(), h.dim, h.pairs(),
                         {nullptr, out + i * h.out_step, h.out_step, factors, 1.0f, false});
        }
    }

    static int64_t padded(int64_t length) { return (length + 15) / 16 * 16; }

  private:
    Buffer<uint32_t> keys_, values_;
    Buffer<float> scores_;
    Buffer<uint16_t> probs_;
};

class Backward {
  public:
    Backward(int64_t length, int64_t dim)
        : keys_(dim / 2 * padded(length)),
          values_(dim / 2 * padded(length)),
          key_pairs_((length + 1) / 2 * dim),
          query_pairs_((length + 1) / 2 * dim),
          upstream_pairs_((length + 1) / 2 * dim),
          scores_(kBackwardRows * padded(length)),
          grads_(kBackwardRows * padded(length)),
          prob_pairs_(kBackwardRows / 2 * padded(length)),
          grad_pairs_(kBackwardRows / 2 * padded(length)),
          grad_rows_(kBackwardRows * padded(length)),
          dk_(length * dim),
          dv_(length * dim) {}

    // `dq`, `dk` and `dv` are laid out like q, k and v.
    void run(const Head& h, const uint16_t* upstream, uint16_t* dq, uint16_t* dk, uint16_t* dv) {
        const int64_t step = 16 * h.columns(), registers = h.dim / 16;
        s4d::pack_transposed(h.k, h.step, h.length, h.dim, keys_.get());
        s4d::pack_transposed(h.v, h.step, h.length, h.dim, values_.get());
        s4d::pack_pairs(h.k, h.step, h.length, h.dim, key_pairs_.get());
        s4d::pack_pairs(h.q, h.step, h.length, h.dim, query_pairs_.get());
        s4d::pack_pairs(upstream, h.out_step, h.length, h.dim, upstream_pairs_.get());
        for (int64_t i = 0; i < h.length; i += kBackwardRows) {
            const int64_t rows = std::min(kBackwardRows, h.length - i);
            const Target scores{scores_.get(), nullptr, step, nullptr, 1.0f, false};
            const Target grads{grads_.get(), nullptr, step, nullptr, 1.0f, false};
            s4d::product(rows, h.columns(), {h.q + i * h.step, h.step / 2, 1}, keys_.get(), step, h.dim / 2, scores);
            s4d::product(rows, h.columns(), {upstream + i * h.out_step, h.out_step / 2, 1}, values_.get(), step,
                         h.dim / 2, grads);
            for (int64_t r = 0; r < rows; r += 2) pair_of_rows(h, r, rows);
            s4d::product(rows, registers, {grad_words(), step / 2, 1}, key_pairs_.get(), h.dim, h.pairs(),
                         {nullptr, dq + i * h.step, h.step, nullptr, h.scale, false});
            const bool first = i == 0, last = i + rows == h.length;
            along_queries(h, grad_pairs_.get(), query_pairs_.get() + i / 2 * h.dim, (rows + 1) / 2, dk_.get(),
                          first && last ? dk : nullptr, h.scale, !first);
            along_queries(h, prob_pairs_.get(), upstream_pairs_.get() + i / 2 * h.dim, (rows + 1) / 2, dv_.get(),
                          first && last ? dv : nullptr, 1.0f, !first);
        }
        if (h.length > kBackwardRows) {
            store(h, dk_.get(), h.scale, dk);
            store(h, dv_.get(), 1.0f, dv);
        }
    }

  private:
    static int64_t padded(int64_t length) { return Forward::padded(length); }

    const uint16_t* grad_words() const { return grad_rows_.get(); }

    // From the scores and the gradients of the probabilities of rows r and r + 1: the probabilities in pairs, and the
    // gradients of the scores in pairs and in rows.
    void pair_of_rows(const Head& h, int64_t r, int64_t rows) {
        const int64_t step = 16 * h.columns();
        float inverse[2], mean[2];
        for (int64_t i = 0; i < 2; ++i) {
            float *row = scores_.get() + (r + i) * step, *grad = grads_.get() + (r + i) * step;
            if (r + i >= rows) {
                std::fill(row, row + step, 0.0f);
                std::fill(grad, grad + step, 0.0f);
                inverse[i] = mean[i] = 0.0f;
                continue;
            }
            inverse[i] = 1.0f / exponentials(row, h.length, h.scale);
            __m512 sum = _mm512_setzero_ps();
            for (int64_t j = 0; j < step; j += 16) {
                sum = _mm512_fmadd_ps(_mm512_loadu_ps(row + j), _mm512_loadu_ps(grad + j), sum);
            }
            mean[i] = _mm512_reduce_add_ps(sum) * inverse[i];
        }
        for (int64_t j = 0; j < step; j += 16) {
            __m256i prob[2], grad[2];
            for (int64_t i = 0; i < 2; ++i) {
                const int64_t place = (r + i) * step + j;
                const __m512 p = _mm512_mul_ps(_mm512_loadu_ps(scores_.get() + place), _mm512_set1_ps(inverse[i]));
                const __m512 off = _mm512_sub_ps(_mm512_loadu_ps(grads_.get() + place), _mm512_set1_ps(mean[i]));
                prob[i] = s4d::rounded(p);
                grad[i] = s4d::rounded(_mm512_mul_ps(p, off));
                _mm256_storeu_si256(reinterpret_cast<__m256i*>(grad_rows_.get() + place), grad[i]);
            }
            _mm512_storeu_si512(prob_pairs_.get() + r / 2 * step + j, s4d::interleave(prob[0], prob[1]));
            _mm512_storeu_si512(grad_pairs_.get() + r / 2 * step + j, s4d::interleave(grad[0], grad[1]));
        }
    }

    // Sums over a block of queries into rows of keys: kept in `sums`, or finished into `out`.
    static void along_queries(const Head& h, const uint32_t* left, const uint32_t* right, int64_t pairs, float* sums,
                              uint16_t* out, float factor, bool adds) {
        const Target target{
            out == nullptr ? sums : nullptr, out, out == nullptr ? h.dim : h.step, nullptr, factor, adds};
        s4d::product(h.length, h.dim / 16, {reinterpret_cast<const uint16_t*>(left), 1, 16 * h.columns()}, right, h.dim,
                     pairs, target);
    }

    static void store(const Head& h, const float* sums, float factor, uint16_t* out) {
        for (int64_t j = 0; j < h.length; ++j) {
            for (int64_t d = 0; d < h.dim; d += 16) {
                const __m512 value = _mm512_mul_ps(_mm512_loadu_ps(sums + j * h.dim + d), _mm512_set1_ps(factor));
                _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + j * h.step + d), s4d::rounded(value));
            }
        }
    }

    Buffer<uint32_t> keys_, values_, key_pairs_, query_pairs_, upstream_pairs_;
    Buffer<float> scores_, grads_;
    Buffer<uint32_t> prob_pairs_, grad_pairs_;
    Buffer<uint16_t> grad_rows_;
    Buffer<float> dk_, dv_;
};

}  // namespace

#pragma GCC pop_options

namespace {

int64_t first_wrong_start(const S4dSequences& s) {
    if (s.starts[0] != 0) return 1;
    for (int64_t i = 1; i <= s.sequences; ++i) {
        if (s.starts[i] < s.starts[i - 1] || s.starts[i] > s.tokens) return i + 1;
    }
    return s.starts[s.sequences] == s.tokens ? 0 : s.sequences + 1;
}

Head head_of(const S4dSequences& s, int64_t sequence, int64_t head) {
    const int64_t width = s.heads * s.head_dim;
    const uint16_t* q = s.qkv + s.starts[sequence] * 3 * width + head * s.head_dim;
    return {q,          q + width, q + 2 * width, 3 * width, width, s.starts[sequence + 1] - s.starts[sequence],
            s.head_dim, s.scale};
}

// Rows are far apart, which the processor's own prefetching does not follow: the next head's come while this one's are
// worked on. Longer sequences would push out what is worked on.
constexpr int64_t kPrefetchedRows = 128;

void prefetch(const uint16_t* rows, std::ptrdiff_t step, int64_t length, int64_t dim) {
    constexpr int64_t kLine = 32;  // numbers
    for (int64_t i = 0; i < length; ++i) {
        for (int64_t d = 0; d < dim; d += kLine) __builtin_prefetch(rows + i * step + d);
    }
}

// Every head of every sequence, one after the other within a sequence; which thread takes it changes no number.
// `run` gets the head and where its first row lies in arrays (tokens, heads, head_dim), of which `upstream` may be one.
template <class Scratch, class Run>
int64_t each_head(const S4dSequences& s, const uint16_t* upstream, int32_t threads, const Run& run) {
    if (const int64_t position = first_wrong_start(s)) return position;
    int64_t longest = 0;
    for (int64_t i = 0; i < s.sequences; ++i) longest = std::max<int64_t>(longest, s.starts[i + 1] - s.starts[i]);
    if (longest == 0 || s.heads == 0) return 0;
    const int64_t items = s.sequences * s.heads;
    const int64_t together = s.sequences >= 8 * threads ? s.heads : 1;
#if defined(_OPENMP)
#pragma omp parallel num_threads(threads)
#endif
    {
        Scratch scratch(longest, s.head_dim);
#if defined(_OPENMP)
#pragma omp for schedule(dynamic, together)
#endif
        for (int64_t item = 0; item < items; ++item) {
            const int64_t sequence = item / s.heads, number = item % s.heads;
            const Head head = head_of(s, sequence, number);
            if (head.length == 0) continue;
            const int64_t place = s.starts[sequence] * head.out_step + number * head.dim;
            if (head.length <= kPrefetchedRows && number + 1 < s.heads) {
                for (const uint16_t* rows : {head.q, head.k, head.v}) {
                    prefetch(rows + head.dim, head.step, head.length, head.dim);
                }
                if (upstream != nullptr) prefetch(upstream + place + head.dim, head.out_step, head.length, head.dim);
            }
            run(scratch, head, place);
        }
    }
    static_cast<void>(together);
    return 0;
}

}  // namespace

int64_t s4d_attention(const S4dSequences* sequences, uint16_t* out, int32_t threads) {
    const S4dSequences& s = *sequences;
    s4d::prefer_huge_pages(out, s.tokens * s.heads * s.head_dim);
    return each_head<Forward>(s, nullptr, threads, [&](Forward& forward, const Head& head, int64_t place) {
        forward.run(head, out + place);
    });
}

int64_t s4d_attention_backward(const S4dSequences* sequences, const uint16_t* grad_out, uint16_t* grad_qkv,
                               int32_t threads) {
    const S4dSequences& s = *sequences;
    s4d::prefer_huge_pages(grad_qkv, 3 * s.tokens * s.heads * s.head_dim);
    return each_head<Backward>(s, grad_out, threads, [&](Backward& backward, const Head& head, int64_t place) {
        uint16_t* grad = grad_qkv + (head.q - s.qkv);
        backward.run(head, grad_out + place, grad, grad + head.out_step, grad + 2 * head.out_step);
    });
}

#else

int64_t s4d_attention(const S4dSequences*, uint16_t*, int32_t) { return 1; }

int64_t s4d_attention_backward(const S4dSequences*, const uint16_t*, uint16_t*, int32_t) { return 1; }

#endif
