/* echo: what COM1 receives, by interrupt, comes back in upper case; 'q' ends. Halted in between. */
#include "common.h"

main:
        gate    0x24, received
        mov     eax, 0xffef             /* IRQ 4 alone */
        call    pic_init
        com1_interrupts
        print   "echo ready\n"
        xor     ebx, ebx                /* taken so far */
1:      halt_while_ebx_is stored
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
