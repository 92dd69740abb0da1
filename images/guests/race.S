/*
 * race: a program with a bug. Two processors work in step, round after round; at the end of each both add 1 to an account, and
 * forgot to lock it. Who adds while the other is between its load and its store is lost: the account is short at the end. How long
 * it waits before it begins follows from the real-time clock. With one processor alone there is nothing to see.
 */
#include "common.h"

#define LAPIC           0xfee00000
#define ICR             (LAPIC + 0x300)
#define ICR_INIT        0x0c4500        /* to all but oneself */
#define ICR_STARTUP     0x0c4600
#define TRAMPOLINE      0x70000
#define ROUNDS          100
#define PATIENCE        2000000

        .bss
        .balign 64
started:        .skip   64
arrived:        .skip   64
account:        .skip   64
finished:       .skip   64
        .skip   4096
other_stack:

        .text
main:
        mov     esi, offset trampoline
        mov     edi, TRAMPOLINE
        mov     ecx, offset trampoline_end - trampoline
        rep movsb
        mov     dword ptr [ICR], ICR_INIT
        mov     dword ptr [ICR], ICR_STARTUP + (TRAMPOLINE >> 12)
        mov     ecx, PATIENCE
1:      pause
        cmp     dword ptr [started], 0
        jne     2f
        loop    1b
        print   "alone\n"
        leave_with EXIT_OK
2:      mov     al, 0                   /* seconds */
        out     0x70, al
        in      al, 0x71
        movzx   ebx, al
        mov     al, 2                   /* minutes */
        out     0x70, al
        in      al, 0x71
        movzx   eax, al
        shl     eax, 8
        or      eax, ebx
        imul    ecx, eax, 13
        inc     ecx
3:      loop    3b
        call    work
4:      pause
        cmp     dword ptr [finished], 0
        je      4b
        cmp     dword ptr [account], 2 * ROUNDS
        jne     5f
        print   "account ok\n"
        leave_with EXIT_OK
5:      print   "account is short\n"
        leave_with EXIT_FAILED

/* All rounds of one processor. */
work:   xor     esi, esi
1:      add     esi, 2
        lock inc dword ptr [arrived]
2:      pause
        cmp     [arrived], esi
        jb      2b
        mov     ecx, 100
        mov     eax, esi
3:      imul    eax, eax, 1103515245
        add     eax, 12345
        loop    3b
        mov     edx, [account]
        inc     edx
        mov     [account], edx
        cmp     esi, 2 * ROUNDS
        jb      1b
        ret

other32:
        mov     eax, DATA32
        mov     ds, eax
        mov     ss, eax
        mov     eax, 1
        lock xadd [started], eax
        test    eax, eax
        jnz     1f                      /* two are enough */
        mov     esp, offset other_stack
        call    work
        mov     dword ptr [finished], 1
1:      cli
        hlt
        jmp     1b

        trampoline_to other32
