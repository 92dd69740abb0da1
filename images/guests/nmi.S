/*
 * nmi: non-maskable interrupts (SDM vol. 3A, 7.7 and 11.6): the processor sends them to itself by its local APIC, one of them while the
 * handler of another runs, where it waits for the IRET; and the I/O APIC makes them of the 8254's ticks, as a watchdog does, which wake
 * the processor from HLT and come into a loop that never leaves it, both with interrupts off. Prints a line for each case; where in the
 * loop they came is in memory.
 */
#include "common.h"

#define LAPIC           0xfee00000
#define L_ID            0x020
#define L_SVR           0x0f0
#define L_ICR           0x300
#define L_ICR_HIGH      0x310
#define IOAPIC          0xfec00000      /* a register is chosen, and is at 10H then */
#define IOAPIC_DATA     0xfec00010
#define TICKS_LOW       0x14            /* input 2: the 8254 */
#define TICKS_HIGH      0x15
#define DELIVER_NMI     0x400
#define MASKED          0x10000
#define ICR_ASSERT      0x4000

#define SENT            5
#define WOKEN           3
#define TICKS           5
#define HZ              200

/* To oneself, by one's id: the short way is for fixed interrupts alone. */
        .macro  send_nmi
        mov     eax, [LAPIC + L_ID]
        mov     [LAPIC + L_ICR_HIGH], eax
        mov     dword ptr [LAPIC + L_ICR], ICR_ASSERT + DELIVER_NMI
        .endm

        .macro  ticks_are bits
        mov     dword ptr [IOAPIC], TICKS_LOW
        mov     dword ptr [IOAPIC_DATA], \bits
        .endm

main:
        gate    2, on_nmi
        mov     ax, 0xffff              /* nothing by the 8259s */
        call    pic_init
        mov     dword ptr [LAPIC + L_SVR], 0x1ff

        mov     ecx, SENT
1:      mov     ebx, [count]
        send_nmi
2:      cmp     ebx, [count]
        je      2b
        loop    1b
        print   "nmi sent "
        call    tell

        /* The handler sends the second, and must end before it comes. */
        mov     dword ptr [nests], 1
        send_nmi
3:      cmp     dword ptr [count], 2
        jb      3b
        print   "nmi blocked until the first has returned "
        mov     eax, [deepest]
        call    put_decimal
        print   ", "
        call    tell

        mov     dword ptr [IOAPIC], TICKS_HIGH
        mov     eax, [LAPIC + L_ID]
        mov     [IOAPIC_DATA], eax
        mov     eax, PIT_HZ / HZ
        call    pit_init
        ticks_are DELIVER_NMI
        mov     ecx, WOKEN
4:      hlt
        loop    4b
        ticks_are MASKED
        print   "nmi wakes "
        mov     eax, [count]
        cmp     eax, WOKEN
        jb      9f
        mov     dword ptr [count], 0
        print   "ok\n"

        /* A loop whose state never comes again. */
        ticks_are DELIVER_NMI
        xor     ebx, ebx
5:      inc     dword ptr [spun]
        lea     ebx, [ebx + ebx * 2 + 1]
        xor     ebx, [spun]
        cmp     dword ptr [count], TICKS
        jb      5b
        ticks_are MASKED
        print   "nmi ticks "
        call    tell
        leave_with EXIT_OK
9:      print   "lost\n"
        leave_with EXIT_FAILED

/* How many came; none now. */
tell:   mov     eax, [count]
        call    put_decimal
        print   "\n"
        mov     dword ptr [count], 0
        ret

on_nmi: push    eax
        inc     dword ptr [depth]
        mov     eax, [depth]
        cmp     eax, [deepest]
        jbe     1f
        mov     [deepest], eax
1:      cmp     dword ptr [nests], 0
        je      2f
        mov     dword ptr [nests], 0
        send_nmi
        mov     eax, [LAPIC + L_ID]     /* time for it to come */
2:      mov     eax, [count]
        inc     dword ptr [count]
        cmp     eax, TICKS
        jae     3f
        push    ebx
        xor     ebx, [spun]
        mov     [trail + eax * 4], ebx
        pop     ebx
3:      dec     dword ptr [depth]
        pop     eax
        iretd

        .bss
        .balign 4
count:  .skip   4
depth:  .skip   4
deepest:
        .skip   4
nests:  .skip   4
spun:   .skip   4
trail:  .skip   4 * TICKS
