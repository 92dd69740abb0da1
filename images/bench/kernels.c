/*
 * kernels NAME ROUNDS: small programs that compute and do nothing else, each hot in a loop of its own. A
 * round takes a few milliseconds on a fast processor; the result is the same on every one, and printed.
 */
#include "bare.h"

/* Every kernel's memory; untouched pages cost nothing. */
static u8 heap[32 << 20] __attribute__((aligned(4096)));

/* Calls and returns. */
static NOINLINE u64 fibonacci(u64 n)
{
    return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2);
}

static u64 fib(u64 rounds)
{
    u64 sum = 0;
    while (rounds--)
        sum += fibonacci(27 + (rounds & 1));
    return sum;
}

/* Stores with a stride, tests of bytes. */
static u64 sieve(u64 rounds)
{
    enum { LIMIT = 1000000 };
    u64 primes = 0;
    while (rounds--) {
        for (u64 i = 0; i < LIMIT; i++) {
            heap[i] = 1;
            __asm__ volatile("" ::: "memory");
        }
        for (u64 i = 2; i < LIMIT; i++) {
            if (!heap[i])
                continue;
            primes++;
            for (u64 j = i + i; j < LIMIT; j += i)
                heap[j] = 0;
        }
    }
    return primes;
}

/* Compares that nobody can predict, swaps. */
static NOINLINE void sort(i32 *a, i64 low, i64 high)
{
    while (high - low >= 12) {
        i32 pivot = a[(low + high) / 2];
        i64 i = low, j = high;
        while (i <= j) {
            while (a[i] < pivot)
                i++;
            while (a[j] > pivot)
                j--;
            if (i <= j) {
                i32 swapped = a[i];
                a[i++] = a[j];
                a[j--] = swapped;
            }
        }
        if (j - low < high - i) {
            sort(a, low, j);
            low = i;
        } else {
            sort(a, i, high);
            high = j;
        }
    }
    for (i64 i = low + 1; i <= high; i++) {
        i32 value = a[i];
        i64 j = i - 1;
        for (; j >= low && a[j] > value; j--)
            a[j + 1] = a[j];
        a[j + 1] = value;
    }
}

static u64 quicksort(u64 rounds)
{
    enum { COUNT = 60000 };
    i32 *a = (i32 *)heap;
    u64 random = 88172645463325252, sum = 0;
    while (rounds--) {
        for (int i = 0; i < COUNT; i++)
            a[i] = (i32)next_random(&random);
        sort(a, 0, COUNT - 1);
        for (int i = 0; i < COUNT; i += 100)
            sum = sum * 31 + (u32)a[i];
    }
    return sum;
}

/* A chain of dependent loads from a table. */
static u64 crc(u64 rounds)
{
    enum { BYTES = 1 << 20 };
    static u32 table[256];
    u64 random = 12345;
    u32 sum = ~0u;
    for (u32 i = 0; i < 256; i++) {
        table[i] = i;
        for (int k = 0; k < 8; k++)
            table[i] = table[i] & 1 ? 0xedb88320 ^ table[i] >> 1 : table[i] >> 1;
    }
    for (u64 i = 0; i < BYTES; i++)
        heap[i] = (u8)next_random(&random);
    while (rounds--)
        for (u64 i = 0; i < BYTES; i++)
            sum = table[(sum ^ heap[i]) & 255] ^ sum >> 8;
    return sum;
}

/* A chained hash table of some MiB: addresses all over many pages. */
struct entry {
    struct entry *next;
    u64 key, value;
};

static struct entry **slot_of(u64 key)
{
    return (struct entry **)heap + (key * 0x9e3779b97f4a7c15 >> 48);
}

static u64 hash(u64 rounds)
{
    struct entry *pool = (struct entry *)(heap + (8 << 20));
    u64 random = 777, sum = 0;
    for (u64 i = 0; i < 200000; i++) {
        pool[i] = (struct entry){*slot_of(i), i, random};
        *slot_of(i) = &pool[i];
    }
    while (rounds--)
        for (int i = 0; i < 50000; i++) {
            u64 key = next_random(&random) % 262144;
            struct entry *at = *slot_of(key);
            while (at && at->key != key)
                at = at->next;
            if (at)
                sum += at->value++;
        }
    return sum;
}

