/*
 * counter: counts in memory and never leaves the processor, but for five ticks of the 8254; prints what each tick found.
 * So what it prints says at which instants they came.
 */
#include "common.h"

#define TICKS   5
#define HZ      200

main:
        gate    0x20, tick
        mov     eax, 0xfffe             /* IRQ 0 alone */
        call    pic_init
        mov     eax, PIT_HZ / HZ
        call    pit_init
        xor     ebx, ebx
        mov     edi, offset trail
        sti
1:      inc     dword ptr [count]       /* a loop whose state never comes again */
        adc     dword ptr [count + 4], 0
        lea     ebx, [ebx + ebx * 2 + 1]
        xor     ebx, [count]
        mov     [mixed], ebx
        cmp     edi, offset trail_end
        jb      1b
        cli
        print   "counter ticks at"
        mov     esi, offset trail
2:      mov     al, ' '
        call    put_char
        mov     eax, [esi]
        call    put_hex
        add     esi, 4
        cmp     esi, offset trail_end
        jb      2b
        print   "\n"
        leave_with EXIT_OK

tick:
        push    eax
        mov     eax, [count]
        xor     eax, ebx
        mov     [edi], eax
        add     edi, 4
        mov     al, 0x20
        out     PIC1, al
        pop     eax
        iretd

        .bss
        .balign 8
count:  .skip   8
mixed:  .skip   4
        .balign 4
trail:  .skip   4 * TICKS
trail_end:
