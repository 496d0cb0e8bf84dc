// The native library's functions on arrays of exactly their size, against the formulas in double precision: built with
// sanitizers, a step outside an array or an undefined operation ends the program.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "bfloat16.h"
#include "s4d_native.h"

namespace {

std::mt19937 generator(0);

double uniform(double low, double high) { return std::uniform_real_distribution<double>(low, high)(generator); }

int64_t whole(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(generator); }

// Of exactly `size`, on the heap, where the sanitizer guards both ends.
template <class T>
struct Array {
    explicit Array(int64_t size) : count(size), data(new T[static_cast<std::size_t>(size)]()) {}
    T* get() const { return data.get(); }
    T& operator[](int64_t i) const { return data[static_cast<std::size_t>(i)]; }
    int64_t count;
    std::unique_ptr<T[]> data;
};

void expect(bool holds, const char* what) {
    if (holds) return;
    std::fprintf(stderr, "wrong: %s\n", what);
    std::exit(1);
}

void expect_close(double found, double wanted, double tolerance, const char* what) {
    if (std::abs(found - wanted) <= tolerance) return;
    std::fprintf(stderr, "wrong: %s: expected %.9g, got %.9g\n", what, wanted, found);
    std::exit(1);
}

void routing_plan(int64_t tokens, int64_t top_k, int64_t experts, int64_t capacity) {
    const int64_t count = tokens * top_k;
    const Array<int64_t> ids(count), order(count), slots(count);
    const Array<int32_t> offsets(experts + 1);
    const Array<uint8_t> kept(count);
    for (int64_t i = 0; i < count; ++i) ids[i] = whole(0, experts - 1);
    const auto plan = [&] {
        return s4d_routing_plan(ids.get(), tokens, top_k, experts, capacity, offsets.get(), order.get(), slots.get(),
                                kept.get());
    };
    expect(plan() == 0, "routing plan of good ids");
    for (int64_t i = 0; i < count; ++i) expect(order[slots[i]] == i, "slots as the inverse of the order");
    for (int64_t e = 0; e < experts; ++e) {
        expect(capacity < 0 || offsets[e + 1] - offsets[e] <= capacity, "capacity");
        for (int64_t slot = offsets[e]; slot < offsets[e + 1]; ++slot) {
            expect(ids[order[slot]] == e && kept[order[slot]] == 1, "slots of an expert");
            expect(slot == offsets[e] || order[slot - 1] < order[slot], "token order");
        }
    }
    if (count == 0) return;
    for (const int64_t wrong : {int64_t{-1}, experts, INT64_MIN, INT64_MAX}) {
        ids[count - 1] = wrong;
        expect(plan() == count, "place of an id out of range");
    }
}

struct Group {
    Group(int64_t samples, int64_t frames, int64_t rows, int64_t columns, int64_t patch, int64_t per_token)
        : values(samples * frames * rows * columns * patch * patch * 3),
          pixels{values.get(), samples, frames, rows * patch, columns * patch, patch, per_token},
          tokens(samples * (frames / per_token) * rows * columns),
          row(per_token * patch * patch * 3) {
        for (int64_t i = 0; i < values.count; ++i) values[i] = static_cast<uint8_t>(whole(0, 255));
    }

    // Pixel value `at` (frame, y, x, channel) of a token.
    double value(int64_t index, int64_t at) const {
        const S4dPixels& p = pixels;
        const int64_t columns = p.width / p.patch_size, rows = p.height / p.patch_size;
        const int64_t channel = at % 3, x = at / 3 % p.patch_size, y = at / 3 / p.patch_size % p.patch_size;
        const int64_t frame = at / 3 / p.patch_size / p.patch_size;
        const int64_t slice = index / (rows * columns);
        const int64_t line =
            (slice * p.frames_per_token + frame) * p.height + index / columns % rows * p.patch_size + y;
        return values[(line * p.width + index % columns * p.patch_size + x) * 3 + channel];
    }

    Array<uint8_t> values;
    S4dPixels pixels;
    int64_t tokens, row;
};

Array<int64_t> every_token(const Group& group, int64_t count) {
    Array<int64_t> indices(count);
    for (int64_t i = 0; i < count; ++i) indices[i] = group.tokens - 1 - i % group.tokens;
    return indices;
}

void visible_patches(const Group& group, int64_t count) {
    const int64_t samples = group.pixels.samples;
    const Array<float> mean(3), std(3), share(samples), rows(count * group.row);
    const Array<int32_t> erase_box(4 * samples), mix_box(4 * samples);
    const Array<int64_t> seed(samples), partner(samples);
    const Array<int64_t> indices = every_token(group, count);
    for (int64_t c = 0; c < 3; ++c) {
        mean[c] = 0.5f;
        std[c] = 0.25f;
    }
    for (int64_t s = 0; s < samples; ++s) {
        share[s] = static_cast<float>(uniform(0, 1));
        seed[s] = whole(INT64_MIN, INT64_MAX);
        partner[s] = samples - 1 - s;
        for (const auto* box : {&erase_box, &mix_box}) {
            // Some reach outside, some are empty.
            (*box)[4 * s] = static_cast<int32_t>(whole(-5, group.pixels.height));
            (*box)[4 * s + 1] = static_cast<int32_t>(whole(-5, group.pixels.width));
            (*box)[4 * s + 2] = static_cast<int32_t>(whole(-5, group.pixels.height + 5));
            (*box)[4 * s + 3] = static_cast<int32_t>(whole(-5, group.pixels.width + 5));
        }
    }
    S4dPatches patches{group.pixels, mean.get(), std.get(), nullptr, nullptr, nullptr, nullptr, nullptr};
    const auto write = [&] { return s4d_visible_patches(&patches, indices.get(), count, rows.get(), 2); };
    expect(write() == 0, "plain patches");
    for (int64_t i = 0; i < count * group.row; ++i) {
        const int64_t plane = group.row / 3, at = i % group.row;
        const double pixel = group.value(indices[i / group.row], at % plane * 3 + at / plane);
        expect_close(static_cast<double>(rows[i]), (pixel / 255 - 0.5) / 0.25, 1e-6, "a normalised pixel");
    }
    for (int64_t options = 1; options < 16; ++options) {
        patches.erase_box = (options & 1) != 0 ? erase_box.get() : nullptr;
        patches.erase_seed = (options & 2) != 0 ? seed.get() : nullptr;
        patches.partner = (options & 4) != 0 ? partner.get() : nullptr;
        patches.share = share.get();
        patches.mix_box = (options & 8) != 0 ? mix_box.get() : nullptr;
        expect(write() == 0, "changed patches");
        for (int64_t i = 0; i < rows.count; ++i) expect(std::isfinite(rows[i]), "a finite pixel");
    }
    if (count == 0) return;
    for (const int64_t wrong : {int64_t{-1}, group.tokens, INT64_MIN, INT64_MAX}) {
        indices[count - 1] = wrong;
        expect(write() == count, "place of an index out of range");
    }
    indices[count - 1] = 0;
    patches.partner = partner.get();
    for (const int64_t wrong : {int64_t{-1}, samples}) {
        partner[samples - 1] = wrong;
        expect(write() == samples, "place of a partner out of range");
    }
}

float number(float stored) { return stored; }
double number(double stored) { return stored; }
float number(uint16_t stored) { return s4d::from_bfloat16(stored); }
void store(double value, float& out) { out = static_cast<float>(value); }
void store(double value, double& out) { out = value; }
void store(double value, uint16_t& out) { out = s4d::to_bfloat16(static_cast<float>(value)); }

// Target of one token in double precision.
std::vector<double> target(const Group& group, int64_t index, int64_t repeats) {
    std::vector<double> values(static_cast<std::size_t>(repeats * group.row));
    const auto positions = static_cast<double>(values.size()) / 3;
    for (std::size_t i = 0; i < values.size(); ++i) {
        values[i] = group.value(index, static_cast<int64_t>(i) % group.row) / 255;
    }
    for (std::size_t c = 0; c < 3; ++c) {
        double mean = 0, square = 0;
        for (std::size_t i = c; i < values.size(); i += 3) mean += values[i] / positions;
        for (std::size_t i = c; i < values.size(); i += 3) square += (values[i] - mean) * (values[i] - mean);
        for (std::size_t i = c; i < values.size(); i += 3) {
            values[i] = (values[i] - mean) / std::sqrt(square / (positions - 1) + 1e-6);
        }
    }
    return values;
}

template <class Stored>
void residual(const Group& group, int64_t count, int64_t repeats, S4dType type, double tolerance) {
    const int64_t values = repeats * group.row;
    const Array<int64_t> indices = every_token(group, count);
    const Array<Stored> prediction(count * values);
    const Array<double> columns(values), wanted(values);
    double squares = -1, wanted_squares = 0;
    std::vector<double> residuals;
    for (int64_t i = 0; i < count; ++i) {
        const std::vector<double> aim = target(group, indices[i], repeats);
        for (int64_t j = 0; j < values; ++j) {
            Stored& place = prediction[i * values + j];
            store(uniform(-2, 2), place);
            const double difference = static_cast<double>(number(place)) - aim[static_cast<std::size_t>(j)];
            residuals.push_back(difference);
            wanted[j] += difference;
            wanted_squares += difference * difference;
        }
    }
    const auto subtract = [&](int32_t threads) {
        return s4d_reconstruction_residual(&group.pixels, indices.get(), count, repeats, prediction.get(), type,
                                           &squares, columns.get(), threads);
    };
    expect(subtract(2) == 0, "residuals");
    expect_close(squares, wanted_squares, 1e-5 * (1 + wanted_squares), "sum of squares");
    for (int64_t j = 0; j < values; ++j) expect_close(columns[j], wanted[j], 1e-4, "sum of a column");
    for (std::size_t i = 0; i < residuals.size(); ++i) {
        const auto found = static_cast<double>(number(prediction[static_cast<int64_t>(i)]));
        expect_close(found, residuals[i], tolerance * (1 + std::abs(residuals[i])), "a residual");
    }
    if (count == 0) return;
    for (const int64_t wrong : {int64_t{-1}, group.tokens, INT64_MIN, INT64_MAX}) {
        indices[0] = wrong;
        expect(subtract(1) == 1, "place of an index out of range");
    }
}

struct Sequences {
    Sequences(std::vector<int32_t> borders, int64_t heads, int64_t dim)
        : starts(static_cast<int64_t>(borders.size())),
          qkv(borders.back() * 3 * heads * dim),
          grad(borders.back() * heads * dim),
          record{qkv.get(), starts.get(), starts.count - 1, borders.back(), heads, dim, 0.2f} {
        for (std::size_t i = 0; i < borders.size(); ++i) starts[static_cast<int64_t>(i)] = borders[i];
        for (const auto* array : {&qkv, &grad}) {
            for (int64_t i = 0; i < array->count; ++i) store(uniform(-1, 1), (*array)[i]);
        }
    }