/* An interpreter: jumps through a table. */
static u64 bytecode(u64 rounds)
{
    static const u8 program[] = {0, 1, 2, 3, 4, 5, 6, 7, 1, 3, 5, 2, 4, 0, 6, 8};
    u64 a = 1, b = 3, at = 0, loops = 0;
    for (rounds *= 100000;;) {
        switch (program[at++]) {
        case 0: a += b; break;
        case 1: b ^= a; break;
        case 2: a = a * 5 + 1; break;
        case 3: b = b << 3 | b >> 61; break;
        case 4: a -= b >> 2; break;
        case 5: a ^= a >> 7; break;
        case 6: b += loops; break;
        case 7: a += a & 1 ? b : 7; break;
        case 8:
            if (++loops == rounds)
                return a ^ b;
            at = 0;
            break;
        case 9: a = b; break;
        case 10: b = ~b; break;
        }
    }
}

/* A compressor with a hash of positions, on text. */
static u64 compress(const u8 *from, u64 size, u8 *to, u32 *seen)
{
    u64 out = 0, i = 0, anchor = 0;
    for (int n = 0; n < 4096; n++)
        seen[n] = 0;
    while (i + 8 < size) {
        u32 here = *(const u32 *)(from + i);
        u32 *slot = &seen[here * 2654435761u >> 20];
        u64 there = *slot;
        *slot = (u32)i;
        if (there >= i || *(const u32 *)(from + there) != here || i - there >= 65536) {
            i++;
            continue;
        }
        u64 length = 4;
        while (i + length < size && from[there + length] == from[i + length] && length < 255)
            length++;
        to[out++] = (u8)(i - anchor);
        for (; anchor < i; anchor++)
            to[out++] = from[anchor];
        to[out++] = (u8)length;
        to[out++] = (u8)(i - there);
        to[out++] = (u8)((i - there) >> 8);
        anchor = i += length;
    }
    return out;
}

static u64 lz(u64 rounds)
{
    static const char *const words[] = {"the ", "quick ", "brown ", "fox ", "jumps ", "over ", "lazy ", "dog ",
                                        "kernel ", "replay ", "record ", "virtual ", "machine ", "\n"};
    u64 random = 99, size = 0, sum = 0;
    while (size < 500000) {
        for (const char *word = words[next_random(&random) % 14]; *word;)
            heap[size++] = (u8)*word++;
        if ((next_random(&random) & 15) == 0)
            heap[size++] = (u8)random;
    }
    while (rounds--)
        sum += compress(heap, size, heap + (4 << 20), (u32 *)(heap + (8 << 20)));
    return sum;
}

