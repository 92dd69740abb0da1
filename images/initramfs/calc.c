/*
 * calc: the part of the workload that a shell cannot do. Freestanding, raw system calls, no C
 * library: `gcc -m32` then needs no 32-bit libc package.
 *
 *   calc fp          floating point, every result printed as its bits: SSE scalar and packed doubles
 *                    and floats, x87 double and long double, rounding modes, denormals, MMX
 *   calc gen BYTES   that many bytes of pseudo-random printable text, 64 columns
 *   calc storm N     N times pipe, fork, a byte from child to parent, exit, wait
 *
 * Output is the same on amd64 and i386, under any correct CPU: only operations that IEEE 754
 * defines exactly are printed in full; the x87 transcendentals, which silicon generations and
 * emulators round differently in the last places, are printed to 24 bits.
 */
/* Keeps the intrinsics from including stdlib.h, which needs the C library that -m32 lacks. */
#define _MM_MALLOC_H_INCLUDED
#include <emmintrin.h>

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;

#ifdef __x86_64__
enum { SYS_read = 0, SYS_write = 1, SYS_pipe = 22, SYS_fork = 57, SYS_exit = 60, SYS_wait4 = 61 };
static long syscall4(long number, long a, long b, long c, long d)
{
    long result;
    register long r10 __asm__("r10") = d;
    __asm__ volatile("syscall" : "=a"(result) : "0"(number), "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory");
    return result;
}
#else
enum { SYS_read = 3, SYS_write = 4, SYS_pipe = 42, SYS_fork = 2, SYS_exit = 1, SYS_wait4 = 114 };
static long syscall4(long number, long a, long b, long c, long d)
{
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "0"(number), "b"(a), "c"(b), "d"(c), "S"(d) : "memory");
    return result;
}
#endif

/* The compiler may call these for any aggregate copy, freestanding or not. */
void *memcpy(void *to, const void *from, __SIZE_TYPE__ n)
{
    void *start = to;
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
    return start;
}
void *memset(void *to, int byte, __SIZE_TYPE__ n)
{
    void *start = to;
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(byte) : "memory");
    return start;
}

static char out[65536];
static u32 out_length;

static void flush(void)
{
    for (u32 done = 0; done < out_length;) {
        long n = syscall4(SYS_write, 1, (long)(out + done), out_length - done, 0);
        if (n <= 0)
            syscall4(SYS_exit, 1, 0, 0, 0);
        done += (u32)n;
    }
    out_length = 0;
}
static void put(char c)
{
    if (out_length == sizeof out)
        flush();
    out[out_length++] = c;
}
static void put_block(const char *block, u32 n)
{
    if (out_length > sizeof out - n)
        flush();
    memcpy(out + out_length, block, n);
    out_length += n;
}
static void puts_(const char *s)
{
    while (*s)
        put(*s++);
}
static void put_hex(u64 value, int digits)
{
    while (digits-- > 0)
        put("0123456789abcdef"[(value >> (4 * digits)) & 15]);
}
static void put_decimal(u32 value)
{
    if (value >= 10)
        put_decimal(value / 10);
    put((char)('0' + value % 10));
}

static u64 bits_of_double(double d)
{
    union { double d; u64 u; } cast = { d };
    return cast.u;
}
static u32 bits_of_float(float f)
{
    union { float f; u32 u; } cast = { f };
    return cast.u;
}
static void line_double(const char *name, double d)
{
    puts_(name), put(' '), put_hex(bits_of_double(d), 16), put('\n');
}
static void line_long_double(const char *name, long double x)
{
    union { long double x; struct { u64 mantissa; unsigned short exponent; } parts; } cast = { .x = x };
    puts_(name), put(' '), put_hex(cast.parts.exponent, 4), put(':'), put_hex(cast.parts.mantissa, 16), put('\n');
}
/* 24 significant bits, rounded: insensitive to a last-place difference unless a tie is that near. */
static void line_coarse(const char *name, long double x)
{
    puts_(name), put(' '), put_hex(bits_of_float((float)x), 8), put('\n');
}

