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

// The compiler builds one copy per instruction set; the loader picks the one this processor runs. A sanitized library
// does without: the loader would pick before the sanitizer is ready.
#if defined(__SANITIZE_ADDRESS__)
#define S4D_PER_PROCESSOR
#elif defined(__x86_64__) && defined(__linux__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define S4D_PER_PROCESSOR __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#define S4D_HAS_COPIES 1
#else
#define S4D_PER_PROCESSOR
#endif

// Raised whenever a signature or a struct below changes.
S4D_EXPORT int32_t s4d_abi_version();

// Which of the copies the loader has picked for this processor.
S4D_EXPORT const char* s4d_instruction_set();

// Routing plan of the chosen experts `ids` (tokens, top_k). `capacity` < 0 means no limit. Writes `offsets`
// (num_experts + 1), `order` and `slots` (tokens * top_k) and `kept` (tokens * top_k, 0 or 1).
S4D_EXPORT int64_t s4d_routing_plan(const int64_t* ids, int64_t tokens, int64_t top_k, int64_t num_experts,
                                    int64_t capacity, int32_t* offsets, int64_t* order, int64_t* slots, uint8_t* kept);

// Frames of one group and their division into tokens, numbered sample-major, then slice of frames, row, column.
struct S4dPixels {
    const uint8_t* values;  // (samples, frames, height, width, 3)
    int64_t samples, frames, height, width, patch_size, frames_per_token;
};

// What happens to the pixels of a group before they are embedded.
struct S4dPatches {
    S4dPixels pixels;
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

// Pixels of frames of one size, each (height, width, 3), where a line starts `pitch` bytes after the one above and a
// pixel `step` bytes after the one before: 3, or 4 with a byte in between that means nothing.
struct S4dFrames {
    const uint8_t* const* values;  // (count)
    int64_t count, height, width, pitch, step;
};

enum S4dFilter : int32_t { S4D_BILINEAR = 0, S4D_BICUBIC = 1 };

// Resamples the part `box` (left, top, right, bottom in pixels) of each frame to (size, size, 3) at `outputs` (count),
// left and right exchanged where `flip` is not 0; equal to the bit to Pillow's antialiased resize, which also keeps a
// box in single precision. Returns 1 where the box is not within the frame.
S4D_EXPORT int64_t s4d_crop_resize(const S4dFrames* frames, const float* box, S4dFilter filter, int32_t flip,
                                   uint8_t* const* outputs, int64_t size, int32_t threads);

// How numbers are stored.
enum S4dType : int32_t { S4D_FLOAT32 = 0, S4D_FLOAT64 = 1, S4D_BFLOAT16 = 2 };

// Turns predictions (count, values) of the tokens `indices` into residuals in place: less the pixels, normalised per
// token and channel. A token's frames count `repeats` times: values = repeats * frames_per_token * p * p * 3. Writes
// the sum of the squares and the sums of the columns (values), both before the residuals are rounded to `type`; neither
// depends on `threads`.
S4D_EXPORT int64_t s4d_reconstruction_residual(const S4dPixels* pixels, const int64_t* indices, int64_t count,
                                               int64_t repeats, void* prediction, S4dType type, double* squares,
                                               double* columns, int32_t threads);

// Sequences of packed tokens, qkv (tokens, 3, heads, head_dim) in bfloat16: sequence s holds the tokens starts[s] to
// starts[s + 1].
struct S4dSequences {
    const uint16_t* qkv;
    const int32_t* starts;  // (sequences + 1)
    int64_t sequences, tokens, heads, head_dim;
    float scale;
};

// Why this processor or the shape cannot be served, or null.
S4D_EXPORT const char* s4d_attention_refuses(int64_t head_dim);

// Softmax attention within each sequence, into `out` (tokens, heads, head_dim).
S4D_EXPORT int64_t s4d_attention(const S4dSequences* sequences, uint16_t* out, int32_t threads);

// Its gradient, from that of the output (tokens, heads, head_dim), into `grad_qkv`, laid out like qkv.
S4D_EXPORT int64_t s4d_attention_backward(const S4dSequences* sequences, const uint16_t* grad_out, uint16_t* grad_qkv,
                                          int32_t threads);

#if defined(S4D_WITH_CUDA)
// The routing plan on a CUDA device: every pointer is the device's. Ids out of range are not told of: they get no slot.
// `workspace` holds s4d_routing_plan_cuda_workspace(...) int32. Returns a cudaError_t; work is queued on `stream`.
S4D_EXPORT int64_t s4d_routing_plan_cuda_workspace(int64_t assignments, int64_t num_experts);
S4D_EXPORT int64_t s4d_routing_plan_cuda(const int64_t* ids, int64_t tokens, int64_t top_k, int64_t num_experts,
                                         int64_t capacity, int32_t* offsets, int64_t* order, int64_t* slots,
                                         uint8_t* kept, int32_t* workspace, void* stream);
#endif