/* FIPS 180-4: rotates, adds, much in registers. */
static const u32 sha_constants[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static inline u32 rotate(u32 value, int count)
{
    return value >> count | value << (32 - count);
}

static NOINLINE void sha_block(u32 *state, const u8 *block)
{
    u32 w[64], v[8];
    for (int i = 0; i < 16; i++)
        w[i] = __builtin_bswap32(((const u32 *)block)[i]);
    for (int i = 16; i < 64; i++) {
        u32 a = w[i - 15], b = w[i - 2];
        w[i] = w[i - 16] + w[i - 7] + (rotate(a, 7) ^ rotate(a, 18) ^ a >> 3) +
               (rotate(b, 17) ^ rotate(b, 19) ^ b >> 10);
    }
    for (int i = 0; i < 8; i++)
        v[i] = state[i];
    u32 a = v[0], b = v[1], c = v[2], d = v[3], e = v[4], f = v[5], g = v[6], h = v[7];
    for (int i = 0; i < 64; i++) {
        u32 first = h + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) + ((e & f) ^ (~e & g)) + sha_constants[i] + w[i];
        u32 second = (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
        h = g, g = f, f = e, e = d + first, d = c, c = b, b = a, a = first + second;
    }
    state[0] += a, state[1] += b, state[2] += c, state[3] += d;
    state[4] += e, state[5] += f, state[6] += g, state[7] += h;
}

static u64 sha256(u64 rounds)
{
    enum { BYTES = 1 << 18 };
    u64 random = 5;
    u32 state[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    for (u64 i = 0; i < BYTES; i++)
        heap[i] = (u8)next_random(&random);
    while (rounds--)
        for (u64 i = 0; i < BYTES; i += 64)
            sha_block(state, heap + i);
    return (u64)state[0] << 32 | state[5];
}

/* Byte after byte until a zero. The empty assembly keeps gcc from seeing library functions here. */
static NOINLINE u64 length_of(const char *s)
{
    const char *end = s;
    for (; *end; end++)
        __asm__ volatile("");
    return (u64)(end - s);
}

static NOINLINE int compare(const char *a, const char *b)
{
    for (; *a && *a == *b; a++, b++)
        __asm__ volatile("");
    return (u8)*a - (u8)*b;
}

static NOINLINE void copy(char *to, const char *from)
{
    while ((*to++ = *from++))
        __asm__ volatile("");
}

static u64 strings(u64 rounds)
{
    enum { COUNT = 2000, SIZE = 64 };
    char *text = (char *)heap, *spare = text + COUNT * SIZE;
    u64 random = 31, sum = 0;
    for (int i = 0; i < COUNT; i++) {
        u64 length = 8 + (next_random(&random) & 31);
        for (u64 j = 0; j < length; j++)
            text[i * SIZE + j] = (char)('a' + (next_random(&random) & 7));
        text[i * SIZE + length] = 0;
    }
    for (rounds *= 10; rounds--;)
        for (char *s = text; s < text + (COUNT - 1) * SIZE; s += SIZE) {
            sum += length_of(s) + (compare(s, s + SIZE) < 0);
            copy(spare, s);
            sum += (compare(spare, s) == 0) + (u8)spare[3];
        }
    return sum;
}

/* Scalar doubles, one operand far away. */
static u64 matmul(u64 rounds)
{
    enum { N = 100 };
    double *a = (double *)heap, *b = a + N * N, *c = b + N * N, total = 0;
    for (int i = 0; i < N * N; i++) {
        a[i] = i % 7 + 0.5;
        b[i] = i % 11 - 3.25;
    }
    while (rounds--)
        for (int i = 0; i < N; i++)
            for (int j = 0; j < N; j++) {
                double sum = 0;
                for (int k = 0; k < N; k++)
                    sum += a[i * N + k] * b[k * N + j];
                c[i * N + j] = sum + (double)rounds;
            }
    for (int i = 0; i < N * N; i++)
        total += c[i];
    return (u64)(i64)(total * 4);
}

/* 4 MiB of links in no order: every load waits for the one before. */
static u64 list(u64 rounds)
{
    enum { COUNT = 65536, STEP = 8 };
    u64 *nodes = (u64 *)heap, *at = nodes, random = 4242;
    u32 *order = (u32 *)(heap + (16 << 20));
    for (u32 i = 0; i < COUNT; i++)
        order[i] = i;
    for (u64 i = COUNT - 1; i > 0; i--) {
        u64 j = next_random(&random) % (i + 1);
        u32 swapped = order[i];
        order[i] = order[j];
        order[j] = swapped;
    }
    for (u64 i = 0; i < COUNT; i++)
        nodes[order[i] * STEP] = (u64)&nodes[order[(i + 1) % COUNT] * STEP];
    for (rounds *= 100000; rounds--;)
        at = (u64 *)*at;
    return (u64)(at - nodes);
}

/* As kernels are written: objects with tables of functions, reference counts, doubly linked lists. */
struct link {
    struct link *next, *previous;
};

struct object;

struct operations {
    int (*open)(struct object *, u32);
    int (*get)(struct object *, u64 *);
    void (*put)(struct object *);
};

struct object {
    struct link link;
    const struct operations *operations;
    i32 references;
    u32 flags;
    u64 value, counters[4];
};

static NOINLINE int object_open(struct object *o, u32 flags)
{
    if (o->flags & 4)
        return -1;
    o->flags |= flags;
    __atomic_fetch_add(&o->references, 1, __ATOMIC_SEQ_CST);
    return 0;
}

static NOINLINE int object_get(struct object *o, u64 *value)
{
    if (!(o->flags & 1))
        return -5;
    *value = o->value;
    o->counters[*value & 3]++;
    return 1;
}

static NOINLINE int object_get_thrice(struct object *o, u64 *value)
{
    *value = o->value * 3;
    o->counters[1] += 2;
    return o->flags & 2 ? 2 : 1;
}

static NOINLINE void object_put(struct object *o)
{
    if (__atomic_sub_fetch(&o->references, 1, __ATOMIC_SEQ_CST) == 0)
        o->value++;
}

static NOINLINE void link_add(struct link *head, struct link *entry)
{
    entry->next = head->next;
    entry->previous = head;
    head->next->previous = entry;
    head->next = entry;
}

static NOINLINE void link_remove(struct link *entry)
{
    entry->previous->next = entry->next;
    entry->next->previous = entry->previous;
}

static u64 objects(u64 rounds)
{
    static const struct operations once = {object_open, object_get, object_put};
    static const struct operations thrice = {object_open, object_get_thrice, object_put};
    struct object *all = (struct object *)heap;
    struct link head = {&head, &head};
    u64 sum = 0;
    for (u32 i = 0; i < 512; i++) {
        all[i].operations = i % 3 ? &once : &thrice;
        all[i].flags = i % 17 == 0 ? 4 : 0;
        all[i].value = i;
        link_add(&head, &all[i].link);
    }
    for (rounds *= 100000; rounds--;) {
        struct object *o = (struct object *)head.previous;
        link_remove(&o->link);
        if (o->operations->open(o, 1 | (rounds & 2)) == 0) {
            u64 value = 0;
            int factor = o->operations->get(o, &value);
            if (factor > 0)
                sum += value * (u64)factor;
            o->operations->put(o);
        } else {
            sum ^= rounds;
        }
        link_add(&head, &o->link);
    }
    return sum;
}

/* Floating point of many kinds: packed and scalar, division, roots, conversions, and some x87. */
typedef double pair __attribute__((vector_size(16)));
typedef float four __attribute__((vector_size(16)));

static NOINLINE u64 float_bits(u64 rounds)
{
    enum { COUNT = 1024 };
    double *x = (double *)heap, *y = x + COUNT, total = 0;
    float *z = (float *)(y + COUNT);
    long double turned = 1.0L;
    for (int i = 0; i < COUNT; i++) {
        x[i] = 1.0 + i / 64.0;
        y[i] = 3.0 - i / 128.0;
        z[i] = (float)(i % 17) + 0.25f;
    }
    for (rounds *= 20; rounds--;) {
        for (int i = 0; i < COUNT; i += 2) {
            pair p = *(pair *)(x + i), q = *(pair *)(y + i);
            pair sum = p * q + (pair){0.5, 0.25};
            *(pair *)(x + i) = sum / (p * p + q * q + (pair){1.0, 1.0}) + (pair){1.0, 2.0};
        }
        for (int i = 0; i < COUNT; i += 4) {
            four f = *(four *)(z + i);
            *(four *)(z + i) = f * (four){0.5f, 0.75f, 0.875f, 0.25f} + (four){1.0f, 2.0f, 3.0f, 4.0f};
        }
        for (int i = 0; i < COUNT; i++) {
            double root;
            __asm__("sqrtsd %1, %0" : "=x"(root) : "x"(x[i]));
            if (root < (double)z[i])
                root = (double)(i32)(root * 16.0) / 16.0;
            y[i] = root * 0.125 + y[i] * 0.5;
        }
        for (int i = 0; i < 64; i++)
            turned = turned * 0.75L + (long double)y[i] / 3.0L;
    }
    for (int i = 0; i < COUNT; i++)
        total += x[i] + y[i] * 3.0 + (double)z[i] * 5.0;
    return (u64)(i64)(total * 1048576.0) ^ (u64)(i64)(turned * 1048576.0L) << 20;
}

static const struct {
    const char *name;
    u64 (*of)(u64 rounds);
} kernels[] = {
    {"fib", fib},       {"sieve", sieve},   {"qsort", quicksort}, {"crc", crc},       {"hash", hash},
    {"bytecode", bytecode}, {"lz", lz},     {"sha256", sha256},   {"strings", strings}, {"matmul", matmul},
    {"list", list},     {"objects", objects}, {"float", float_bits},
};

int run(int count, char **words)
{
    if (count == 3)
        for (u64 i = 0; i < sizeof kernels / sizeof kernels[0]; i++)
            if (equal(words[1], kernels[i].name)) {
                tell(kernels[i].of(number(words[2])));
                return 0;
            }
    return 2;
}