    // Number d of q, k or v (`which`) of a token's head.
    double at(int64_t token, int64_t which, int64_t head, int64_t d) const {
        const int64_t place = ((token * 3 + which) * record.heads + head) * record.head_dim + d;
        return static_cast<double>(number(qkv[place]));
    }

    double dot(int64_t i, int64_t which, int64_t j, int64_t other, int64_t head) const {
        double sum = 0;
        for (int64_t d = 0; d < record.head_dim; ++d) sum += at(i, which, head, d) * at(j, other, head, d);
        return sum;
    }

    double upstream(int64_t token, int64_t head, int64_t d) const {
        return static_cast<double>(number(grad[(token * record.heads + head) * record.head_dim + d]));
    }

    Array<int32_t> starts;
    Array<uint16_t> qkv, grad;
    S4dSequences record;
};

// Output and gradients of one query of one head in double precision, the gradients added to `dqkv`.
void attend(const Sequences& s, int64_t first, int64_t last, int64_t i, int64_t head, double* out, double* dqkv) {
    const int64_t dim = s.record.head_dim, heads = s.record.heads;
    std::vector<double> probs, grads;
    double sum = 0, mean = 0;
    for (int64_t j = first; j < last; ++j) {
        probs.push_back(std::exp(s.dot(i, 0, j, 1, head) * static_cast<double>(s.record.scale)));
        sum += probs.back();
        double grad = 0;
        for (int64_t d = 0; d < dim; ++d) grad += s.upstream(i, head, d) * s.at(j, 2, head, d);
        grads.push_back(grad);
    }
    for (std::size_t j = 0; j < probs.size(); ++j) mean += (probs[j] /= sum) * grads[j];
    for (int64_t j = first; j < last; ++j) {
        const auto n = static_cast<std::size_t>(j - first);
        const double score = probs[n] * (grads[n] - mean) * static_cast<double>(s.record.scale);
        for (int64_t d = 0; d < dim; ++d) {
            const auto place = [&](int64_t token, int64_t which) {
                return ((token * 3 + which) * heads + head) * dim + d;
            };
            out[(i * heads + head) * dim + d] += probs[n] * s.at(j, 2, head, d);
            dqkv[place(i, 0)] += score * s.at(j, 1, head, d);
            dqkv[place(j, 1)] += score * s.at(i, 0, head, d);
            dqkv[place(j, 2)] += probs[n] * s.upstream(i, head, d);
        }
    }
}

void attention(const std::vector<int32_t>& borders, int64_t heads, int64_t dim) {
    const Sequences s(borders, heads, dim);
    const Array<uint16_t> out(s.grad.count), grad_qkv(s.qkv.count);
    const Array<double> wanted(s.grad.count), wanted_grad(s.qkv.count);
    expect(s4d_attention(&s.record, out.get(), 2) == 0, "attention");
    expect(s4d_attention_backward(&s.record, s.grad.get(), grad_qkv.get(), 2) == 0, "its gradient");
    for (int64_t n = 0; n < s.record.sequences; ++n) {
        for (int64_t i = s.starts[n]; i < s.starts[n + 1]; ++i) {
            for (int64_t head = 0; head < heads; ++head) {
                attend(s, s.starts[n], s.starts[n + 1], i, head, wanted.get(), wanted_grad.get());
            }
        }
    }
    for (int64_t i = 0; i < out.count; ++i) {
        expect_close(static_cast<double>(number(out[i])), wanted[i], 0.02, "an output of attention");
    }
    for (int64_t i = 0; i < grad_qkv.count; ++i) {
        expect_close(static_cast<double>(number(grad_qkv[i])), wanted_grad[i], 0.04, "a gradient of attention");
    }
    if (borders.size() < 3) return;
    for (const int32_t wrong : {-1, borders.back() + 1, INT32_MIN, INT32_MAX}) {
        s.starts[1] = wrong;
        expect(s4d_attention(&s.record, out.get(), 1) != 0, "borders that fall or pass the end");
        expect(s4d_attention_backward(&s.record, s.grad.get(), grad_qkv.get(), 1) != 0, "the same for the gradient");
    }
}

}  // namespace

