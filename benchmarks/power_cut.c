/* Stops a program at a sync of its choice, and keeps a record of names and syncs: loaded before libc by LD_PRELOAD.
 *
 * The file that WATCHERD_POWER_CUT names holds one struct plan. Armed with 1, the next call that makes something durable
 * stops the process before it has done anything; with 2, after it has.
 *
 * To the file that WATCHERD_POWER_CUT_LOG names one struct entry is appended for each name that a call has given to a
 * file or a folder, and for each sync, of this process and of those that it forks. Names that were there before are left
 * out: nothing is new about them. An entry is written when its call is done.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { BEFORE = 1, AFTER = 2 };
enum { NAMED = 1, RENAMED = 2, SYNCED = 3, SYNCED_ALL = 4 };

struct plan {
    atomic_int armed;
};

struct entry {
    int64_t at;              /* nanoseconds of CLOCK_MONOTONIC */
    int64_t kind;
    uint64_t device, folder; /* the folder of the name; of a sync: what was synced */
    uint64_t inode;          /* what has the name */
    uint64_t old_folder;     /* where a renamed one was before */
    char name[256], old_name[256];
};

static struct plan *plan;
static pid_t owner;
static int record = -1;

__attribute__((constructor)) static void begin(void) {
    const char *name = getenv("WATCHERD_POWER_CUT"), *log = getenv("WATCHERD_POWER_CUT_LOG");
    int descriptor = name ? open(name, O_RDWR | O_CLOEXEC) : -1;
    if (descriptor < 0)
        return;
    void *memory = mmap(NULL, sizeof *plan, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    close(descriptor);
    int low = log ? syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_APPEND | O_CLOEXEC) : -1;
    if (low >= 0) { /* out of the way of the program's own */
        record = fcntl(low, F_DUPFD_CLOEXEC, 900);
        close(low);
    }
    unsetenv("WATCHERD_POWER_CUT"); /* not for the programs that this one starts */
    unsetenv("WATCHERD_POWER_CUT_LOG");
    owner = getpid();
    if (memory != MAP_FAILED)
        plan = memory;
}

static void stop_if(int when) {
    int armed = when;
    if (plan && getpid() == owner && atomic_compare_exchange_strong(&plan->armed, &armed, 0))
        kill(owner, SIGSTOP);
}

static void keep(struct entry *entry) {
    int kept = errno;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    entry->at = now.tv_sec * 1000000000L + now.tv_nsec;
    if (write(record, entry, sizeof *entry) != sizeof *entry) {
        if (getpid() == owner)
            abort(); /* a record with gaps would accuse the innocent */
        record = -1; /* a forked process has closed all that it did not know */
    }
    errno = kept;
}

/* The folder of a path, its last part, and what is there: whether anything is. */
static int look(int at, const char *path, uint64_t *folder, char *name, struct stat *there) {
    char parent[4096];
    const char *slash = strrchr(path, '/');
    struct stat status;
    snprintf(name, 256, "%s", slash ? slash + 1 : path);
    snprintf(parent, sizeof parent, "%.*s", slash ? (int)(slash - path) + 1 : 1, slash ? path : ".");
    *folder = fstatat(at, parent, &status, 0) == 0 ? status.st_ino : 0;
    return fstatat(at, path, there, AT_SYMLINK_NOFOLLOW) == 0;
}

static void named(int at, const char *path) {
    struct entry entry = {.kind = NAMED};
    struct stat there;
    int kept = errno;
    if (look(at, path, &entry.folder, entry.name, &there)) {
        entry.device = there.st_dev, entry.inode = there.st_ino;
        keep(&entry);
    }
    errno = kept;
}

static int is_there(int at, const char *path) {
    struct stat there;
    int kept = errno, answer = fstatat(at, path, &there, AT_SYMLINK_NOFOLLOW) == 0;
    errno = kept;
    return answer;
}

#define NEXT(type, name) ((type)dlsym(RTLD_NEXT, #name))

#define OPENAT(name)                                                                          \
    int name(int at, const char *path, int flags, ...) {                                      \
        va_list more;                                                                         \
        va_start(more, flags);                                                                \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;               \
        va_end(more);                                                                         \
        int is_new = record >= 0 && flags & O_CREAT && !is_there(at, path);                   \
        int result = NEXT(int (*)(int, const char *, int, ...), name)(at, path, flags, mode); \
        if (is_new && result >= 0)                                                            \
            named(at, path);                                                                  \
        return result;                                                                        \
    }
OPENAT(openat)
OPENAT(openat64)

#define OPEN(name)                                                                       \
    int name(const char *path, int flags, ...) {                                         \
        va_list more;                                                                    \
        va_start(more, flags);                                                           \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;          \
        va_end(more);                                                                    \
        int is_new = record >= 0 && flags & O_CREAT && !is_there(AT_FDCWD, path);        \
        int result = NEXT(int (*)(const char *, int, ...), name)(path, flags, mode);     \
        if (is_new && result >= 0)                                                       \
            named(AT_FDCWD, path);                                                       \
        return result;                                                                   \
    }
OPEN(open)
OPEN(open64)

int mkdirat(int at, const char *path, mode_t mode) {
    int result = NEXT(int (*)(int, const char *, mode_t), mkdirat)(at, path, mode);
    if (record >= 0 && result == 0)
        named(at, path);
    return result;
}

int mkdir(const char *path, mode_t mode) {
    int result = NEXT(int (*)(const char *, mode_t), mkdir)(path, mode);
    if (record >= 0 && result == 0)
        named(AT_FDCWD, path);
    return result;
}

int linkat(int at, const char *path, int to, const char *target, int flags) {
    int result = NEXT(int (*)(int, const char *, int, const char *, int), linkat)(at, path, to, target, flags);
    if (record >= 0 && result == 0)
        named(to, target);
    return result;
}

int link(const char *path, const char *target) { return linkat(AT_FDCWD, path, AT_FDCWD, target, 0); }

int renameat2(int at, const char *path, int to, const char *target, unsigned int flags) {
    struct entry entry = {.kind = RENAMED};
    struct stat there;
    int is_new = record >= 0 && !(flags & RENAME_EXCHANGE) && !is_there(to, target);
    if (is_new)
        look(at, path, &entry.old_folder, entry.old_name, &there);
    int result = NEXT(int (*)(int, const char *, int, const char *, unsigned int), renameat2)(at, path, to, target, flags);
    int kept = errno;
    if (is_new && result == 0 && look(to, target, &entry.folder, entry.name, &there)) {
        entry.device = there.st_dev, entry.inode = there.st_ino;
        keep(&entry);
    }
    errno = kept;
    return result;
}

int renameat(int at, const char *path, int to, const char *target) { return renameat2(at, path, to, target, 0); }

int rename(const char *path, const char *target) { return renameat2(AT_FDCWD, path, AT_FDCWD, target, 0); }

static void synced(int descriptor, int kind) {
    struct stat status;
    struct entry entry = {.kind = kind};
    int kept = errno;
    if (record >= 0 && fstat(descriptor, &status) == 0) {
        entry.device = status.st_dev, entry.folder = status.st_ino;
        keep(&entry);
    }
    errno = kept;
}

#define SYNC(name, kind)                                  \
    int name(int descriptor) {                            \
        stop_if(BEFORE);                                  \
        int result = NEXT(int (*)(int), name)(descriptor); \
        if (result == 0)                                  \
            synced(descriptor, kind);                     \
        stop_if(AFTER);                                   \
        return result;                                    \
    }
SYNC(fsync, SYNCED)
SYNC(fdatasync, SYNCED)
SYNC(syncfs, SYNCED_ALL)
