/* spin: pure computing, about 96 million instructions in registers; prints a checksum. */
#include "common.h"

#define ROUNDS  8000000

main:
        mov     eax, 0x12345678
        xor     ebx, ebx
        mov     ecx, ROUNDS
1:      xorshift32
        lea     ebx, [ebx + ebx * 2]
        add     ebx, eax
        dec     ecx
        jnz     1b
        print   "spin checksum "
        call    put_hex
        mov     eax, ebx
        call    put_hex
        print   "\n"
        leave_with EXIT_OK
