/*
 * Writes the C source of a program with much code: five layers of 700 functions that branch, loop a little
 * and call functions of the next layer. About 37 000 basic blocks, 700 KB of machine code; no loop is hot.
 * The same source each time.
 *
 *   large ROUNDS: calls that many functions of the first layer at random, and prints what they computed.
 */
#include <stdint.h>
#include <stdio.h>

enum { LAYERS = 5, FUNCTIONS = 700 };

static uint64_t random_state = 88172645463325252u;

/* From low to high, both included. */
static unsigned between(unsigned low, unsigned high)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return low + (unsigned)(random_state >> 33) % (high - low + 1);
}

static void statement(void)
{
    switch (between(0, 8)) {
    case 0:
        printf("s->x[%u] += b ^ %u;\n", between(0, 11), between(0, 999));
        break;
    case 1: {
        static const unsigned masks[] = {1, 3, 7};
        printf("if ((b & %u) == %u) { s->count++; a += s->y[%u]; } else { b ^= a >> %u; }\n", masks[between(0, 2)],
               between(0, 1), between(0, 11), between(1, 29));
        break;
    }
    case 2:
        printf("if (s->z[%u] > %u) s->y[%u] = (u32)(b + %u);\n", between(0, 15), between(0, 199), between(0, 11),
               between(0, 98));
        break;
    case 3:
        printf("a = (a << %u) + b; s->z[%u] = (u8)a;\n", between(1, 4), between(0, 15));
        break;
    case 4:
        printf("for (int i = 0; i < %u; i++) b += s->y[i] * %u;\n", between(2, 4), between(3, 8));
        break;
    case 5:
        printf("{ struct state *q = s->next; b += q->x[%u]; if (!q->count) return b; }\n", between(0, 11));
        break;
    case 6:
        printf("switch (b & 7) { case 0: a += 3; break; case 1: a ^= b; break; case 2: s->x[1] = a; break; "
               "case 5: b -= a; break; default: b += %u; }\n",
               between(0, 49));
        break;
    case 7:
        printf("s->y[%u] ^= (u32)a; b = b * %u + s->y[%u];\n", between(0, 11), between(3, 76), between(0, 11));
        break;
    default:
        printf("if (a == b || s->x[%u] == %u) return a;\n", between(0, 11), between(0, 49));
        break;
    }
}

static void function(unsigned layer, unsigned index)
{
    unsigned statements = between(4, 8);
    unsigned calls = layer + 1 < LAYERS ? between(1, 3) : 0;
    printf("static NOINLINE u64 f%u_%u(struct state *s, u64 a)\n{\nu64 b = s->x[%u] + a;\n", layer, index,
           between(0, 11));
    for (unsigned i = 0; i < statements; i++) {
        statement();
        /* Spread over the function; what is left after its last statement never is. */
        if (calls && between(0, statements - 1 - i) < calls) {
            printf("b += f%u_%u(s%s, b + %u);\n", layer + 1, between(0, FUNCTIONS - 1), between(0, 1) ? "->next" : "",
                   between(0, 8));
            calls--;
        }
    }
    printf("s->x[0] ^= b;\nreturn a + b;\n}\n");
}

int main(void)
{
    printf("#include \"bare.h\"\n"
           "struct state { u64 x[12]; u32 y[12]; u8 z[16]; struct state *next; u64 count; };\n"
           "static struct state states[2048];\n");
    for (unsigned layer = LAYERS; layer-- > 0;)
        for (unsigned index = 0; index < FUNCTIONS; index++)
            function(layer, index);
    printf("static u64 (*const first[])(struct state *, u64) = {\n");
    for (unsigned index = 0; index < FUNCTIONS; index++)
        printf("f0_%u,\n", index);
    printf("};\n"
           "int run(int count, char **words)\n{\n"
           "u64 random = 88172645463325252, sum = 0;\n"
           "if (count != 2) return 2;\n"
           "for (u64 i = 0; i < 2048; i++) {\n"
           "struct state *s = &states[i];\n"
           "for (u64 j = 0; j < 12; j++) { s->x[j] = i * j; s->y[j] = (u32)(i + j); }\n"
           "for (u64 j = 0; j < 16; j++) s->z[j] = (u8)(i * j);\n"
           "s->next = &states[(i * 7 + 1) %% 2048];\n"
           "s->count = 1;\n"
           "}\n"
           "for (u64 rounds = number(words[1]); rounds; rounds--) {\n"
           "next_random(&random);\n"
           "sum += first[(u32)random %% %u](&states[random >> 40 & 2047], sum & 255);\n"
           "}\n"
           "tell(sum);\n"
           "return 0;\n"
           "}\n",
           FUNCTIONS);
    return ferror(stdout) || fflush(stdout) ? 1 : 0;
}
