#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "s4d_native.h"

// Resamples as Pillow does, to the bit: weights in fixed point, one axis after the other, whole levels in between.

#if defined(__GNUC__)
#define S4D_INLINED __attribute__((always_inline)) inline
#define S4D_APART __restrict__
#else
#define S4D_INLINED inline
#define S4D_APART
#endif

namespace {

// A weight of 1 is 1 << kBits: a level has 8 bits, and 2 are left for sums that overshoot.
constexpr int kBits = 22;
constexpr int32_t kHalf = int32_t{1} << (kBits - 1);
// Lines that are resampled side by side: a pixel of each, padded to four bytes, fills a vector.
constexpr int64_t kLines = 4;
constexpr int64_t kColumn = 4 * kLines;
// Most taps with a loop of their own.
constexpr int64_t kUnrolled = 8;
// Bytes whose sums stay in the nearest cache, where there are more taps.
constexpr int64_t kBlock = 64;

double bilinear(double x) {
    x = std::abs(x);
    return x < 1.0 ? 1.0 - x : 0.0;
}

// The cubic convolution kernel with a = -1/2.
double bicubic(double x) {
    constexpr double a = -0.5;
    x = std::abs(x);
    if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0;
    if (x < 2.0) return (((x - 5.0) * x + 8.0) * x - 4.0) * a;
    return 0.0;
}

// How the pixels of one axis are put together: output i is the weighted sum of `taps` pixels from `first[i]` on.
struct Axis {
    Axis(int64_t pixels, float from, float to, int64_t outputs, S4dFilter filter)
        : size(outputs),
          origin(static_cast<int64_t>(from)),
          copies(static_cast<float>(origin) == from && to - from == static_cast<float>(outputs)),
          first(static_cast<std::size_t>(outputs)) {
        const double scale = static_cast<double>(to - from) / static_cast<double>(outputs);
        const double shrunk = std::max(scale, 1.0), reach = (filter == S4D_BICUBIC ? 2.0 : 1.0) * shrunk;
        const auto low_of = [&](double middle) {
            return std::max<int64_t>(static_cast<int64_t>(middle - reach + 0.5), 0);
        };
        const auto high_of = [&](double middle) {
            return std::min(static_cast<int64_t>(middle + reach + 0.5), pixels);
        };
        const auto middle_of = [&](int64_t i) {
            return static_cast<double>(from) + (static_cast<double>(i) + 0.5) * scale;
        };
        for (int64_t i = 0; i < size; ++i) taps = std::max(taps, high_of(middle_of(i)) - low_of(middle_of(i)));
        weights.resize(first.size() * static_cast<std::size_t>(taps));
        std::vector<double> raw(static_cast<std::size_t>(taps));
        for (int64_t i = 0; i < size; ++i) {
            const double middle = middle_of(i);
            const int64_t low = low_of(middle), high = high_of(middle);
            double sum = 0.0;
            for (int64_t x = low; x < high; ++x) {
                const double offset = (static_cast<double>(x) - middle + 0.5) * (1.0 / shrunk);
                sum += raw[static_cast<std::size_t>(x - low)] =
                    filter == S4D_BICUBIC ? bicubic(offset) : bilinear(offset);
            }
            // All outputs have the same number of taps: near the end some of weight 0 come first.
            const int64_t start = std::min(low, pixels - taps);
            first[static_cast<std::size_t>(i)] = start;
            for (int64_t x = low; x < high; ++x) {
                const double value = raw[static_cast<std::size_t>(x - low)];
                const double weight = (sum != 0.0 ? value / sum : value) * (1 << kBits);
                weights[static_cast<std::size_t>(i * taps + x - start)] =
                    static_cast<int32_t>(weight < 0.0 ? weight - 0.5 : weight + 0.5);
            }
        }
        begin = first.front();
        end = first.back() + taps;
    }

    // Output i takes the place of output size - 1 - i.
    void mirror() {
        std::reverse(first.begin(), first.end());
        std::reverse(weights.begin(), weights.end());
        for (int64_t i = 0; i < size; ++i) {
            std::reverse(weights.begin() + i * taps, weights.begin() + (i + 1) * taps);
        }
    }