// The definition in double precision: the weighted means of one axis, rounded to whole levels.
std::vector<double> resampled(const std::vector<double>& line, double from, double to, int64_t size, bool cubic) {
    const double scale = (to - from) / static_cast<double>(size), wide = scale > 1 ? scale : 1;
    std::vector<double> out;
    for (int64_t i = 0; i < size; ++i) {
        const double middle = from + (static_cast<double>(i) + 0.5) * scale;
        double sum = 0, total = 0;
        for (std::size_t k = 0; k < line.size(); ++k) {
            const double x = std::abs(static_cast<double>(k) + 0.5 - middle) / wide;
            double weight = x < 1 ? 1 - x : 0;
            if (cubic) {
                weight = x < 1 ? (1.5 * x - 2.5) * x * x + 1 : x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0;
            }
            sum += weight * line[k];
            total += weight;
        }
        const double level = std::floor(sum / total + 0.5);
        out.push_back(level < 0 ? 0 : level > 255 ? 255 : level);
    }
    return out;
}

void crop_resize(int64_t width, int64_t height, int64_t size, int64_t step, bool whole_pixels) {
    constexpr int64_t count = 3;
    // Lines end with padding, but the last one ends with the memory, at the last level of its last pixel.
    const int64_t pitch = step * width + 5;
    const Array<uint8_t> memory(count * ((height - 1) * pitch + step * (width - 1) + 3));
    const Array<uint8_t> pixels(count * size * size * 3);
    for (int64_t i = 0; i < memory.count; ++i) memory[i] = static_cast<uint8_t>(whole(0, 255));
    const uint8_t* frames[count];
    uint8_t* outputs[count];
    for (int64_t i = 0; i < count; ++i) {
        frames[i] = memory.get() + i * (memory.count / count);
        outputs[i] = pixels.get() + i * size * size * 3;
    }
    const auto share = [&](double low, double high) { return static_cast<float>(uniform(low, high)); };
    const auto w = static_cast<float>(width), h = static_cast<float>(height);
    float box[4] = {share(0, 0.4) * w, share(0, 0.4) * h, share(0.6, 1) * w, share(0.6, 1) * h};
    if (whole_pixels && size <= width) {
        box[0] = static_cast<float>(whole(0, width - size));
        box[2] = box[0] + static_cast<float>(size);
    }
    if (whole_pixels && size <= height && whole(0, 1) == 1) {
        box[1] = static_cast<float>(whole(0, height - size));
        box[3] = box[1] + static_cast<float>(size);
    }
    const S4dFrames record{frames, count, height, width, pitch, step};
    const bool height_first = height > size && height - size > 2 * (width - size);
    for (const S4dFilter filter : {S4D_BILINEAR, S4D_BICUBIC}) {
        for (const int32_t flip : {0, 1}) {
            const int64_t channel = whole(0, 2), frame = whole(0, count - 1);
            expect(s4d_crop_resize(&record, box, filter, flip, outputs, size, 2) == 0, "a crop within the frame");
            std::vector<std::vector<double>> lines;
            for (int64_t y = 0; y < height; ++y) {
                lines.emplace_back();
                for (int64_t x = 0; x < width; ++x) {
                    lines.back().push_back(frames[frame][y * pitch + step * x + channel]);
                }
            }
            const auto transposed = [](const std::vector<std::vector<double>>& all) {
                std::vector<std::vector<double>> turned(all.front().size());
                for (const auto& line : all) {
                    for (std::size_t x = 0; x < line.size(); ++x) turned[x].push_back(line[x]);
                }
                return turned;
            };
            const auto pass = [&](double from, double to) {
                for (auto& line : lines) line = resampled(line, from, to, size, filter == S4D_BICUBIC);
            };
            if (!height_first) pass(box[0], box[2]);
            lines = transposed(lines);
            pass(box[1], box[3]);
            lines = transposed(lines);
            if (height_first) pass(box[0], box[2]);
            for (int64_t y = 0; y < size; ++y) {
                for (int64_t x = 0; x < size; ++x) {
                    const int64_t from = flip != 0 ? size - 1 - x : x;
                    const double wanted = lines[static_cast<std::size_t>(y)][static_cast<std::size_t>(from)];
                    // A tie may fall the other way, once an axis.
                    expect_close(outputs[frame][3 * (y * size + x) + channel], wanted, 2, "a resampled pixel");
                }
            }
        }
    }
    float outside[4] = {0, 0, w, std::nextafter(h, 2 * h)};
    expect(s4d_crop_resize(&record, outside, S4D_BILINEAR, 0, outputs, size, 1) == 1, "a box that reaches outside");
    outside[3] = std::nanf("");
    expect(s4d_crop_resize(&record, outside, S4D_BILINEAR, 0, outputs, size, 1) == 1, "a box that is no number");
}

