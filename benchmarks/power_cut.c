/* Stops a program at a sync of its choice: loaded before libc by LD_PRELOAD, steered through a file in memory.
 *
 * The file that WATCHERD_POWER_CUT names holds one struct plan. Armed with 1, the next call that makes something durable
 * stops the process before it has done anything; with 2, after it has.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { BEFORE = 1, AFTER = 2 };

struct plan {
    atomic_int armed;
};

static struct plan *plan;
static pid_t owner;

__attribute__((constructor)) static void begin(void) {
    const char *name = getenv("WATCHERD_POWER_CUT");
    int descriptor = name ? open(name, O_RDWR | O_CLOEXEC) : -1;
    if (descriptor < 0)
        return;
    void *memory = mmap(NULL, sizeof *plan, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    close(descriptor);
    unsetenv("WATCHERD_POWER_CUT"); /* not for the processes that this one starts */
    owner = getpid();
    if (memory != MAP_FAILED)
        plan = memory;
}

static void stop_if(int when) {
    int armed = when;
    if (plan && getpid() == owner && atomic_compare_exchange_strong(&plan->armed, &armed, 0))
        kill(owner, SIGSTOP);
}

#define SYNC(name)                                                    \
    int name(int descriptor) {                                        \
        stop_if(BEFORE);                                              \
        int result = ((int (*)(int))dlsym(RTLD_NEXT, #name))(descriptor); \
        stop_if(AFTER);                                               \
        return result;                                                \
    }
SYNC(fsync)
SYNC(fdatasync)
SYNC(syncfs)
