/* timer: 100 ticks of the 8254 through the 8259, halted in between; prints the count and TSC cycles. */
#include "common.h"

#define TICKS   100
#define HZ      100

main:
        gate    0x20, tick
        mov     eax, 0xfffe             /* IRQ 0 alone */
        call    pic_init
        mov     eax, PIT_HZ / HZ
        call    pit_init
        rdtsc
        mov     edi, eax
        mov     ebp, edx
        sti
1:      hlt
        inc     dword ptr [wakeups]
        cmp     dword ptr [count], TICKS
        jb      1b
        cli
        rdtsc
        sub     eax, edi
        sbb     edx, ebp
        mov     ebx, eax
        print   "timer ticks "
        mov     eax, [count]
        call    put_decimal
        print   " wakeups "
        mov     eax, [wakeups]
        call    put_decimal
        print   " tsc "
        mov     eax, edx
        call    put_hex
        mov     eax, ebx
        call    put_hex
        print   "\n"
        leave_with EXIT_OK

tick:
        push    eax
        inc     dword ptr [count]
        mov     al, 0x20
        out     PIC1, al
        pop     eax
        iretd

        .bss
        .balign 4
count:   .skip  4
wakeups: .skip  4
