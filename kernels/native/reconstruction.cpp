#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <vector>

#include "bfloat16.h"
#include "s4d_native.h"
#include "tokens.h"

namespace {

// Inside the root, added to the unbiased variance.
constexpr double kEpsilon = 1e-6;
// Tokens whose sums are added up by one thread, in order; a fixed number, so that the sums do not depend on threads.
constexpr int64_t kGroup = 32;

#if defined(__GNUC__)
#define S4D_INLINED __attribute__((always_inline)) inline
#else
#define S4D_INLINED inline
#endif

// Sums of one column of pixel lines: along a line of p pixels, channels alternate.
S4D_INLINED void add_line(const uint8_t* line, int64_t run, uint32_t* sum, uint32_t* square) {
    for (int64_t i = 0; i < run; ++i) {
        const uint32_t value = line[i];
        sum[i] += value;
        square[i] += value * value;
    }
}

S4D_PER_PROCESSOR void add_frame(const uint8_t* first, int64_t lines, int64_t pitch, int64_t run, uint32_t* sum,
                                 uint32_t* square) {
    for (int64_t y = 0; y < lines; ++y) add_line(first + y * pitch, run, sum, square);
}

S4D_INLINED float widened(float value) { return value; }
S4D_INLINED double widened(double value) { return value; }
S4D_INLINED float widened(uint16_t value) { return s4d::from_bfloat16(value); }
S4D_INLINED void narrow(float value, float* out) { *out = value; }
S4D_INLINED void narrow(double value, double* out) { *out = value; }
S4D_INLINED void narrow(float value, uint16_t* out) { *out = s4d::to_bfloat16(value); }

// What one thread works with: statistics repeated along a line, and its sums.
template <class Real>
struct Scratch {
    explicit Scratch(int64_t run)
        : sum(static_cast<std::size_t>(run)),
          square(sum.size()),
          middle(sum.size()),
          factor(sum.size()),
          squares(sum.size()) {}
    std::vector<uint32_t> sum, square;
    // The target is (number * pixel - middle) * factor, where number * pixel - middle is exact.
    std::vector<Real> middle, factor, squares;
    Real number{};
};

template <class Stored, class Real>
S4D_INLINED void subtract_lines(const uint8_t* pixels, int64_t lines, int64_t pitch, int64_t run, Scratch<Real>& s,
                                Stored* row, Real* columns) {
    const Real* middle = s.middle.data();
    const Real* factor = s.factor.data();
    Real* squares = s.squares.data();
    const Real number = s.number;
    for (int64_t y = 0; y < lines; ++y) {
        const uint8_t* line = pixels + y * pitch;
        Stored* out = row + y * run;
        Real* column = columns + y * run;
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC ivdep
#endif
        for (int64_t i = 0; i < run; ++i) {
            const Real target = (number * static_cast<Real>(line[i]) - middle[i]) * factor[i];
            const Real residual = widened(out[i]) - target;
            squares[i] += residual * residual;
            column[i] += residual;
            narrow(residual, out + i);
        }
    }
}

// One function per type: copies per instruction set cannot be made of a template.
S4D_PER_PROCESSOR void subtract(const uint8_t* pixels, int64_t lines, int64_t pitch, int64_t run, Scratch<float>& s,
                                float* row, float* columns) {
    subtract_lines(pixels, lines, pitch, run, s, row, columns);
}

S4D_PER_PROCESSOR void subtract(const uint8_t* pixels, int64_t lines, int64_t pitch, int64_t run, Scratch<float>& s,
                                uint16_t* row, float* columns) {
    subtract_lines(pixels, lines, pitch, run, s, row, columns);
}

S4D_PER_PROCESSOR void subtract(const uint8_t* pixels, int64_t lines, int64_t pitch, int64_t run, Scratch<double>& s,
                                double* row, double* columns) {
    subtract_lines(pixels, lines, pitch, run, s, row, columns);
}

template <class Stored, class Real>
class Residuals {
  public:
    Residuals(const S4dPixels& pixels, int64_t repeats) : p_(pixels), repeats_(repeats), run_(3 * pixels.patch_size) {}

    int64_t values() const { return repeats_ * p_.frames_per_token * p_.patch_size * run_; }

