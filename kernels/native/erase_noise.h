// Unit normals of erased pixels: Philox4x32-10 and Box-Muller, the same numbers as the portable backend draws.
#pragma once

#include <cmath>
#include <cstdint>

#if defined(__GLIBC__) && defined(__x86_64__)
// The oldest version of log() computes the same; with it the library also loads where the C library is older than here.
__asm__(".symver log, log@GLIBC_2.2.5");
#endif

namespace s4d {

struct Words {
    uint32_t w[4];
};

inline Words philox(Words counter, uint32_t key0, uint32_t key1) {
    uint32_t* c = counter.w;
    for (int round = 0; round < 10; ++round) {
        const uint64_t product0 = uint64_t{0xD2511F53} * c[0];
        const uint64_t product1 = uint64_t{0xCD9E8D57} * c[2];
        const uint32_t c0 = static_cast<uint32_t>(product1 >> 32) ^ c[1] ^ key0;
        const uint32_t c2 = static_cast<uint32_t>(product0 >> 32) ^ c[3] ^ key1;
        c[0] = c0;
        c[1] = static_cast<uint32_t>(product1);
        c[2] = c2;
        c[3] = static_cast<uint32_t>(product0);
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
    return counter;
}

inline double uniform(uint32_t word) { return static_cast<double>(word >> 8) * 0x1p-24; }

inline double radius(uint32_t word) { return std::sqrt(-2.0 * std::log(uniform(word) + 0x1p-24)); }

// Red, green and blue of the pixel numbered `pixel` in the sample of `seed`.
inline void erase_noise(int64_t seed, int64_t pixel, float* rgb) {
    constexpr uint32_t stream = 0x45524153u;
    constexpr double two_pi = 6.283185307179586;
    const auto bits = static_cast<uint64_t>(seed);
    const Words words = philox(
        {{static_cast<uint32_t>(bits), static_cast<uint32_t>(bits >> 32), static_cast<uint32_t>(pixel), 0}}, 0, stream);
    const double angle = uniform(words.w[1]) * two_pi;
    rgb[0] = static_cast<float>(radius(words.w[0]) * std::cos(angle));
    rgb[1] = static_cast<float>(radius(words.w[0]) * std::sin(angle));
    rgb[2] = static_cast<float>(radius(words.w[2]) * std::cos(uniform(words.w[3]) * two_pi));
}

}  // namespace s4d
