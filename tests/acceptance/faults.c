/* Makes chosen system calls of a program fail: loaded before libc by LD_PRELOAD, steered through a file in memory.
 *
 * The file that WATCHERD_FAULTS names holds one struct plan. While it is armed, calls of its kind on a path that holds
 * its text fail with its error number, as often as it says.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <unistd.h>

struct plan {
    atomic_int armed;
    int error;
    atomic_int left; /* how often still; negative: always */
    atomic_int hits;
    char kind[16]; /* open, write, sync, rename or remove */
    char path[480];
};

static struct plan *plan;

__attribute__((constructor)) static void begin(void) {
    const char *name = getenv("WATCHERD_FAULTS");
    int descriptor = name ? open(name, O_RDWR | O_CLOEXEC) : -1;
    if (descriptor < 0)
        return;
    void *memory = mmap(NULL, sizeof *plan, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    close(descriptor);
    if (memory != MAP_FAILED)
        plan = memory;
}

static void path_of(int descriptor, char *path, size_t size) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, size - 1);
    path[length < 0 ? 0 : length] = 0;
}

static void full_path(int folder, const char *name, char *path, size_t size) {
    path[0] = 0;
    if (!name || (name[0] != '/' && folder != AT_FDCWD))
        path_of(folder, path, 4096);
    if (name) {
        strcat(path, "/");
        strncat(path, name, size - strlen(path) - 1);
    }
}

static int fails(const char *kind, int folder, const char *name) {
    char path[8192];
    if (!plan || !plan->armed || strcmp(plan->kind, kind))
        return 0;
    full_path(folder, name, path, sizeof path);
    if (!strstr(path, plan->path))
        return 0;
    int left = plan->left;
    while (left >= 0) {
        if (left == 0)
            return 0;
        if (atomic_compare_exchange_weak(&plan->left, &left, left - 1))
            break;
    }
    plan->hits++;
    errno = plan->error;
    return 1;
}

/* A rename within the chosen place crosses no border between file systems. */
static int rename_fails(int here, const char *old, int there, const char *new) {
    char path[8192];
    if (plan && plan->armed && plan->error == EXDEV) {
        full_path(here, old, path, sizeof path);
        if (strstr(path, plan->path))
            return 0;
    }
    return fails("rename", there, new);
}

#define REAL(type, name, ...) ((type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name))
#define WRITES(flags) ((flags) & (O_WRONLY | O_RDWR | O_CREAT))

#define OPEN(function)                                                        \
    int function(const char *name, int flags, ...) {                          \
        va_list rest;                                                         \
        va_start(rest, flags);                                                \
        mode_t mode = va_arg(rest, mode_t);                                   \
        va_end(rest);                                                         \
        if (WRITES(flags) && fails("open", AT_FDCWD, name))                   \
            return -1;                                                        \
        return REAL(int, function, const char *, int, ...)(name, flags, mode); \
    }
#define OPENAT(function)                                                                \
    int function(int folder, const char *name, int flags, ...) {                        \
        va_list rest;                                                                   \
        va_start(rest, flags);                                                          \
        mode_t mode = va_arg(rest, mode_t);                                             \
        va_end(rest);                                                                   \
        if (WRITES(flags) && fails("open", folder, name))                               \
            return -1;                                                                  \
        return REAL(int, function, int, const char *, int, ...)(folder, name, flags, mode); \
    }
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

ssize_t write(int descriptor, const void *bytes, size_t count) {
    if (fails("write", descriptor, NULL))
        return -1;
    return REAL(ssize_t, write, int, const void *, size_t)(descriptor, bytes, count);
}

#define PWRITE(function)                                                                            \
    ssize_t function(int descriptor, const void *bytes, size_t count, off_t where) {                \
        if (fails("write", descriptor, NULL))                                                       \
            return -1;                                                                              \
        return REAL(ssize_t, function, int, const void *, size_t, off_t)(descriptor, bytes, count, where); \
    }
PWRITE(pwrite)
PWRITE(pwrite64)

ssize_t sendfile(int to, int from, off_t *where, size_t count) {
    if (fails("write", to, NULL))
        return -1;
    return REAL(ssize_t, sendfile, int, int, off_t *, size_t)(to, from, where, count);
}

#define SYNC(function)                                 \
    int function(int descriptor) {                     \
        if (fails("sync", descriptor, NULL))           \
            return -1;                                 \
        return REAL(int, function, int)(descriptor);   \
    }
SYNC(fsync)
SYNC(fdatasync)
SYNC(syncfs)

int rename(const char *old, const char *new) {
    if (rename_fails(AT_FDCWD, old, AT_FDCWD, new))
        return -1;
    return REAL(int, rename, const char *, const char *)(old, new);
}

int renameat(int here, const char *old, int there, const char *new) {
    if (rename_fails(here, old, there, new))
        return -1;
    return REAL(int, renameat, int, const char *, int, const char *)(here, old, there, new);
}

int renameat2(int here, const char *old, int there, const char *new, unsigned int flags) {
    if (rename_fails(here, old, there, new))
        return -1;
    return REAL(int, renameat2, int, const char *, int, const char *, unsigned int)(here, old, there, new, flags);
}

/* A disk that refuses a rename refuses the link that would stand in for it. */
int linkat(int here, const char *old, int there, const char *new, int flags) {
    if (rename_fails(here, old, there, new))
        return -1;
    return REAL(int, linkat, int, const char *, int, const char *, int)(here, old, there, new, flags);
}

int unlink(const char *name) {
    if (fails("remove", AT_FDCWD, name))
        return -1;
    return REAL(int, unlink, const char *)(name);
}

int unlinkat(int folder, const char *name, int flags) {
    if (fails("remove", folder, name))
        return -1;
    return REAL(int, unlinkat, int, const char *, int)(folder, name, flags);
}
