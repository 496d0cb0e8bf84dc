// The CUDA routing plan on a processor: every thread of a block is a fiber that runs until it must wait for others.
//
// Within a step fibers run in a given order; no result may depend on it.
#include <ucontext.h>

#include <algorithm>
#include <cstddef>
#include <functional>
#include <memory>
#include <vector>

#include "routing_plan_tiles.h"

namespace {

constexpr std::size_t kStackBytes = 64 << 10;

enum class Waiting { no, warp, block, finished };

class Fibers {
  public:
    Fibers(int32_t tile, bool backwards, const std::function<void(Fibers&)>& body)
        : tile_(tile), body_(body), fibers_(s4d::kPlanThreads) {
        for (int32_t i = 0; i < s4d::kPlanThreads; ++i) {
            order_.push_back(backwards ? s4d::kPlanThreads - 1 - i : i);
            Fiber& fiber = fibers_[static_cast<std::size_t>(i)];
            fiber.stack.reset(new char[kStackBytes]);
            getcontext(&fiber.context);
            fiber.context.uc_stack.ss_sp = fiber.stack.get();
            fiber.context.uc_stack.ss_size = kStackBytes;
            fiber.context.uc_link = &scheduler_;
            makecontext(&fiber.context, reinterpret_cast<void (*)()>(&Fibers::enter), 0);
        }
    }

    // False if some wait for others that never come.
    bool run() {
        current_ = this;
        while (true) {
            bool ran = false;
            for (const int32_t thread : order_) {
                Fiber& fiber = fibers_[static_cast<std::size_t>(thread)];
                if (fiber.waiting != Waiting::no) continue;
                thread_ = thread;
                swapcontext(&scheduler_, &fiber.context);
                ran = true;
            }
            const bool released = release();
            if (all(0, s4d::kPlanThreads, Waiting::finished)) return true;
            if (!ran && !released) return false;
        }
    }

    int32_t tile() const { return tile_; }
    int32_t thread() const { return thread_; }

    void wait(Waiting what) {
        Fiber& fiber = fibers_[static_cast<std::size_t>(thread_)];
        fiber.waiting = what;
        swapcontext(&fiber.context, &scheduler_);
    }

    // Numbers held by the lanes of this thread's warp.
    std::vector<int32_t> held(int32_t number) {
        fibers_[static_cast<std::size_t>(thread_)].number = number;
        wait(Waiting::warp);
        std::vector<int32_t> numbers;
        const int32_t first = thread_ / s4d::kWarp * s4d::kWarp;
        for (int32_t i = 0; i < s4d::kWarp; ++i) {
            numbers.push_back(fibers_[static_cast<std::size_t>(first + i)].number);
        }
        wait(Waiting::warp);
        return numbers;
    }

  private:
    struct Fiber {
        ucontext_t context;
        std::unique_ptr<char[]> stack;
        Waiting waiting = Waiting::no;
        int32_t number = 0;
    };

    static void enter() {
        Fibers& fibers = *current_;
        fibers.body_(fibers);
        fibers.fibers_[static_cast<std::size_t>(fibers.thread_)].waiting = Waiting::finished;
    }

    bool all(int32_t first, int32_t count, Waiting what) const {
        return std::all_of(fibers_.begin() + first, fibers_.begin() + first + count,
                           [what](const Fiber& fiber) { return fiber.waiting == what; });
    }

    void free(int32_t first, int32_t count) {
        for (int32_t i = first; i < first + count; ++i) fibers_[static_cast<std::size_t>(i)].waiting = Waiting::no;
    }

    bool release() {
        bool released = false;
        for (int32_t first = 0; first < s4d::kPlanThreads; first += s4d::kWarp) {
            if (!all(first, s4d::kWarp, Waiting::warp)) continue;
            free(first, s4d::kWarp);
            released = true;
        }
        if (!released && all(0, s4d::kPlanThreads, Waiting::block)) {
            free(0, s4d::kPlanThreads);
            released = true;
        }
        return released;
    }

    static Fibers* current_;
    int32_t tile_, thread_ = 0;
    std::function<void(Fibers&)> body_;
    std::vector<Fiber> fibers_;
    std::vector<int32_t> order_;
    ucontext_t scheduler_;
};

Fibers* Fibers::current_ = nullptr;

// What the device's block offers, by fibers.
struct EmulatedBlock {
    Fibers& fibers;

    int32_t tile() const { return fibers.tile(); }
    int32_t thread() const { return fibers.thread(); }
    void sync() const { fibers.wait(Waiting::block); }
    void sync_warp() const { fibers.wait(Waiting::warp); }
    int32_t ones(uint32_t mask) const { return __builtin_popcount(mask); }

    uint32_t same(int32_t number) const {
        const std::vector<int32_t> numbers = fibers.held(number);
        uint32_t mask = 0;
        for (std::size_t lane = 0; lane < numbers.size(); ++lane) {
            mask |= static_cast<uint32_t>(numbers[lane] == number) << lane;
        }
        return mask;
    }

    int32_t from_below(int32_t number, int32_t step) const {
        const int32_t lane = thread() % s4d::kWarp;
        const std::vector<int32_t> numbers = fibers.held(number);
        return lane >= step ? numbers[static_cast<std::size_t>(lane - step)] : number;
    }

    int32_t from_lane(int32_t number, int32_t lane) const {
        return fibers.held(number)[static_cast<std::size_t>(lane)];
    }
};

}  // namespace

// As s4d_routing_plan_cuda. Returns the number of threads that waited for ever, at most one.
extern "C" int64_t emulated_routing_plan(const int64_t* ids, int64_t tokens, int64_t top_k, int64_t num_experts,
                                         int64_t capacity, int32_t* offsets, int64_t* order, int64_t* slots,
                                         uint8_t* kept, int64_t backwards) {
    const s4d::PlanSizes sizes = s4d::plan_sizes(tokens * top_k, num_experts, capacity);
    std::vector<int32_t> tile_counts(static_cast<std::size_t>(sizes.tiles) * (sizes.experts + 1), -1);
    const std::size_t words = static_cast<std::size_t>(s4d::plan_shared_bytes(sizes)) / sizeof(int32_t);
    bool ended = true;
    for (int32_t step = 0; step < 2; ++step) {
        for (int32_t i = 0; i < sizes.tiles && ended; ++i) {
            const int32_t tile = backwards ? sizes.tiles - 1 - i : i;
            // Never zero at first, as on a device.
            std::vector<int32_t> shared(words, -1);
            const auto body = [&](Fibers& fibers) {
                if (step == 0) {
                    s4d::count_step(EmulatedBlock{fibers}, ids, sizes, tile_counts.data(), shared.data());
                } else {
                    s4d::place_step(EmulatedBlock{fibers}, ids, sizes, tile_counts.data(),
                                    s4d::PlanArrays{offsets, order, slots, kept}, shared.data());
                }
            };
            ended = Fibers(tile, backwards != 0, body).run();
        }
    }
    return ended ? 0 : 1;
}