    int64_t size, taps = 0;
    // First pixel of the box, and whether the outputs are the pixels from there on as they are.
    int64_t origin;
    bool copies;
    // First pixel that is needed, and the one after the last.
    int64_t begin = 0, end = 0;
    std::vector<int64_t> first;
    std::vector<int32_t> weights;
};

S4D_INLINED uint8_t rounded(int32_t sum) {
    const int32_t level = sum >> kBits;
    return static_cast<uint8_t>(level < 0 ? 0 : level > 255 ? 255 : level);
}

// `count` bytes, each the weighted sum of those `step` bytes apart.
template <int Taps, class Level>
S4D_INLINED void weigh(const Level* S4D_APART in, int64_t step, const int32_t* weights, uint8_t* S4D_APART out,
                       int64_t count) {
    int32_t weight[Taps];
    for (int k = 0; k < Taps; ++k) weight[k] = weights[k];
    for (int64_t i = 0; i < count; ++i) {
        int32_t sum = kHalf;
        for (int k = 0; k < Taps; ++k) sum += weight[k] * static_cast<int32_t>(in[k * step + i]);
        out[i] = rounded(sum);
    }
}

// The same for any number of taps.
template <class Level>
S4D_INLINED void weigh_many(const Level* S4D_APART in, int64_t step, const int32_t* weights, int64_t taps,
                            uint8_t* S4D_APART out, int64_t count) {
    for (int64_t at = 0; at < count; at += kBlock) {
        const int64_t bytes = std::min(kBlock, count - at);
        int32_t sums[kBlock];
        for (int64_t i = 0; i < bytes; ++i) sums[i] = kHalf;
        int64_t k = 0;
        for (; k + 4 <= taps; k += 4) {
            const Level* S4D_APART from = in + k * step + at;
            const int32_t a = weights[k], b = weights[k + 1], c = weights[k + 2], d = weights[k + 3];
            for (int64_t i = 0; i < bytes; ++i) {
                sums[i] += a * from[i] + b * from[step + i] + c * from[2 * step + i] + d * from[3 * step + i];
            }
        }
        for (; k < taps; ++k) {
            for (int64_t i = 0; i < bytes; ++i) sums[i] += weights[k] * in[k * step + at + i];
        }
        for (int64_t i = 0; i < bytes; ++i) out[at + i] = rounded(sums[i]);
    }
}

// Output lines from lines, `pitch` bytes apart, of which the first is number axis.begin.
template <int Taps>
S4D_INLINED void across_lines(const Axis& axis, const uint8_t* lines, int64_t pitch, uint8_t* out, int64_t width) {
    for (int64_t y = 0; y < axis.size; ++y) {
        const uint8_t* from = lines + (axis.first[static_cast<std::size_t>(y)] - axis.begin) * pitch;
        const int32_t* weights = axis.weights.data() + y * axis.taps;
        if constexpr (Taps > 0) {
            weigh<Taps>(from, pitch, weights, out + y * width, width);
        } else {
            weigh_many(from, pitch, weights, axis.taps, out + y * width, width);
        }
    }
}

// Output pixels of kLines lines from `columns`, of which the first is number axis.begin.
template <int Taps>
S4D_INLINED void along_lines(const Axis& axis, const int32_t* columns, uint8_t* const* out) {
    for (int64_t i = 0; i < axis.size; ++i) {
        const int32_t* from = columns + kColumn * (axis.first[static_cast<std::size_t>(i)] - axis.begin);
        const int32_t* weights = axis.weights.data() + i * axis.taps;
        uint8_t levels[kColumn];
        if constexpr (Taps > 0) {
            weigh<Taps>(from, kColumn, weights, levels, kColumn);
        } else {
            weigh_many(from, kColumn, weights, axis.taps, levels, kColumn);
        }
        if (i + 1 < axis.size) {
            // Four bytes are one move; the next pixel replaces the one too many.
            for (int64_t line = 0; line < kLines; ++line) std::memcpy(out[line] + 3 * i, levels + 4 * line, 4);
        } else {
            for (int64_t line = 0; line < kLines; ++line) std::memcpy(out[line] + 3 * i, levels + 4 * line, 3);
        }
    }
}

// The pixels `begin` to `end` of kLines lines, one beside the other, each padded to four bytes by any fourth.
void gather_columns(const uint8_t* const* lines, int64_t step, int64_t begin, int64_t end, uint8_t* gathered) {
    for (int64_t line = 0; line < kLines; ++line) {
        const uint8_t* from = lines[line] + step * begin;
        uint8_t* to = gathered + 4 * line;
        const int64_t last = end - begin - 1;
        for (int64_t x = 0; x < last; ++x) std::memcpy(to + kColumn * x, from + step * x, 4);
        // Memory may end with the last pixel.
        std::memcpy(to + kColumn * last, from + step * last, 3);
    }
}

S4D_PER_PROCESSOR void resample_across(const Axis& axis, const uint8_t* lines, int64_t pitch, uint8_t* out,
                                       int64_t width) {
    switch (axis.taps) {
        case 1:
            return across_lines<1>(axis, lines, pitch, out, width);
        case 2:
            return across_lines<2>(axis, lines, pitch, out, width);
        case 3:
            return across_lines<3>(axis, lines, pitch, out, width);
        case 4:
            return across_lines<4>(axis, lines, pitch, out, width);
        case 5:
            return across_lines<5>(axis, lines, pitch, out, width);
        case 6:
            return across_lines<6>(axis, lines, pitch, out, width);
        case 7:
            return across_lines<7>(axis, lines, pitch, out, width);
        case kUnrolled:
            return across_lines<kUnrolled>(axis, lines, pitch, out, width);
        default:
            return across_lines<0>(axis, lines, pitch, out, width);
    }
}

// `gathered` holds the columns as bytes; `columns` has room for them.
S4D_PER_PROCESSOR void resample_along(const Axis& axis, const uint8_t* S4D_APART gathered, int32_t* S4D_APART columns,
                                      uint8_t* const* out) {
    // Widened once, not at each of their taps.
    for (int64_t i = 0; i < kColumn * (axis.end - axis.begin); ++i) columns[i] = gathered[i];
    switch (axis.taps) {
        case 1:
            return along_lines<1>(axis, columns, out);
        case 2:
            return along_lines<2>(axis, columns, out);
        case 3:
            return along_lines<3>(axis, columns, out);
        case 4:
            return along_lines<4>(axis, columns, out);
        case 5:
            return along_lines<5>(axis, columns, out);
        case 6:
            return along_lines<6>(axis, columns, out);
        case 7:
            return along_lines<7>(axis, columns, out);
        case kUnrolled:
            return along_lines<kUnrolled>(axis, columns, out);
        default:
            return along_lines<0>(axis, columns, out);
    }
}

void copy_line(const uint8_t* in, int64_t step, uint8_t* out, int64_t pixels, bool flip) {
    if (!flip && step == 3) {
        std::memcpy(out, in, static_cast<std::size_t>(3 * pixels));
        return;
    }
    // Four bytes are one move; the next pixel replaces the one too many. Memory may end with the first and the last.
    const int64_t last = pixels - 1, onward = flip ? -step : step;
    const uint8_t* from = flip ? in + step * last : in;
    std::memcpy(out, from, 3);
    for (int64_t i = 1; i < last; ++i) std::memcpy(out + 3 * i, from + onward * i, 4);
    std::memcpy(out + 3 * last, from + onward * last, 3);
}

// Lines of pixels in memory: number 0 of them starts at `first`, and pixels lie `step` bytes apart.
struct Lines {
    const uint8_t* first;
    int64_t pitch, step;
    const uint8_t* line(int64_t y) const { return first + y * pitch; }
};

// One crop of frames of one size.
class Resampler {
  public:
    Resampler(const S4dFrames& frames, const float* box, S4dFilter filter, bool flip, int64_t size)
        : pitch_(frames.pitch),
          step_(frames.step),
          across_(frames.width, box[0], box[2], size, filter),
          down_(frames.height, box[1], box[3], size, filter),
          flip_(flip),
          // Pillow's rule since version 13: the height first where it shrinks by more than twice what the width does.
          height_first_(frames.height > size && frames.height - size > 2 * (frames.width - size)) {
        if (flip) across_.mirror();
    }

