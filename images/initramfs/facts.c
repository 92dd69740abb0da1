/*
 * facts: processes whose insides are known, for whoever looks at the guest from outside.
 *
 *   facts hold       bytes of a known pattern at PATTERN_AT, /tmp/known open as descriptor 7 and mapped at KNOWN_AT, two
 *                    more threads with names, and a child with another pattern at the same address; prints what it is,
 *                    then waits
 *   facts spin       waits for a line in /tmp/go, announces the moment, and spins with known registers
 *   facts busy       the same, but keeps the kernel busy: it reads zeros
 *
 * tests/judges knows the constants. Freestanding, raw system calls, like calc.c.
 */
typedef unsigned char u8;
typedef unsigned long word;

#define PATTERN_AT 0x20000000ul
#define PATTERN_BYTES 20123u
#define KNOWN_AT 0x30000000ul
#define PAGE 4096u

enum { PROT_READ = 1, PROT_WRITE = 2, MAP_PRIVATE = 2, MAP_FIXED = 16, MAP_ANONYMOUS = 32 };
/* CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM */
#define CLONE_FLAGS 0x50f00ul
#define PR_SET_NAME 15

#ifdef __x86_64__
enum {
    SYS_read = 0, SYS_write = 1, SYS_open = 2, SYS_mmap = 9, SYS_pipe = 22, SYS_dup2 = 33, SYS_pause = 34,
    SYS_getpid = 39, SYS_clone = 56, SYS_fork = 57, SYS_exit = 60, SYS_prctl = 157, SYS_gettid = 186,
};
static long syscall6(long number, word a, word b, word c, word d, word e, word f)
{
    long result;
    register word r10 __asm__("r10") = d;
    register word r8 __asm__("r8") = e;
    register word r9 __asm__("r9") = f;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "0"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}
static long syscall3(long number, word a, word b, word c)
{
    return syscall6(number, a, b, c, 0, 0, 0);
}
static void *map(word at, word bytes, int protection, int flags, long file)
{
    return (void *)syscall6(SYS_mmap, at, bytes, protection, flags, file, 0);
}
#else
enum {
    SYS_read = 3, SYS_write = 4, SYS_open = 5, SYS_mmap = 90, SYS_pipe = 42, SYS_dup2 = 63, SYS_pause = 29,
    SYS_getpid = 20, SYS_clone = 120, SYS_fork = 2, SYS_exit = 1, SYS_prctl = 172, SYS_gettid = 224,
};
static long syscall3(long number, word a, word b, word c)
{
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "0"(number), "b"(a), "c"(b), "d"(c) : "memory");
    return result;
}
/* The old mmap takes a structure: six registers would be one too many. */
static void *map(word at, word bytes, int protection, int flags, long file)
{
    word arguments[6] = { at, bytes, protection, flags, file, 0 };
    return (void *)syscall3(SYS_mmap, (word)arguments, 0, 0);
}
#endif

static void print(const char *text)
{
    word length = 0;
    while (text[length])
        length++;
    syscall3(SYS_write, 1, (word)text, length);
}

/* "FACT name number", in one write: nothing comes between. */
static void fact(const char *name, word number)
{
    char line[64], digits[24];
    unsigned length = 0, n = 0;
    for (const char *s = "FACT "; *s; s++)
        line[length++] = *s;
    for (; *name && length < 40; name++)
        line[length++] = *name;
    line[length++] = ' ';
    do
        digits[n++] = (char)('0' + number % 10);
    while (number /= 10);
    while (n)
        line[length++] = digits[--n];
    line[length++] = '\n';
    syscall3(SYS_write, 1, (word)line, length);
}

__attribute__((noreturn)) static void fail(const char *what)
{
    print("DEJAVM-WORKLOAD-FAILED facts: "), print(what), print("\n");
    for (;;)
        syscall3(SYS_exit, 1, 0, 0);
}

/* Byte i of a pattern. */
static u8 pattern(unsigned i, unsigned seed)
{
    return (u8)(i * 167 + (i >> 8) * 13 + seed);
}

static void put_pattern(unsigned seed)
{
    u8 *bytes = (u8 *)PATTERN_AT;
    for (unsigned i = 0; i < PATTERN_BYTES; i++)
        bytes[i] = pattern(i, seed);
}

static int never[2];

/* Interrupted by nobody. */
__attribute__((noreturn, used)) static void wait_for_ever(void)
{
    for (;;)
        syscall3(SYS_pause, 0, 0, 0);
}

__attribute__((noreturn, used)) static void sleeper(void)
{
    syscall3(SYS_prctl, PR_SET_NAME, (word) "facts-sleeper", 0);
    fact("thread", (word)syscall3(SYS_gettid, 0, 0, 0));
    wait_for_ever();
}

