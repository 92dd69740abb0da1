/*
 * smc: code that changes code. Each case computes a number that is right only if the change was seen at
 * once, without any serializing instruction (Intel SDM vol. 3, 9.1.3: a processor of today sees its own
 * stores to the same linear address). Prints "smc ok N", or which case failed with what.
 */
#include "common.h"

/* check N, VALUE: EAX must be VALUE. */
        .macro  check case, value
        mov     ebx, \case
        mov     edx, \value
        call    verify
        .endm

main:
        /* 1: the immediate of the very next instruction. */
        mov     dword ptr [1f + 1], 0x11111111
1:      mov     eax, 0x22222222
        check   1, 0x11111111

        /* 2: an instruction ahead in the same straight line, its opcode this time (inc -> dec eax). */
        mov     eax, 100
        mov     byte ptr [2f], 0x48
        nop
        nop
2:      inc     eax
        check   2, 99

        /* 3: a loop that rewrites its own immediate on every turn: 0 + 1 + ... + 999. */
        xor     eax, eax
        xor     ecx, ecx
3:      mov     dword ptr [4f + 1], ecx
4:      add     eax, 0x7fffffff
        inc     ecx
        cmp     ecx, 1000
        jb      3b
        check   3, 499500

        /* 4: an instruction across a page boundary, changed in its second page only. */
        call    straddle
        check   4, 0x00000005
        mov     byte ptr [straddle_immediate + 3], 0x80
        call    straddle
        check   5, 0x80000005

        /* 6: the same, changed in its first page only. */
        mov     byte ptr [straddle_immediate], 0x07
        call    straddle
        check   6, 0x80000007

        /* 7: REP STOSB over code just ahead: five nops replace "mov eax, imm32". */
        mov     edi, offset 7f
        mov     ecx, 5
        mov     eax, 0x90
        rep stosb
7:      mov     eax, 0x33333333
        check   7, 0x90

        /* 8: code copied into a data page, run, patched, run again; 500 times. */
        mov     esi, offset template
        mov     edi, offset buffer
        mov     ecx, offset template_end - template
        rep movsb
        xor     ebp, ebp
        mov     ecx, 500
8:      mov     dword ptr [buffer + 1], ecx
        mov     edx, offset buffer
        call    edx
        add     ebp, eax
        loop    8b
        mov     eax, ebp
        check   8, 125750               /* sum of (n + 1), n = 1..500 */

        /* 9: a call target whose first byte becomes RET while the caller loops. */
        xor     eax, eax
        mov     ecx, 10
9:      call    target
        cmp     ecx, 6
        jne     10f
        mov     byte ptr [target], 0xc3
10:     loop    9b
        check   9, 5

        /* 10: a store that is only partly in code: eight bytes, the last one is the opcode ahead. */
        mov     eax, 7
        mov     dword ptr [11f - 3], 0x48909090
        nop
        nop
        nop
        nop
11:     inc     eax
        check   10, 6

        print   "smc ok "
        mov     eax, [passed]
        call    put_decimal
        print   "\n"
        leave_with EXIT_OK

verify:
        cmp     eax, edx
        jne     1f
        inc     dword ptr [passed]
        ret
1:      print   "smc case "
        xchg    eax, ebx
        call    put_decimal
        print   " gave "
        mov     eax, ebx
        call    put_hex
        print   " not "
        mov     eax, edx
        call    put_hex
        print   "\n"
        leave_with EXIT_FAILED

target:
        inc     eax
        ret

template:
        mov     eax, 0
        inc     eax
        ret
template_end:

        .balign 4096
        .skip   4096 - 3                /* opcode and two bytes of the immediate end the page */
straddle:
        mov     eax, 5
        straddle_immediate = straddle + 1
        ret

        .data
        .balign 4096
buffer: .skip   4096
passed: .long   0