    // What one thread works with: the lines between the passes, and columns as bytes and widened.
    struct Scratch {
        explicit Scratch(const Resampler& resampler)
            : between(static_cast<std::size_t>(resampler.between())),
              gathered(static_cast<std::size_t>(kColumn * resampler.columns())),
              columns(gathered.size()) {}
        std::vector<uint8_t> between, gathered;
        std::vector<int32_t> columns;
    };

    void write(const uint8_t* frame, uint8_t* out, Scratch& scratch) const {
        const Lines whole{frame, pitch_, step_};
        uint8_t* lines = scratch.between.data();
        if (down_.copies) {
            narrow({whole.line(down_.origin), pitch_, step_}, 0, size(), out, scratch);
        } else if (across_.copies && !flip_ && step_ == 3) {
            resample_across(down_, whole.line(down_.begin) + 3 * across_.origin, pitch_, out, 3 * size());
        } else if (height_first_) {
            const int64_t begin = across_.copies ? across_.origin : across_.begin;
            resample_across(down_, whole.line(down_.begin) + step_ * begin, pitch_, lines, line_bytes());
            narrow({lines, line_bytes(), step_}, begin, size(), out, scratch);
        } else {
            const int64_t height = down_.end - down_.begin;
            narrow({whole.line(down_.begin), pitch_, step_}, 0, height, lines, scratch);
            resample_across(down_, lines, 3 * size(), out, 3 * size());
        }
    }

