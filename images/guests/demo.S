/*
 * demo: a guest with a bug. It counts primes while the timer interrupt draws a progress bar, then it
 * crashes in a place that is not the place of the mistake: the division at `report` finds a zero that
 * somebody stored before. Replay it, go to the crash, and run backwards to the store.
 */
#include "common.h"

#define HZ      1000
#define CELLS   48
#define LIMIT   500000

main:
        gate    0, divide_error
        gate    0x20, tick
        print   "demo: counting primes; the bar is drawn by the timer interrupt\n"
        mov     eax, 0xfffe
        call    pic_init
        mov     eax, PIT_HZ / HZ
        call    pit_init
        sti

        /* Sieves again and again until the bar is full. */
1:      call    sieve
        inc     dword ptr [rounds]
        cmp     dword ptr [ticks], CELLS
        jb      1b
        cli

report:
        print   "\ndemo: primes below 500000: "
        mov     eax, [primes]
        call    put_decimal
        print   "\ndemo: average gap between them: "
        mov     eax, LIMIT
        xor     edx, edx
        div     dword ptr [divisor]     /* the crash */
        call    put_decimal
        print   "\n"
        leave_with EXIT_OK

/* Sieve of Eratosthenes, a byte a number; the count goes to [primes]. */
sieve:
        mov     edi, offset composite
        xor     eax, eax
        mov     ecx, LIMIT / 4
        rep stosd
        xor     ebx, ebx
        mov     ecx, 2
1:      cmp     byte ptr [composite + ecx], 0
        jne     3f
        inc     ebx
        mov     eax, ecx
        mul     ecx
        test    edx, edx
        jnz     3f
2:      cmp     eax, LIMIT
        jae     3f
        mov     byte ptr [composite + eax], 1
        add     eax, ecx
        jmp     2b
3:      inc     ecx
        cmp     ecx, LIMIT
        jb      1b
        mov     [primes], ebx
        ret

/* One more cell. The mistake: the end mark of a full bar falls behind the bar, on the divisor. */
tick:
        push    eax
        push    esi
        mov     eax, [ticks]
        cmp     eax, CELLS
        jae     1f
        mov     byte ptr [bar + eax], '#'
        inc     eax
        mov     byte ptr [bar + eax], 0
        mov     [ticks], eax
        print   "\r["
        mov     esi, offset bar
        call    put_string
        print   "] "
        mov     eax, [primes]
        call    put_decimal
1:      mov     al, 0x20
        out     PIC1, al
        pop     esi
        pop     eax
        iretd

divide_error:
        pushad
        print   "\nPANIC: divide error at eip "
        mov     eax, [esp + 32]
        call    put_hex
        print   " eflags "
        mov     eax, [esp + 40]
        call    put_hex
        .macro  show name, offset
        print   "\name"
        mov     eax, [esp + \offset]
        call    put_hex
        .endm
        show    "\n  eax ", 28
        show    " ebx ", 16
        show    " ecx ", 24
        show    " edx ", 20
        show    "\n  esi ", 4
        show    " edi ", 0
        show    " ebp ", 8
        show    " esp ", 12
        print   "\n"
        leave_with EXIT_FAILED

        .data
        .balign 64
bar:    .skip   CELLS
divisor: .long  12                      /* its low byte is all of it: one zero byte makes it zero */

        .bss
        .balign 4096
ticks:  .skip   4
rounds: .skip   4
primes: .skip   4
composite: .skip LIMIT