    // Subtracts the target of one token from its row, adds to `columns`, returns the sum of squares.
    double token(int64_t index, Stored* row, Real* columns, Scratch<Real>& s) const {
        const s4d::Token token = s4d::locate(p_, index);
        measure(token, s);
        std::fill(s.squares.begin(), s.squares.end(), Real{});
        for (int64_t f = 0; f < repeats_ * p_.frames_per_token; ++f) {
            const int64_t start = f * p_.patch_size * run_;
            subtract(first_pixel(token, f % p_.frames_per_token), p_.patch_size, 3 * p_.width, run_, s, row + start,
                     columns + start);
        }
        double total = 0;
        for (const Real value : s.squares) total += static_cast<double>(value);
        return total;
    }

  private:
    const uint8_t* first_pixel(const s4d::Token& token, int64_t frame) const {
        const int64_t line = (token.sample * p_.frames + token.frame + frame) * p_.height + token.y;
        return p_.values + 3 * (line * p_.width + token.x);
    }

    void measure(const s4d::Token& token, Scratch<Real>& s) const {
        double sum[3] = {}, square[3] = {};
        for (int64_t f = 0; f < p_.frames_per_token; ++f) {
            std::fill(s.sum.begin(), s.sum.end(), 0u);
            std::fill(s.square.begin(), s.square.end(), 0u);
            add_frame(first_pixel(token, f), p_.patch_size, 3 * p_.width, run_, s.sum.data(), s.square.data());
            // Sums of whole numbers below 2^53 are exact.
            for (std::size_t i = 0; i < s.sum.size(); ++i) {
                sum[i % 3] += s.sum[i];
                square[i % 3] += s.square[i];
            }
        }
        const auto positions = static_cast<double>(p_.frames_per_token * p_.patch_size * p_.patch_size);
        const auto repeats = static_cast<double>(repeats_);
        s.number = static_cast<Real>(positions);
        for (std::size_t i = 0; i < s.sum.size(); ++i) {
            const double spread = (positions * square[i % 3] - sum[i % 3] * sum[i % 3]) / positions;
            const double variance = spread * repeats / (repeats * positions - 1.0) / (255.0 * 255.0);
            s.middle[i] = static_cast<Real>(sum[i % 3]);
            s.factor[i] = static_cast<Real>(1.0 / (255.0 * positions * std::sqrt(variance + kEpsilon)));
        }
    }

    const S4dPixels& p_;
    int64_t repeats_, run_;
};

template <class Stored, class Real>
void all_residuals(const S4dPixels& pixels, const int64_t* indices, int64_t count, int64_t repeats, Stored* prediction,
                   double* squares, double* columns, int32_t threads) {
    const Residuals<Stored, Real> residuals(pixels, repeats);
    const int64_t values = residuals.values(), groups = (count + kGroup - 1) / kGroup;
    std::vector<Real> column_sums(static_cast<std::size_t>(groups * values));
    std::vector<double> square_sums(static_cast<std::size_t>(groups));
#if defined(_OPENMP)
#pragma omp parallel num_threads(threads)
#endif
    {
        Scratch<Real> scratch(3 * pixels.patch_size);
#if defined(_OPENMP)
#pragma omp for schedule(static)
#endif
        for (int64_t group = 0; group < groups; ++group) {
            Real* sums = column_sums.data() + group * values;
            double total = 0;
            for (int64_t i = group * kGroup; i < std::min(count, (group + 1) * kGroup); ++i) {
                total += residuals.token(indices[i], prediction + i * values, sums, scratch);
            }
            square_sums[static_cast<std::size_t>(group)] = total;
        }
    }
    static_cast<void>(threads);
    *squares = 0;
    std::fill(columns, columns + values, 0.0);
    for (int64_t group = 0; group < groups; ++group) {
        *squares += square_sums[static_cast<std::size_t>(group)];
        const Real* sums = column_sums.data() + group * values;
        for (int64_t i = 0; i < values; ++i) columns[i] += static_cast<double>(sums[i]);
    }
}

}  // namespace

int64_t s4d_reconstruction_residual(const S4dPixels* pixels, const int64_t* indices, int64_t count, int64_t repeats,
                                    void* prediction, S4dType type, double* squares, double* columns, int32_t threads) {
    if (const int64_t position = s4d::first_outside(*pixels, indices, count)) return position;
    const auto run = [&](auto* values, auto real) {
        all_residuals<std::remove_pointer_t<decltype(values)>, decltype(real)>(*pixels, indices, count, repeats, values,
                                                                               squares, columns, threads);
    };
    if (type == S4D_FLOAT64) {
        run(static_cast<double*>(prediction), double{});
    } else if (type == S4D_BFLOAT16) {
        run(static_cast<uint16_t*>(prediction), float{});
    } else {
        run(static_cast<float*>(prediction), float{});
    }
    return 0;
}