  private:
    int64_t size() const { return across_.size; }
    // Pixels of a line that are needed.
    int64_t columns() const { return across_.copies ? size() : across_.end - across_.begin; }
    // Bytes of a line from the first of them to the last; memory may end there.
    int64_t line_bytes() const { return step_ * (columns() - 1) + 3; }
    int64_t between() const { return size() * (height_first_ ? line_bytes() : 3 * (down_.end - down_.begin)); }

    // `height` lines, of which pixel number `skipped` comes first, cropped and resampled in width into dense lines.
    void narrow(const Lines& lines, int64_t skipped, int64_t height, uint8_t* out, Scratch& scratch) const {
        const int64_t width = 3 * size();
        if (across_.copies) {
            const int64_t start = lines.step * (across_.origin - skipped);
            for (int64_t y = 0; y < height; ++y) {
                copy_line(lines.line(y) + start, lines.step, out + y * width, size(), flip_);
            }
            return;
        }
        for (int64_t y = 0; y < height; y += kLines) {
            const uint8_t* from[kLines];
            uint8_t* to[kLines];
            for (int64_t i = 0; i < kLines; ++i) {
                // The last lines may be the same one several times.
                const int64_t line = std::min(y + i, height - 1);
                from[i] = lines.line(line);
                to[i] = out + line * width;
            }
            gather_columns(from, lines.step, across_.begin - skipped, across_.end - skipped, scratch.gathered.data());
            resample_along(across_, scratch.gathered.data(), scratch.columns.data(), to);
        }
    }

    int64_t pitch_, step_;
    Axis across_, down_;
    bool flip_, height_first_;
};

bool is_within(const float* box, const S4dFrames& frames) {
    return box[0] >= 0.0f && box[1] >= 0.0f && box[2] <= static_cast<float>(frames.width) &&
           box[3] <= static_cast<float>(frames.height) && box[2] > box[0] && box[3] > box[1];
}

}  // namespace

int64_t s4d_crop_resize(const S4dFrames* frames, const float* box, S4dFilter filter, int32_t flip,
                        uint8_t* const* outputs, int64_t size, int32_t threads) {
    if (!is_within(box, *frames)) return 1;
    if (frames->count == 0 || size == 0) return 0;
    const Resampler resampler(*frames, box, filter, flip != 0, size);
#if defined(_OPENMP)
#pragma omp parallel num_threads(threads)
#endif
    {
        Resampler::Scratch scratch(resampler);
#if defined(_OPENMP)
#pragma omp for schedule(static)
#endif
        for (int64_t i = 0; i < frames->count; ++i) resampler.write(frames->values[i], outputs[i], scratch);
    }
    static_cast<void>(threads);
    return 0;
}
