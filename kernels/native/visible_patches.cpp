#include <algorithm>
#include <cstddef>
#include <vector>

#include "erase_noise.h"
#include "huge_pages.h"
#include "s4d_native.h"
#include "tokens.h"

namespace {

using s4d::Token;

// The part of a box within one token, in the token's own coordinates; empty boxes have y0 >= y1 or x0 >= x1.
struct Span {
    int64_t y0, x0, y1, x1;
    bool empty() const { return y0 >= y1 || x0 >= x1; }
};

Span clip(const S4dPatches& p, const int32_t* box, const Token& token) {
    const auto within = [&p](int64_t value, int64_t origin) {
        return std::min(std::max(value - origin, int64_t{0}), p.pixels.patch_size);
    };
    return {within(box[0], token.y), within(box[1], token.x), within(box[2], token.y), within(box[3], token.x)};
}

S4D_PER_PROCESSOR void blend(float* own, const float* partner, float share, int64_t count) {
    const float rest = 1.0f - share;
    for (int64_t i = 0; i < count; ++i) own[i] = share * own[i] + rest * partner[i];
}

// Writes the rows of one group of tokens in the order of a convolution's weight: colour, frame, line, pixel.
class RowWriter {
  public:
    explicit RowWriter(const S4dPatches& patches)
        : p_(patches),
          x_(patches.pixels),
          plane_(patches.pixels.frames_per_token * patches.pixels.patch_size * patches.pixels.patch_size) {
        for (int c = 0; c < 3; ++c) {
            for (int value = 0; value < 256; ++value) {
                normalised_[c][value] = (static_cast<float>(value) / 255.0f - p_.mean[c]) / p_.std[c];
            }
        }
    }

    int64_t row_size() const { return 3 * plane_; }

    // `scratch` holds one row.
    void write(int64_t index, float* row, float* scratch) const {
        Token token = s4d::locate(x_, index);
        clean(token, row);
        if (p_.partner == nullptr) return;
        const int64_t sample = token.sample;
        token.sample = p_.partner[sample];
        clean(token, scratch);
        const int32_t* box = p_.mix_box == nullptr ? nullptr : p_.mix_box + 4 * sample;
        if (box != nullptr && box[2] > box[0] && box[3] > box[1]) {
            paste(clip(p_, box, token), scratch, row);
        } else {
            blend(row, scratch, p_.share[sample], row_size());
        }
    }

  private:
    void clean(const Token& token, float* row) const {
        for (int64_t f = 0; f < x_.frames_per_token; ++f) {
            const int64_t frame = token.sample * x_.frames + token.frame + f;
            for (int64_t y = 0; y < x_.patch_size; ++y) {
                const int64_t pixel = (frame * x_.height + token.y + y) * x_.width + token.x;
                const uint8_t* values = x_.values + 3 * pixel;
                float* line = row + (f * x_.patch_size + y) * x_.patch_size;
                for (int c = 0; c < 3; ++c) {
                    float* colour = line + c * plane_;
                    for (int64_t x = 0; x < x_.patch_size; ++x) colour[x] = normalised_[c][values[3 * x + c]];
                }
            }
        }
        if (p_.erase_box != nullptr) erase(clip(p_, p_.erase_box + 4 * token.sample, token), token, row);
    }

    void erase(const Span& span, const Token& token, float* row) const {
        if (span.empty()) return;
        for (int64_t f = 0; f < x_.frames_per_token; ++f) {
            for (int64_t y = span.y0; y < span.y1; ++y) {
                for (int64_t x = span.x0; x < span.x1; ++x) {
                    float colour[3];
                    if (p_.erase_seed != nullptr) {
                        const int64_t pixel = ((token.frame + f) * x_.height + token.y + y) * x_.width + token.x + x;
                        s4d::erase_noise(p_.erase_seed[token.sample], pixel, colour);
                    } else {
                        for (int c = 0; c < 3; ++c) colour[c] = -p_.mean[c] / p_.std[c];
                    }
                    float* out = row + (f * x_.patch_size + y) * x_.patch_size + x;
                    for (int c = 0; c < 3; ++c) out[c * plane_] = colour[c];
                }
            }
        }
    }

    void paste(const Span& span, const float* from, float* to) const {
        if (span.empty()) return;
        for (int64_t line = 0; line < 3 * x_.frames_per_token * x_.patch_size; ++line) {
            const int64_t y = line % x_.patch_size;
            if (y < span.y0 || y >= span.y1) continue;
            const int64_t start = line * x_.patch_size;
            std::copy(from + start + span.x0, from + start + span.x1, to + start + span.x0);
        }
    }

    const S4dPatches& p_;
    const S4dPixels& x_;
    int64_t plane_;
    // Looked up, not computed: two divisions per value take longer than everything else here.
    float normalised_[3][256];
};

}  // namespace

int64_t s4d_visible_patches(const S4dPatches* patches, const int64_t* indices, int64_t count, float* rows,
                            int32_t threads) {
    const S4dPatches& p = *patches;
    if (const int64_t position = s4d::first_outside(p.pixels, indices, count)) return position;
    for (int64_t i = 0; p.partner != nullptr && i < p.pixels.samples; ++i) {
        if (p.partner[i] < 0 || p.partner[i] >= p.pixels.samples) return i + 1;
    }

    const RowWriter writer(p);
    const int64_t size = writer.row_size();
    s4d::prefer_huge_pages(rows, count * size);
#if defined(_OPENMP)
#pragma omp parallel num_threads(threads)
#endif
    {
        std::vector<float> scratch(p.partner == nullptr ? 0 : static_cast<std::size_t>(size));
#if defined(_OPENMP)
#pragma omp for schedule(static)
#endif
        for (int64_t i = 0; i < count; ++i) writer.write(indices[i], rows + i * size, scratch.data());
    }
    static_cast<void>(threads);
    return 0;
}