int main() {
    for (const int64_t size : {1, 5, 16, 23}) {
        for (const int64_t width : {1, 3, 40, 120}) {
            for (const int64_t height : {1, 21, 150}) {
                for (const int64_t step : {3, 4}) {
                    for (const bool whole_pixels : {false, true}) crop_resize(width, height, size, step, whole_pixels);
                }
            }
        }
    }
    for (const int64_t capacity : {-1, 0, 3}) {
        for (const int64_t tokens : {0, 1, 7, 50}) routing_plan(tokens, 2, 5, capacity);
    }
    for (const int64_t patch : {1, 3, 8, 17}) {
        for (const int64_t frames : {1, 4}) {
            const Group group(3, frames, 2, 3, patch, frames == 1 ? 1 : 2);
            for (const int64_t count : {int64_t{0}, int64_t{1}, group.tokens}) visible_patches(group, count);
            for (const int64_t count : {0, 1, 33}) {
                const int64_t repeats = frames == 1 ? 2 : 1;
                residual<float>(group, count, repeats, S4D_FLOAT32, 1e-5);
                residual<double>(group, count, repeats, S4D_FLOAT64, 1e-9);
                residual<uint16_t>(group, count, repeats, S4D_BFLOAT16, 5e-3);
            }
        }
    }
    const char* refusal = s4d_attention_refuses(64);
    for (const int64_t dim : {0, -16, 8, 65, 272}) expect(s4d_attention_refuses(dim) != nullptr, "head_dim");
    if (refusal == nullptr) {
        for (const int64_t dim : {16, 48, 64, 80, 128}) attention({0, 0, 1, 11, 24, 24, 40, 57, 90}, 2, dim);
        for (const int32_t length : {47, 48, 49, 96, 97, 130}) attention({0, length}, 1, 32);
        attention({0, 0, 0}, 2, 32);
        attention({0}, 2, 32);
        attention({0, 3}, 0, 32);
    }
    std::printf("all good; attention: %s\n", refusal == nullptr ? "run" : refusal);
    return 0;
}
