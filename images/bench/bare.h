/*
 * What a program needs that has no C library: system calls of amd64, an entry, numbers in and out. None, so
 * that the same bytes run in the guest and on the host: a C library chooses its string functions by CPU.
 */
#ifndef BARE_H
#define BARE_H

typedef unsigned char u8;
typedef unsigned int u32;
typedef int i32;
typedef unsigned long u64;
typedef long i64;

#define NOINLINE __attribute__((noinline))

static inline long system_call(long number, long a, long b, long c, long d, long e, long f)
{
    long result;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "0"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

/* Numbers of system calls, arch/x86/entry/syscalls/syscall_64.tbl. */
enum {
    SYS_read = 0,
    SYS_write = 1,
    SYS_lseek = 8,
    SYS_mmap = 9,
    SYS_mprotect = 10,
    SYS_munmap = 11,
    SYS_pipe = 22,
    SYS_fork = 57,
    SYS_execve = 59,
    SYS_exit = 60,
    SYS_wait4 = 61,
    SYS_getppid = 110,
};

static inline _Noreturn void leave(int status)
{
    for (;;)
        system_call(SYS_exit, status, 0, 0, 0, 0, 0);
}

static inline int equal(const char *a, const char *b)
{
    while (*a && *a == *b)
        a++, b++;
    return *a == *b;
}

/* A decimal number; 0 for what is none. */
static inline u64 number(const char *text)
{
    u64 value = 0;
    for (; *text >= '0' && *text <= '9'; text++)
        value = value * 10 + (u64)(*text - '0');
    return value;
}

/* The result: 16 hexadecimal digits and a line's end. */
static inline void tell(u64 value)
{
    char line[17];
    for (int i = 0; i < 16; i++)
        line[i] = "0123456789abcdef"[value >> (60 - 4 * i) & 15];
    line[16] = '\n';
    system_call(SYS_write, 1, (long)line, sizeof line, 0, 0, 0);
}

/* Generator of Marsaglia's, "Xorshift RNGs" (2003); never 0. */
static inline u64 next_random(u64 *state)
{
    u64 x = *state;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return *state = x;
}

/* gcc calls these even when it is told that there is no library. */
void *memcpy(void *to, const void *from, u64 count)
{
    void *result = to;
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
    return result;
}

void *memset(void *to, int byte, u64 count)
{
    void *result = to;
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(count) : "a"(byte) : "memory");
    return result;
}

int run(int count, char **words);

/* The stack at entry: count, words, 0, environment, 0 (System V ABI for AMD64, 3.4.1). */
__asm__(".globl _start\n"
        "_start: xor %ebp, %ebp\n"
        "mov (%rsp), %edi\n"
        "lea 8(%rsp), %rsi\n"
        "and $-16, %rsp\n"
        "call run\n"
        "mov %eax, %edi\n"
        "mov $60, %eax\n"
        "syscall\n");

#endif