__attribute__((noreturn, used)) static void reader(void)
{
    char byte;
    syscall3(SYS_prctl, PR_SET_NAME, (word) "facts-reader", 0);
    fact("thread", (word)syscall3(SYS_gettid, 0, 0, 0));
    for (;;)
        syscall3(SYS_read, (word)never[0], (word)&byte, 1);
}

static void thread(void (*run)(void))
{
    char *stack = map(0, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    word *top = (word *)(stack + 4 * PAGE - 64);
    long result;
    /* The new thread has another stack, so it must not return from here. */
#ifdef __x86_64__
    register word r10 __asm__("r10") = 0;
    register word r8 __asm__("r8") = 0;
    __asm__ volatile("syscall\n test %%rax, %%rax\n jnz 1f\n xor %%ebp, %%ebp\n call *%[run]\n 1:"
                     : "=a"(result)
                     : "0"((long)SYS_clone), "D"(CLONE_FLAGS), "S"(top), "d"(0ul), "r"(r10), "r"(r8), [run] "r"(run)
                     : "rcx", "r11", "memory");
#else
    /* Three arguments are in registers that clone() reads; edi and esi are ignored without CLONE_SETTLS. */
    __asm__ volatile("int $0x80\n test %%eax, %%eax\n jnz 1f\n call *%[run]\n 1:"
                     : "=a"(result)
                     : "0"((long)SYS_clone), "b"(CLONE_FLAGS), "c"(top), "d"(0ul), [run] "D"(run)
                     : "memory");
#endif
    if (result <= 0)
        fail("clone");
}

__attribute__((noreturn)) static void hold(void)
{
    long known = syscall3(SYS_open, (word) "/tmp/known", 0, 0);
    if (known < 0 || syscall3(SYS_dup2, (word)known, 7, 0) != 7)
        fail("/tmp/known");
    volatile u8 *mapped = map(KNOWN_AT, 3 * PAGE, PROT_READ, MAP_PRIVATE | MAP_FIXED, 7);
    if ((word)mapped != KNOWN_AT)
        fail("mmap of /tmp/known");
    /* Not mapped before they are touched. */
    (void)mapped[0], (void)mapped[PAGE], (void)mapped[2 * PAGE];
    if ((word)map(PATTERN_AT, PATTERN_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS, -1) != PATTERN_AT)
        fail("mmap");
    put_pattern(5);
    if (syscall3(SYS_pipe, (word)never, 0, 0) != 0)
        fail("pipe");
    long child = syscall3(SYS_fork, 0, 0, 0);
    if (child == 0) {
        syscall3(SYS_prctl, PR_SET_NAME, (word) "facts-child", 0);
        put_pattern(77);
        fact("child", (word)syscall3(SYS_getpid, 0, 0, 0));
        wait_for_ever();
    }
    thread(sleeper);
    thread(reader);
    fact("holder", (word)syscall3(SYS_getpid, 0, 0, 0));
    wait_for_ever();
}

__attribute__((noreturn)) static void spin(int in_kernel)
{
    static char zeros[1 << 20];
    char byte;
    fact("spinner", (word)syscall3(SYS_getpid, 0, 0, 0));
    long go = syscall3(SYS_open, (word) "/tmp/go", 0, 0);
    if (go < 0 || syscall3(SYS_read, (word)go, (word)&byte, 1) != 1)
        fail("/tmp/go");
    long source = syscall3(SYS_open, (word) "/dev/zero", 0, 0);
    print("DEJAVM-FACTS-NOW\n");
    while (in_kernel)
        syscall3(SYS_read, (word)source, (word)zeros, sizeof zeros);
#ifdef __x86_64__
    __asm__ volatile("movabs $0x1122334455667788, %rbx\n movabs $0xfeedfacecafe0123, %r15\n mov $0x20000000, %esi\n"
                     "xor %eax, %eax\n 1: inc %eax\n jmp 1b");
#else
    __asm__ volatile("mov $0x55667788, %ebx\n mov $0xcafe0123, %edi\n mov $0x20000000, %esi\n"
                     "xor %eax, %eax\n 1: inc %eax\n jmp 1b");
#endif
    __builtin_unreachable();
}

__attribute__((used, noreturn)) void start(long *stack)
{
    char **arguments = (char **)(stack + 1);
    const char *verb = stack[0] > 1 ? arguments[1] : "";
    if (verb[0] == 'h')
        hold();
    if (verb[0] == 's' || verb[0] == 'b')
        spin(verb[0] == 'b');
    print("usage: facts hold | spin | busy\n");
    for (;;)
        syscall3(SYS_exit, 2, 0, 0);
}

#ifdef __x86_64__
__asm__(".globl _start\n_start:\n xor %ebp, %ebp\n mov %rsp, %rdi\n and $-16, %rsp\n call start\n");
#else
__asm__(".globl _start\n_start:\n xor %ebp, %ebp\n mov %esp, %eax\n and $-16, %esp\n sub $12, %esp\n push %eax\n call start\n");
#endif
