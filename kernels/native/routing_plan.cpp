#include <cstddef>
#include <vector>

#include "s4d_native.h"

int32_t s4d_abi_version() { return 4; }

// A counting sort: assignments keep their order within an expert; those past the capacity follow all served ones.
int64_t s4d_routing_plan(const int64_t* ids, int64_t tokens, int64_t top_k, int64_t num_experts, int64_t capacity,
                         int32_t* offsets, int64_t* order, int64_t* slots, uint8_t* kept) {
    const int64_t assignments = tokens * top_k;
    std::vector<int64_t> count(static_cast<std::size_t>(num_experts), 0);
    for (int64_t i = 0; i < assignments; ++i) {
        if (ids[i] < 0 || ids[i] >= num_experts) return i + 1;
        ++count[static_cast<std::size_t>(ids[i])];
    }

    std::vector<int64_t> served_slot(count.size()), served_end(count.size()), dropped_slot(count.size());
    int64_t slot = 0;
    offsets[0] = 0;
    for (std::size_t e = 0; e < count.size(); ++e) {
        const int64_t served = capacity < 0 || count[e] < capacity ? count[e] : capacity;
        served_slot[e] = slot;
        slot += served;
        served_end[e] = slot;
        offsets[e + 1] = static_cast<int32_t>(slot);
    }
    for (std::size_t e = 0; e < count.size(); ++e) {
        dropped_slot[e] = slot;
        slot += count[e] - (served_end[e] - served_slot[e]);
    }

    for (int64_t i = 0; i < assignments; ++i) {
        const auto e = static_cast<std::size_t>(ids[i]);
        const bool keep = served_slot[e] < served_end[e];
        const int64_t place = keep ? served_slot[e]++ : dropped_slot[e]++;
        order[place] = i;
        slots[i] = place;
        kept[i] = keep ? 1 : 0;
    }
    return 0;
}
