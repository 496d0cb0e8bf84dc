// Fewer page faults for large results.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace s4d {

// Fresh memory is mapped page by page as it is first written: for tens of megabytes that takes as long as the
// arithmetic. Where the system allows it, asks for pages of 2 MiB over the whole ones within `count` values.
template <class T>
void prefer_huge_pages(T* values, int64_t count) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    constexpr std::uintptr_t page = std::uintptr_t{2} << 20;
    const auto first = (reinterpret_cast<std::uintptr_t>(values) + page - 1) / page * page;
    const auto last = reinterpret_cast<std::uintptr_t>(values + count) / page * page;
    // A wish: where it is refused, pages stay small.
    if (first < last) static_cast<void>(madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE));
#else
    static_cast<void>(values);
    static_cast<void>(count);
#endif
}

}  // namespace s4d
