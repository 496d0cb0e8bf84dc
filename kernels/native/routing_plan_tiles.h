// The routing plan by tiles of assignments, each counted and then placed by one block of threads.
//
// A block counts its experts warp by warp; the place of an assignment is then what came before it: in other experts, in
// earlier tiles, in earlier warps of the tile, in its own warp. No sum depends on the order in which threads run. The
// functions are templates over the block that runs them, so that a processor can stand in for a device.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define S4D_DEVICE __device__ __forceinline__
#else
#define S4D_DEVICE inline
#endif

namespace s4d {

constexpr int32_t kWarp = 32;
constexpr int32_t kPlanThreads = 256;
constexpr int32_t kPlanWarps = kPlanThreads / kWarp;
// Every block adds up all tiles before its own, so their number stays small: tiles grow instead.
constexpr int32_t kPlanTiles = 128;
// Bound by the shared memory of a block without opting in to more: 12 numbers per bucket.
constexpr int32_t kPlanExperts = 1000;

// Sizes of one plan. Buckets are the experts and one more for ids out of range, which come last and are never kept.
struct PlanSizes {
    int32_t assignments, experts, capacity, rounds, tiles;

    S4D_DEVICE int32_t buckets() const { return experts + 1; }
};

inline PlanSizes plan_sizes(int64_t assignments, int64_t experts, int64_t capacity) {
    const int64_t rounds =
        (assignments + int64_t{kPlanThreads} * kPlanTiles - 1) / (int64_t{kPlanThreads} * kPlanTiles);
    const int64_t least = rounds < 4 ? 4 : rounds;
    const int64_t tiles = (assignments + kPlanThreads * least - 1) / (kPlanThreads * least);
    const int64_t limit = capacity < 0 || capacity > assignments ? assignments : capacity;
    // One tile at least: somebody has to write the offsets.
    return {static_cast<int32_t>(assignments), static_cast<int32_t>(experts), static_cast<int32_t>(limit),
            static_cast<int32_t>(least), static_cast<int32_t>(tiles > 0 ? tiles : 1)};
}

// Bytes of shared memory: counts of every warp, starts of every bucket, and its starts past the capacity and number.
inline int64_t plan_shared_bytes(const PlanSizes& s) {
    return static_cast<int64_t>(sizeof(int32_t)) * (kPlanWarps + 3) * (s.experts + 1);
}

// Bucket of an assignment; past the last one a bucket that nobody counts.
S4D_DEVICE int32_t bucket_of(const int64_t* ids, const PlanSizes& s, int64_t assignment) {
    if (assignment >= s.assignments) return s.buckets();
    const int64_t id = ids[assignment];
    return id >= 0 && id < s.experts ? static_cast<int32_t>(id) : s.experts;
}

template <class Block>
S4D_DEVICE int64_t first_of_warp(const Block& block, const PlanSizes& s) {
    return (static_cast<int64_t>(block.tile()) * kPlanWarps + block.thread() / kWarp) * kWarp * s.rounds;
}

// Counts the buckets of each warp into `counts` (warps, buckets), which all threads of the block may read afterwards.
template <class Block>
S4D_DEVICE void count_tile(const Block& block, const int64_t* ids, const PlanSizes& s, int32_t* counts) {
    const int32_t lane = block.thread() % kWarp;
    int32_t* own = counts + block.thread() / kWarp * s.buckets();
    for (int32_t b = block.thread(); b < kPlanWarps * s.buckets(); b += kPlanThreads) counts[b] = 0;
    block.sync();
    const int64_t first = first_of_warp(block, s);
    for (int32_t round = 0; round < s.rounds; ++round) {
        const int32_t bucket = bucket_of(ids, s, first + round * kWarp + lane);
        const uint32_t peers = block.same(bucket);
        // The first lane of a bucket counts for all its peers: nobody else writes there.
        const bool leads = (peers & ((1u << lane) - 1u)) == 0;
        if (leads && bucket < s.buckets()) own[bucket] += block.ones(peers);
        block.sync_warp();
    }
    block.sync();
}

// First step: how often each bucket comes in each tile, `tile_counts` (tiles, buckets).
template <class Block>
S4D_DEVICE void count_step(const Block& block, const int64_t* ids, const PlanSizes& s, int32_t* tile_counts,
                           int32_t* shared) {
    count_tile(block, ids, s, shared);
    for (int32_t b = block.thread(); b < s.buckets(); b += kPlanThreads) {
        int32_t sum = 0;
        for (int32_t warp = 0; warp < kPlanWarps; ++warp) sum += shared[warp * s.buckets() + b];
        tile_counts[block.tile() * s.buckets() + b] = sum;
    }
}

// Prefix sums over `count` numbers by the first warp, in place; returns the sum of all to that warp.
template <class Block>
S4D_DEVICE int32_t prefix_sums(const Block& block, int32_t* numbers, int32_t count, int32_t start) {
    const int32_t lane = block.thread();
    for (int32_t b = 0; b < count; b += kWarp) {
        const int32_t own = b + lane < count ? numbers[b + lane] : 0;
        int32_t sum = own;
        for (int32_t step = 1; step < kWarp; step *= 2) {
            const int32_t below = block.from_below(sum, step);
            if (lane >= step) sum += below;
        }
        if (b + lane < count) numbers[b + lane] = start + sum - own;
        start += block.from_lane(sum, kWarp - 1);
    }
    return start;
}

struct PlanArrays {
    int32_t* offsets;
    int64_t *order, *slots;
    uint8_t* kept;
};

// Second step: where each bucket starts, and from that the place of every assignment of the tile.
template <class Block>
S4D_DEVICE void place_step(const Block& block, const int64_t* ids, const PlanSizes& s, const int32_t* tile_counts,
                           const PlanArrays& out, int32_t* shared) {
    int32_t* ranks = shared;
    int32_t* kept_start = ranks + kPlanWarps * s.buckets();
    int32_t* rest_start = kept_start + s.buckets();
    int32_t* kept_number = rest_start + s.buckets();
    count_tile(block, ids, s, ranks);
    for (int32_t b = block.thread(); b < s.buckets(); b += kPlanThreads) {
        int32_t before = 0, total = 0;
        for (int32_t tile = 0; tile < s.tiles; ++tile) {
            const int32_t number = tile_counts[tile * s.buckets() + b];
            before += tile < block.tile() ? number : 0;
            total += number;
        }
        // From the count of each warp to the rank of its first assignment within the bucket.
        for (int32_t warp = 0; warp < kPlanWarps; ++warp) {
            const int32_t number = ranks[warp * s.buckets() + b];
            ranks[warp * s.buckets() + b] = before;
            before += number;
        }
        const int32_t limit = b < s.experts ? s.capacity : 0;
        kept_number[b] = kept_start[b] = total < limit ? total : limit;
        rest_start[b] = total - kept_number[b];
    }
    block.sync();
    if (block.thread() < kWarp) {
        const int32_t served = prefix_sums(block, kept_start, s.buckets(), 0);
        prefix_sums(block, rest_start, s.buckets(), served);
    }
    block.sync();
    if (block.tile() == 0) {
        for (int32_t b = block.thread(); b < s.buckets(); b += kPlanThreads) out.offsets[b] = kept_start[b];
    }

    const int32_t lane = block.thread() % kWarp;
    int32_t* own = ranks + block.thread() / kWarp * s.buckets();
    const int64_t first = first_of_warp(block, s);
    for (int32_t round = 0; round < s.rounds; ++round) {
        const int64_t assignment = first + round * kWarp + lane;
        const int32_t bucket = bucket_of(ids, s, assignment);
        const uint32_t peers = block.same(bucket);
        const uint32_t earlier = peers & ((1u << lane) - 1u);
        const bool counts = bucket < s.buckets();
        const int32_t rank = counts ? own[bucket] + block.ones(earlier) : 0;
        block.sync_warp();
        if (counts && earlier == 0) own[bucket] += block.ones(peers);
        block.sync_warp();
        if (!counts) continue;
        const bool keeps = rank < kept_number[bucket];
        const int32_t place = keeps ? kept_start[bucket] + rank : rest_start[bucket] + rank - kept_number[bucket];
        out.order[place] = assignment;
        out.slots[assignment] = place;
        out.kept[assignment] = keeps ? 1 : 0;
    }
}

}  // namespace s4d
