/*
 * shadow: an interrupt waits while STI executes, and enters behind the next instruction, not before it (SDM vol. 2B, STI), also where that is
 * the first to reach a page, so that a host may have to give the guest one halfway. The handler looks at where it returns to. Prints one line.
 */
#include "common.h"

#define PAGES           16      /* that are written first, and as many that are read first */
#define TICKS           20      /* of the 8254, until the interrupt waits */
#define READ_REQUESTS   0x0a    /* OCW3: the next read is of the request register */

        .macro  let_one_wait
        mov     al, 0x30                /* channel 0, mode 0: one interrupt */
        out     0x43, al
        mov     al, TICKS
        out     0x40, al
        xor     eax, eax
        out     0x40, al
        mov     al, READ_REQUESTS
        out     PIC1, al
772:    in      al, PIC1
        test    al, 1
        jz      772b
        .endm

main:
        gate    0x20, tick
        mov     eax, 0xfffe             /* IRQ 0 alone */
        call    pic_init

        mov     ecx, PAGES
        mov     esi, offset pages
        mov     dword ptr [behind], offset 2f
1:      let_one_wait
        sti
        inc     dword ptr [esi]
2:      nop
        cli
        add     esi, 4096
        loop    1b

        mov     ecx, PAGES
        mov     dword ptr [behind], offset 4f
3:      let_one_wait
        sti
        mov     eax, [esi]
4:      nop
        cli
        add     esi, 4096
        loop    3b

        /* From one STI behind another. A KVM whose processor loses the shadow cannot tell them apart, and lets it in one instruction later. */
        let_one_wait
        mov     dword ptr [behind], offset 6f
        jmp     5f
        sti
6:      nop
7:      nop
        cli
        jmp     8f
5:      sti
        jmp     6b
8:      mov     eax, [landed]
        cmp     eax, offset 6b
        je      8f
        cmp     eax, offset 7b
        jne     9f
        inc     dword ptr [held]
8:
        print   "shadow: "
        mov     eax, [held]
        call    put_decimal
        print   " held off, "
        mov     eax, [count]
        sub     eax, [held]
        call    put_decimal
        print   " elsewhere\n"
        cmp     dword ptr [held], 2 * PAGES + 1
        jne     9f
        leave_with EXIT_OK
9:      leave_with EXIT_FAILED

tick:
        push    eax
        inc     dword ptr [count]
        mov     eax, [esp + 4]          /* where it returns to */
        mov     [landed], eax
        cmp     eax, [behind]
        jne     1f
        inc     dword ptr [held]
1:      mov     al, 0x20
        out     PIC1, al
        pop     eax
        iretd

        .bss
        .balign 4096
pages:  .skip   4096 * 2 * PAGES
behind: .skip   4
count:  .skip   4
held:   .skip   4
landed: .skip   4
