// The whole interface of the library: plain C, so that one binary serves every version of Python and torch.
//
// Arrays are dense and row-major. A function returns 0, or the 1-based position of the first index out of range, in
// which case its outputs are undefined.
#pragma once

#include <cstdint>

#if defined(_WIN32)
#define S4D_EXPORT extern "C" __declspec(dllexport)
#else
#define S4D_EXPORT extern "C" __attribute__((visibility("default")))
#endif

// The compiler builds one copy per instruction set; the loader picks the one this processor runs.
#if defined(__x86_64__) && defined(__linux__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define S4D_PER_PROCESSOR __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define S4D_PER_PROCESSOR
#endif

// Raised whenever a signature or a struct below changes.
S4D_EXPORT int32_t s4d_abi_version();

// Routing plan of the chosen experts `ids` (tokens, top_k). `capacity` < 0 means no limit. Writes `offsets`
// (num_experts + 1), `order` and `slots` (tokens * top_k) and `kept` (tokens * top_k, 0 or 1).
S4D_EXPORT int64_t s4d_routing_plan(const int64_t* ids, int64_t tokens, int64_t top_k, int64_t num_experts,
                                    int64_t capacity, int32_t* offsets, int64_t* order, int64_t* slots, uint8_t* kept);

// Pixels and tokens of one group, and what happens to the pixels before they are embedded.
struct S4dPatches {
    const uint8_t* pixels;  // (samples, frames, height, width, 3)
    int64_t samples, frames, height, width, patch_size, frames_per_token;
    const float* mean;          // (3)
    const float* std;           // (3)
    const int32_t* erase_box;   // (samples, 4) as [y0, x0, y1, x1), or null
    const int64_t* erase_seed;  // (samples), or null where erased pixels are black
    const int64_t* partner;     // (samples), or null where nothing is mixed
    const float* share;         // (samples): what a sample keeps of its own, where it has no mix box
    const int32_t* mix_box;     // (samples, 4), or null
};

// Normalised, erased and mixed values of the tokens `indices` (count) into `rows` (count, frames_per_token * p * p *
// 3).
S4D_EXPORT int64_t s4d_visible_patches(const S4dPatches* patches, const int64_t* indices, int64_t count, float* rows,
                                       int32_t threads);
