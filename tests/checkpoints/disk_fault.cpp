// Preloaded into a process: calls that change files below one path fail from a certain one on.
//
// S4D_DISK="<part of the path>|<first>|<count>|<errno>|<calls>" with calls out of c(reate) w(rite) f(lush) r(ename) m(ake a
// folder) d(elete); the calls so named are counted from 1, those from <first> on fail <count> times. A full disk takes
// half of the first write that fails. S4D_DISK_SEEN names a file of eight 64-bit numbers: calls counted, calls refused, and
// all calls below the path of each kind in the order above.
#include <cerrno>
#include <climits>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <fcntl.h>
#include <string>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace {

template <typename Function> Function real(const char *name) { return reinterpret_cast<Function>(dlsym(RTLD_NEXT, name)); }

struct Seen {
    long long calls, refused, kinds[6];
};

Seen *seen() {
    static Seen *place = nullptr;
    static pid_t owner = 0;
    const char *path = getenv("S4D_DISK_SEEN");
    if (path != nullptr && (place == nullptr || owner != getpid())) {
        owner = getpid();
        int file = real<int (*)(const char *, int, ...)>("open")(path, O_RDWR);
        void *memory = file < 0 ? MAP_FAILED : mmap(nullptr, sizeof(Seen), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        place = memory == MAP_FAILED ? nullptr : static_cast<Seen *>(memory);
        if (file >= 0) close(file);
    }
    return path == nullptr ? nullptr : place;
}

// 0, or the error that the call is to fail with.
int refused(char call, const std::string &path) {
    const char *text = getenv("S4D_DISK");
    if (text == nullptr) return 0;
    char part[PATH_MAX], calls[16];
    long long first = 0, count = 0;
    int error = 0;
    if (sscanf(text, "%4000[^|]|%lld|%lld|%d|%15s", part, &first, &count, &error, calls) != 5) return 0;
    if (path.find(part) == std::string::npos) return 0;
    Seen *numbers = seen();
    if (numbers == nullptr) return 0;
    const char *kinds = "cwfrmd";
    __atomic_add_fetch(&numbers->kinds[strchr(kinds, call) - kinds], 1, __ATOMIC_SEQ_CST);
    if (strchr(calls, call) == nullptr) return 0;
    long long number = __atomic_add_fetch(&numbers->calls, 1, __ATOMIC_SEQ_CST);
    if (number < first || number >= first + count) return 0;
    __atomic_add_fetch(&numbers->refused, 1, __ATOMIC_SEQ_CST);
    dprintf(2, "refused: %c %s\n", call, path.c_str());
    return error;
}

std::string path_of(int descriptor) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path);
    return length < 0 ? "" : std::string(path, length);
}

std::string path_at(int folder, const char *name) {
    return name[0] == '/' || folder == AT_FDCWD ? name : path_of(folder) + "/" + name;
}

bool fails(char call, const std::string &path) {
    int error = refused(call, path);
    if (error != 0) errno = error;
    return error != 0;
}

}  // namespace

#define OPEN(name)                                                                   \
    extern "C" int name(const char *path, int flags, ...) {                          \
        va_list more;                                                                \
        va_start(more, flags);                                                       \
        mode_t mode = va_arg(more, mode_t);                                          \
        va_end(more);                                                                \
        if ((flags & (O_CREAT | O_WRONLY | O_RDWR)) && fails('c', path)) return -1;  \
        return real<int (*)(const char *, int, ...)>(#name)(path, flags, mode);      \
    }
OPEN(open)
OPEN(open64)

extern "C" ssize_t write(int descriptor, const void *data, size_t size) {
    auto next = real<ssize_t (*)(int, const void *, size_t)>("write");
    if (getenv("S4D_DISK") == nullptr) return next(descriptor, data, size);
    int error = refused('w', path_of(descriptor));
    if (error == 0) return next(descriptor, data, size);
    if ((error == ENOSPC || error == EDQUOT) && size > 1 && seen()->refused == 1) {
        return next(descriptor, data, size / 2);
    }
    errno = error;
    return -1;
}

extern "C" int fsync(int descriptor) {
    if (fails('f', path_of(descriptor))) return -1;
    return real<int (*)(int)>("fsync")(descriptor);
}

extern "C" int rename(const char *from, const char *to) {
    if (fails('r', to)) return -1;
    return real<int (*)(const char *, const char *)>("rename")(from, to);
}

extern "C" int mkdir(const char *path, mode_t mode) {
    if (fails('m', path)) return -1;
    return real<int (*)(const char *, mode_t)>("mkdir")(path, mode);
}

extern "C" int unlink(const char *path) {
    if (fails('d', path)) return -1;
    return real<int (*)(const char *)>("unlink")(path);
}

extern "C" int unlinkat(int folder, const char *name, int flags) {
    if (fails('d', path_at(folder, name))) return -1;
    return real<int (*)(int, const char *, int)>("unlinkat")(folder, name, flags);
}

extern "C" int rmdir(const char *path) {
    if (fails('d', path)) return -1;
    return real<int (*)(const char *)>("rmdir")(path);
}
