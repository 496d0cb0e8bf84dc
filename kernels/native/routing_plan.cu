#include <cuda_runtime.h>

#include <climits>

#include "routing_plan_tiles.h"
#include "s4d_native.h"

namespace {

// The block of threads a kernel runs in.
struct DeviceBlock {
    S4D_DEVICE int32_t tile() const { return static_cast<int32_t>(blockIdx.x); }
    S4D_DEVICE int32_t thread() const { return static_cast<int32_t>(threadIdx.x); }
    S4D_DEVICE void sync() const { __syncthreads(); }
    S4D_DEVICE void sync_warp() const { __syncwarp(); }
    // Lanes of the warp that hold the same number.
    S4D_DEVICE uint32_t same(int32_t number) const { return __match_any_sync(0xFFFFFFFFu, number); }
    S4D_DEVICE int32_t ones(uint32_t mask) const { return __popc(mask); }
    S4D_DEVICE int32_t from_below(int32_t number, int32_t step) const {
        return __shfl_up_sync(0xFFFFFFFFu, number, static_cast<uint32_t>(step));
    }
    S4D_DEVICE int32_t from_lane(int32_t number, int32_t lane) const { return __shfl_sync(0xFFFFFFFFu, number, lane); }
};

__global__ void __launch_bounds__(s4d::kPlanThreads, 1)
    count_kernel(const int64_t* ids, s4d::PlanSizes sizes, int32_t* tile_counts) {
    extern __shared__ int32_t shared[];
    s4d::count_step(DeviceBlock{}, ids, sizes, tile_counts, shared);
}

__global__ void __launch_bounds__(s4d::kPlanThreads, 1)
    place_kernel(const int64_t* ids, s4d::PlanSizes sizes, const int32_t* tile_counts, s4d::PlanArrays out) {
    extern __shared__ int32_t shared[];
    s4d::place_step(DeviceBlock{}, ids, sizes, tile_counts, out, shared);
}

}  // namespace

int64_t s4d_routing_plan_cuda_workspace(int64_t assignments, int64_t num_experts) {
    return s4d::plan_sizes(assignments, num_experts, -1).tiles * (num_experts + 1);
}

int64_t s4d_routing_plan_cuda(const int64_t* ids, int64_t tokens, int64_t top_k, int64_t num_experts, int64_t capacity,
                              int32_t* offsets, int64_t* order, int64_t* slots, uint8_t* kept, int32_t* workspace,
                              void* stream) {
    if (num_experts < 0 || num_experts > s4d::kPlanExperts || tokens < 0 || top_k < 0 ||
        (top_k > 0 && tokens > INT32_MAX / top_k)) {
        return cudaErrorInvalidValue;
    }
    const s4d::PlanSizes sizes = s4d::plan_sizes(tokens * top_k, num_experts, capacity);
    const auto queue = static_cast<cudaStream_t>(stream);
    const auto blocks = static_cast<uint32_t>(sizes.tiles);
    const auto bytes = static_cast<std::size_t>(s4d::plan_shared_bytes(sizes));
    count_kernel<<<blocks, s4d::kPlanThreads, bytes, queue>>>(ids, sizes, workspace);
    place_kernel<<<blocks, s4d::kPlanThreads, bytes, queue>>>(ids, sizes, workspace, {offsets, order, slots, kept});
    // Without clearing it: an error of earlier work is not ours to take.
    return cudaPeekAtLastError();
}