static u64 random_state = 0x9e3779b97f4a7c15ull;
static u64 random64(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

/* Two bodies around a heavy third: energy drifts with every rounding, so one wrong bit shows. */
static void orbits(void)
{
    double x[3] = { 0, 1, -2.5 }, y[3] = { 0, 0, 0.25 }, vx[3] = { 0, 0, 0.125 }, vy[3] = { 0, 1, -0.6 };
    const double mass[3] = { 1, 1e-3, 2e-3 }, dt = 1.0 / 1024;
    for (int step = 0; step < 20000; step++) {
        for (int i = 0; i < 3; i++)
            for (int j = 0; j < 3; j++) {
                if (i == j)
                    continue;
                double dx = x[j] - x[i], dy = y[j] - y[i], square = dx * dx + dy * dy + 1e-6, root;
                __asm__("sqrtsd %1, %0" : "=x"(root) : "x"(square));
                double pull = mass[j] * dt / (square * root);
                vx[i] += dx * pull, vy[i] += dy * pull;
            }
        for (int i = 0; i < 3; i++)
            x[i] += vx[i] * dt, y[i] += vy[i] * dt;
    }
    line_double("sse2-orbit-x", x[1]);
    line_double("sse2-orbit-y", y[2]);
}

static void mandelbrot(void)
{
    u32 sum = 0;
    for (int row = 0; row < 48; row++)
        for (int column = 0; column < 64; column++) {
            float cr = (float)column / 24 - 2, ci = (float)row / 24 - 1, zr = 0, zi = 0;
            u32 n = 0;
            for (; n < 200 && zr * zr + zi * zi < 4; n++) {
                float t = zr * zr - zi * zi + cr;
                zi = 2 * zr * zi + ci, zr = t;
            }
            sum = sum * 31 + n;
        }
    puts_("sse-mandelbrot "), put_hex(sum, 8), put('\n');
}

static void packed(void)
{
    __m128d a = _mm_set_pd(1.5, -2.25), b = _mm_set_pd(3.0, 7.0), sum = _mm_setzero_pd();
    __m128 f = _mm_set_ps(1, 2, 3, 4), g = _mm_set1_ps(0.1f);
    __m128i n = _mm_set_epi32(1, -2, 3, -4), total = _mm_setzero_si128();
    for (int i = 0; i < 5000; i++) {
        sum = _mm_add_pd(sum, _mm_div_pd(a, b));
        a = _mm_add_pd(_mm_sqrt_pd(_mm_mul_pd(a, a)), _mm_shuffle_pd(b, sum, 1));
        f = _mm_sub_ps(_mm_mul_ps(f, _mm_set1_ps(0.99f)), _mm_max_ps(g, _mm_min_ps(f, g)));
        total = _mm_add_epi64(total, _mm_mul_epu32(n, _mm_cvtps_epi32(f)));
        n = _mm_xor_si128(_mm_slli_epi32(n, 3), _mm_shuffle_epi32(_mm_srli_epi32(n, 2), 0x1b));
    }
    double d[2];
    float s[4];
    u64 q[2];
    _mm_storeu_pd(d, sum), _mm_storeu_ps(s, f), _mm_storeu_si128((__m128i *)q, total);
    line_double("sse2-packed-low", d[0]);
    line_double("sse2-packed-high", d[1]);
    puts_("sse-packed "), put_hex(bits_of_float(s[0]), 8), put_hex(bits_of_float(s[3]), 8), put('\n');
    puts_("sse2-integer "), put_hex(q[0], 16), put_hex(q[1], 16), put('\n');
}

static void rounding(void)
{
    static const char *const names[4] = { "nearest", "down", "up", "zero" };
    for (u32 mode = 0; mode < 4; mode++) {
        unsigned short control = (unsigned short)(0x037f | mode << 10), control_default = 0x037f;
        u32 mxcsr = 0x1f80 | mode << 13, mxcsr_default = 0x1f80;
        volatile double third = 3, tenth = 0.1, tiny = 4.9e-324;
        double sse;
        long double x87;
        int converted;
        long long stored;
        __asm__ volatile("ldmxcsr %0" : : "m"(mxcsr));
        sse = 1.0 / third + tenth;
        __asm__ volatile("cvtsd2si %1, %0" : "=r"(converted) : "x"(-third / 2));
        __asm__ volatile("" : "+x"(sse));
        sse += tiny / 2; /* a denormal halved: 0 or itself, by the mode */
        __asm__ volatile("" : "+x"(sse));
        __asm__ volatile("ldmxcsr %0" : : "m"(mxcsr_default));
        __asm__ volatile("fldcw %2\n fld1\n fdivl %3\n faddl %4\n fld %%st(0)\n frndint\n fxch\n fldcw %5"
                         : "=t"(x87), "=u"(*(long double[1]){ 0 })
                         : "m"(control), "m"(third), "m"(tenth), "m"(control_default));
        __asm__ volatile("fldcw %2\n fldl %1\n fldl %3\n fdivrp\n fistpll %0\n fldcw %4"
                         : "=m"(stored) : "m"(tenth), "m"(control), "m"(third), "m"(control_default));
        puts_("round-"), puts_(names[mode]), put(' '), put_hex(bits_of_double(sse), 16), put(' ');
        put_hex((u32)converted, 8), put(' '), put_hex((u64)stored, 16), put('\n');
        line_long_double("  x87", x87);
    }
}

static void x87(void)
{
    long double sum = 0, product = 1, harmonic = 0;
    for (int i = 1; i <= 20000; i++) {
        harmonic += 1.0L / i;
        product = product * (1.0L + 1.0L / ((long double)i * i));
        sum += __builtin_sqrtl((long double)i) * (i & 1 ? 1 : -1);
    }
    line_long_double("x87-harmonic", harmonic);
    line_long_double("x87-product", product);
    line_long_double("x87-roots", sum);

    /* fprem, fscale, fxtract and packed decimal are exact. */
    long double remainder, scaled, exponent, significand;
    u8 decimal[10];
    __asm__("fprem" : "=t"(remainder) : "0"(1e18L), "u"(12345.678L));
    __asm__("fscale" : "=t"(scaled) : "0"(1.25L), "u"(-70.0L));
    __asm__("fxtract" : "=t"(significand), "=u"(exponent) : "0"(-98765.4321L));
    __asm__ volatile("fbstp %0" : "=m"(decimal) : "t"(-123456789012345678.0L) : "st");
    line_long_double("x87-fprem", remainder);
    line_long_double("x87-fscale", scaled);
    line_long_double("x87-significand", significand);
    line_long_double("x87-exponent", exponent);
    puts_("x87-fbstp ");
    for (int i = 9; i >= 0; i--)
        put_hex(decimal[i], 2);
    put('\n');

    long double sine, cosine, tangent, one, arc, logarithm, power;
    __asm__("fsincos" : "=t"(cosine), "=u"(sine) : "0"(0.7L));
    __asm__("fptan" : "=t"(one), "=u"(tangent) : "0"(0.6L));
    __asm__("fpatan" : "=t"(arc) : "0"(2.0L), "u"(3.0L) : "st(1)");
    __asm__("fyl2x" : "=t"(logarithm) : "0"(10.0L), "u"(3.0L) : "st(1)");
    __asm__("f2xm1" : "=t"(power) : "0"(0.3L));
    line_coarse("x87-sin", sine), line_coarse("x87-cos", cosine), line_coarse("x87-tan", tangent / one);
    line_coarse("x87-atan", arc), line_coarse("x87-log", logarithm), line_coarse("x87-2xm1", power);
}

static void mmx(void)
{
    u64 a = 0x0123456789abcdefull, b = 0xfedcba9876543210ull, result;
    for (int i = 0; i < 1000; i++) {
        __asm__ volatile("movq %1, %%mm0\n movq %2, %%mm1\n paddusb %%mm1, %%mm0\n pmullw %%mm0, %%mm1\n"
                         "psrlq $7, %%mm0\n pxor %%mm1, %%mm0\n punpcklbw %%mm1, %%mm0\n movq %%mm0, %0\n emms"
                         : "=m"(result) : "m"(a), "m"(b) : "mm0", "mm1");
        b = a, a = result ^ (u64)i;
    }
    puts_("mmx "), put_hex(a, 16), put('\n');
}

static void generate(u32 bytes)
{
    /* Half of the lines repeat the line before, so that a compressor has something to find. */
    char line[64];
    for (u32 written = 0; written < bytes; written += 64) {
        if ((written / 64) % 2 == 0)
            for (u32 i = 0; i < 63; i += 7) {
                u64 r = random64();
                for (u32 j = 0; j < 7; j++, r >>= 8)
                    line[i + j] = (char)('!' + (r & 63));
            }
        line[63] = '\n';
        put_block(line, bytes - written < 64 ? bytes - written : 64);
    }
}

static int storm(u32 count)
{
    u32 sum = 0;
    for (u32 i = 0; i < count; i++) {
        int ends[2];
        u8 byte = 0;
        if (syscall4(SYS_pipe, (long)ends, 0, 0, 0) != 0)
            return 1;
        long child = syscall4(SYS_fork, 0, 0, 0, 0);
        if (child == 0) {
            byte = (u8)(i * 7 + 1);
            syscall4(SYS_write, ends[1], (long)&byte, 1, 0);
            syscall4(SYS_exit, i & 0x7f, 0, 0, 0);
        }
        int status = 0;
        if (child < 0 || syscall4(SYS_read, ends[0], (long)&byte, 1, 0) != 1 ||
            syscall4(SYS_wait4, child, (long)&status, 0, 0) != child)
            return 1;
        sum = sum * 33 + byte + (u32)status;
        for (int end = 0; end < 2; end++)
#ifdef __x86_64__
            syscall4(3 /* close */, ends[end], 0, 0, 0);
#else
            syscall4(6 /* close */, ends[end], 0, 0, 0);
#endif
    }
    puts_("storm "), put_decimal(count), put(' '), put_hex(sum, 8), put('\n');
    return 0;
}

static u32 number(const char *s)
{
    u32 value = 0;
    while (s && *s >= '0' && *s <= '9')
        value = value * 10 + (u32)(*s++ - '0');
    return value;
}

__attribute__((used, noreturn)) void start(long *stack)
{
    char **arguments = (char **)(stack + 1);
    const char *verb = stack[0] > 1 ? arguments[1] : "";
    int status = 0;
    if (verb[0] == 'f')
        orbits(), mandelbrot(), packed(), rounding(), x87(), mmx();
    else if (verb[0] == 'g' && stack[0] > 2)
        generate(number(arguments[2]));
    else if (verb[0] == 's' && stack[0] > 2)
        status = storm(number(arguments[2]));
    else
        puts_("usage: calc fp | gen BYTES | storm N\n"), status = 2;
    flush();
    for (;;)
        syscall4(SYS_exit, status, 0, 0, 0);
}

#ifdef __x86_64__
__asm__(".globl _start\n_start:\n xor %ebp, %ebp\n mov %rsp, %rdi\n and $-16, %rsp\n call start\n");
#else
__asm__(".globl _start\n_start:\n xor %ebp, %ebp\n mov %esp, %eax\n and $-16, %esp\n sub $12, %esp\n push %eax\n call start\n");
#endif
