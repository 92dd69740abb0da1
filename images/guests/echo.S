/* echo: what COM1 receives, by interrupt, comes back in upper case; 'q' ends. Halted in between. */
#include "common.h"

main:
        gate    0x24, received
        mov     eax, 0xffef             /* IRQ 4 alone */
        call    pic_init
        mov     dx, COM1 + 4
        mov     al, 0x0b                /* DTR, RTS, OUT2: on a PC OUT2 gates the interrupt line */
        out     dx, al
        mov     dx, COM1 + 1
        mov     al, 1                   /* received data available */
        out     dx, al
        print   "echo ready\n"
        xor     ebx, ebx                /* taken so far */
1:      cli
        cmp     ebx, [stored]
        jne     2f
        sti                             /* the instruction after STI is never interrupted before it */
        hlt
        jmp     1b
2:      sti
        movzx   eax, bl
        mov     al, [ring + eax]
        inc     ebx
        cmp     al, 'q'
        je      3f
        cmp     al, 'a'
        jb      4f
        cmp     al, 'z'
        ja      4f
        sub     al, 'a' - 'A'
4:      call    put_char
        jmp     1b
3:      cli
        print   "\necho done "
        mov     eax, ebx
        call    put_decimal
        print   "\n"
        leave_with EXIT_OK

received:
        push    eax
        push    ebx
        push    edx
1:      mov     dx, COM1 + 5
        in      al, dx
        test    al, 1                   /* data ready */
        jz      2f
        mov     dx, COM1
        in      al, dx
        movzx   ebx, byte ptr [stored]
        mov     [ring + ebx], al
        inc     dword ptr [stored]
        jmp     1b
2:      mov     al, 0x20
        out     PIC1, al
        pop     edx
        pop     ebx
        pop     eax
        iretd

        .bss
        .balign 4
stored: .skip   4
ring:   .skip   256
