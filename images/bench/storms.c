/*
 * storms NAME COUNT: programs whose time goes to the kernel. COUNT says how often; the result tells how often
 * it worked.
 */
#include "bare.h"

enum { PAGE = 4096 };

static u64 syscalls(u64 count)
{
    u64 done = 0;
    for (; count; count--)
        done += system_call(SYS_getppid, 0, 0, 0, 0, 0, 0) >= 0;
    return done;
}

/* A child that becomes this program anew, which leaves at once. */
static u64 execs(u64 count, char *program)
{
    char *words[] = {program, "leave", "0", 0};
    char *environment[] = {0};
    u64 done = 0;
    for (; count; count--) {
        int status = -1;
        long child = system_call(SYS_fork, 0, 0, 0, 0, 0, 0);
        if (child == 0) {
            system_call(SYS_execve, (long)program, (long)words, (long)environment, 0, 0, 0);
            leave(1);
        }
        done += system_call(SYS_wait4, child, (long)&status, 0, 0, 0, 0) == child && status == 0;
    }
    return done;
}

static u64 forks(u64 count)
{
    u64 done = 0;
    for (; count; count--) {
        int status = -1;
        long child = system_call(SYS_fork, 0, 0, 0, 0, 0, 0);
        if (child == 0)
            leave(0);
        done += system_call(SYS_wait4, child, (long)&status, 0, 0, 0, 0) == child && status == 0;
    }
    return done;
}

/* A byte to another process and back: two switches of address space. */
static u64 ping_pong(u64 count)
{
    int there[2], back[2];
    char byte = 1;
    u64 done = 0;
    if (system_call(SYS_pipe, (long)there, 0, 0, 0, 0, 0) || system_call(SYS_pipe, (long)back, 0, 0, 0, 0, 0))
        return 0;
    long child = system_call(SYS_fork, 0, 0, 0, 0, 0, 0);
    if (child == 0) {
        for (; count; count--) {
            system_call(SYS_read, there[0], (long)&byte, 1, 0, 0, 0);
            system_call(SYS_write, back[1], (long)&byte, 1, 0, 0, 0);
        }
        leave(0);
    }
    for (; count; count--) {
        done += system_call(SYS_write, there[1], (long)&byte, 1, 0, 0, 0) == 1;
        system_call(SYS_read, back[0], (long)&byte, 1, 0, 0, 0);
    }
    system_call(SYS_wait4, child, 0, 0, 0, 0, 0);
    return done;
}

static u8 *map(u64 size)
{
    enum { PROT_READ_WRITE = 3, MAP_PRIVATE_ANONYMOUS = 0x22 };
    long at = system_call(SYS_mmap, 0, (long)size, PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS, -1, 0);
    if (at < 0 && at > -PAGE)
        leave(1);
    return (u8 *)at;
}

/* Fresh memory, touched page by page, given back. */
static u64 page_faults(u64 count)
{
    enum { PAGES = 256 };
    u64 done = 0;
    for (; count; count--) {
        volatile u8 *pages = map(PAGES * PAGE);
        for (u64 i = 0; i < PAGES; i++) {
            pages[i * PAGE] = 1;
            done += pages[i * PAGE];
        }
        system_call(SYS_munmap, (long)pages, PAGES * PAGE, 0, 0, 0, 0);
    }
    return done;
}

/* Pages made read-only and writable again, read and written in between. */
static u64 protections(u64 count)
{
    enum { PAGES = 16, PROT_READ = 1, PROT_READ_WRITE = 3 };
    volatile u8 *pages = map(PAGES * PAGE);
    u64 done = 0;
    for (; count; count--) {
        for (u64 i = 0; i < PAGES; i++)
            pages[i * PAGE] = 1;
        system_call(SYS_mprotect, (long)pages, PAGES * PAGE, PROT_READ, 0, 0, 0);
        for (u64 i = 0; i < PAGES; i++)
            done += pages[i * PAGE];
        system_call(SYS_mprotect, (long)pages, PAGES * PAGE, PROT_READ_WRITE, 0, 0, 0);
    }
    return done;
}

int run(int count, char **words)
{
    if (count != 3)
        return 2;
    u64 times = number(words[2]), done;
    if (equal(words[1], "leave"))
        return 0;
    else if (equal(words[1], "syscall"))
        done = syscalls(times);
    else if (equal(words[1], "exec"))
        done = execs(times, words[0]);
    else if (equal(words[1], "fork"))
        done = forks(times);
    else if (equal(words[1], "pingpong"))
        done = ping_pong(times);
    else if (equal(words[1], "fault"))
        done = page_faults(times);
    else if (equal(words[1], "mprotect"))
        done = protections(times);
    else
        return 2;
    tell(done);
    return done ? 0 : 1;
}
