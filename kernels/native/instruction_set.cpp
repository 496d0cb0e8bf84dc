#include "s4d_native.h"

// Picked by the loader as the copies of the inner loops are: the same compiler orders the same names.
#if defined(S4D_HAS_COPIES)
namespace {

__attribute__((target("arch=x86-64-v4"))) const char* picked() { return "x86-64-v4"; }
__attribute__((target("arch=x86-64-v3"))) const char* picked() { return "x86-64-v3"; }
__attribute__((target("default"))) const char* picked() { return "x86-64"; }

}  // namespace

const char* s4d_instruction_set() { return picked(); }
#else
const char* s4d_instruction_set() { return "one for every processor"; }
#endif
