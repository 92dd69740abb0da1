/*
 * hunt: a program with a bug whose effect shows long after its cause, for whoever learns to debug
 * backwards. Connections and sessions live in slots of one pool. A connection's slot is reused for a
 * session while somebody still holds the connection, and accounts for its bytes: the store lands on
 * the session's function pointer. Much later the session is greeted, and the program jumps to
 * WRONG_BYTES.
 *
 * When the store happens depends on what is typed, and when.
 * Freestanding, raw system calls, like calc.c. Not stripped: gdb finds account() by name.
 */
typedef unsigned long word;

/* What account() adds up to, and so where the program jumps in the end. */
#define WRONG_BYTES 0x41414140ul
#define SLOTS 64

#ifdef __x86_64__
enum { SYS_read = 0, SYS_write = 1, SYS_poll = 7, SYS_exit = 60 };
static long syscall3(long number, long a, long b, long c)
{
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "0"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
    return result;
}
#else
enum { SYS_read = 3, SYS_write = 4, SYS_poll = 168, SYS_exit = 1 };
static long syscall3(long number, long a, long b, long c)
{
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "0"(number), "b"(a), "c"(b), "d"(c) : "memory");
    return result;
}
#endif

struct session {
    void (*greet)(struct session *);
    word number;
    char name[16];
};
struct connection {
    word bytes;
    word peer;
    char address[16];
};
union slot {
    struct session session;
    struct connection connection;
};

union slot pool[SLOTS];
static unsigned char used[SLOTS];
static word greetings;
static word state = 1;

static word random_word(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static void greet(struct session *session)
{
    greetings += session->number;
}

static union slot *take(void)
{
    for (unsigned n = (unsigned)random_word() % SLOTS;; n = (n + 1) % SLOTS)
        if (!used[n]) {
            used[n] = 1;
            return &pool[n];
        }
}

static void release(union slot *slot)
{
    used[slot - pool] = 0;
}

static struct session *open_session(void)
{
    struct session *session = &take()->session;
    session->greet = greet;
    session->number = random_word();
    return session;
}

/* The bug's place: the connection may be gone. */
__attribute__((noinline)) void account(struct connection *connection, word bytes)
{
    connection->bytes = bytes;
}

/* Sessions come and go, are greeted, and a key that was typed changes what happens next. */
static void churn(unsigned rounds)
{
    struct session *live[8];
    for (unsigned n = 0; n < 8; n++)
        live[n] = open_session();
    for (unsigned round = 0; round < rounds; round++) {
        unsigned n = (unsigned)random_word() % 8;
        live[n]->greet(live[n]);
        release((union slot *)live[n]);
        live[n] = open_session();
        if (round % 64 == 0) {
            struct { int fd; short events, revents; } input = { 0, 1, 0 };
            char key = 0;
            if (syscall3(SYS_poll, (long)&input, 1, 0) == 1 && syscall3(SYS_read, 0, (long)&key, 1) == 1)
                state += (word)key << 8;
            state += (word)__builtin_ia32_rdtsc() & 0xff;
        }
    }
    for (unsigned n = 0; n < 8; n++)
        release((union slot *)live[n]);
}

/* Where it dies. */
__attribute__((noinline)) void farewell(struct session *session)
{
    session->greet(session);
}

static void print(const char *text)
{
    unsigned length = 0;
    while (text[length])
        length++;
    syscall3(SYS_write, 1, (long)text, length);
}

void _start(void)
{
    print("hunt: press a key\n");
    char key = 0;
    syscall3(SYS_read, 0, (long)&key, 1);
    print("hunt: open for business\n");
    state += (word)key << 8;
    state += (word)__builtin_ia32_rdtsc();
    churn(20000 + (unsigned)random_word() % 40000);
    struct connection *connection = &take()->connection;
    connection->peer = random_word();
    /* Closed, but not forgotten. */
    release((union slot *)connection);
    struct session *victim = open_session();
    while ((void *)victim != (void *)connection) {
        release((union slot *)victim);
        victim = open_session();
    }
    churn(5000 + (unsigned)random_word() % 20000);
    account(connection, WRONG_BYTES);
    churn(10000 + (unsigned)random_word() % 40000);
    print("hunt: one more greeting\n");
    farewell(victim);
    print("hunt: nothing happened\n");
    for (;;)
        syscall3(SYS_exit, 0, 0, 0);
}
