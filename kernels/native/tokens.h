// Where the tokens of a group lie.
#pragma once

#include <cstdint>

#include "s4d_native.h"

namespace s4d {

// A token by its coordinates; y and x are those of its first pixel, frame that of its first frame.
struct Token {
    int64_t sample, frame, y, x;
};

inline Token locate(const S4dPixels& p, int64_t index) {
    const int64_t columns = p.width / p.patch_size, rows = p.height / p.patch_size;
    const int64_t slices = p.frames / p.frames_per_token;
    return {index / (columns * rows * slices), index / (columns * rows) % slices * p.frames_per_token,
            index / columns % rows * p.patch_size, index % columns * p.patch_size};
}

// 1-based position of the first index that is no token of the group, or 0.
inline int64_t first_outside(const S4dPixels& p, const int64_t* indices, int64_t count) {
    const int64_t tokens =
        p.samples * (p.frames / p.frames_per_token) * (p.height / p.patch_size) * (p.width / p.patch_size);
    for (int64_t i = 0; i < count; ++i) {
        if (indices[i] < 0 || indices[i] >= tokens) return i + 1;
    }
    return 0;
}

}  // namespace s4d
