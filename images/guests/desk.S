/*
 * desk: what the keyboard (`k1c`) and the mouse (`m08050000`: a packet with its wheel) send, by interrupt, in hexadecimal.
 * Esc let go, or `q` on COM1, ends. Halted in between.
 */
#include "common.h"

#define DATA    0x60
#define STATUS  0x64

        /* The controller's command. */
        .macro  command value
        mov     al, \value
        out     STATUS, al
        .endm

        /* A byte for the mouse, which acknowledges it. */
        .macro  mouse value
        command 0xd4
        mov     al, \value
        out     DATA, al
        call    next
        cmp     al, 0xfa
        jne     wrong
        .endm

main:
        gate    0x21, key
        gate    0x24, received
        gate    0x2c, moved
        mov     eax, 0xefe9             /* IRQs 1, 2 (the second controller), 4, 12 */
        call    pic_init
        com1_interrupts
1:      in      al, STATUS              /* what firmware left */
        test    al, 1
        jz      2f
        in      al, DATA
        jmp     1b
2:      command 0xa8                    /* the mouse's port is on */
        command 0x20
        call    next
        and     al, 0xcc                /* neither port is off, no interrupts yet */
        or      al, 0x40                /* scan code set 1 */
        mov     bl, al
        command 0x60
        mov     al, bl
        out     DATA, al
        mouse   0xf6                    /* as it is by default */
        mouse   0xf3                    /* sample rates 200, 100, 80: it tells of its wheel from now on */
        mouse   200
        mouse   0xf3
        mouse   100
        mouse   0xf3
        mouse   80
        mouse   0xf2                    /* who it is */
        call    next
        mov     cl, al
        mouse   0xf4                    /* it reports */
        or      bl, 3                   /* both interrupts */
        command 0x60
        mov     al, bl
        out     DATA, al
        print   "desk ready, mouse "
        mov     al, cl
        call    put_byte
        print   "\n"
        xor     ebx, ebx                /* taken so far */
        xor     ecx, ecx                /* bytes of a packet */
1:      halt_while_ebx_is stored
        movzx   eax, bl
        mov     ax, [ring + 2 * eax]
        inc     ebx
        cmp     ah, 's'
        jne     3f
        cmp     al, 'q'
        je      end
        jmp     1b
3:      cmp     ah, 'm'
        jne     4f
        test    ecx, ecx
        jnz     5f
        xchg    al, ah
        call    put_char
        xchg    al, ah
5:      call    put_byte
        inc     ecx
        and     ecx, 3
        jnz     1b
        print   "\n"
        jmp     1b
4:      xchg    al, ah
        call    put_char
        xchg    al, ah
        call    put_byte
        print   "\n"
        cmp     al, 0x81                /* Esc goes up */
        jne     1b
end:    print   "desk done\n"
        leave_with EXIT_OK
wrong:  print   "the mouse does not acknowledge\n"
        leave_with EXIT_FAILED

/* The controller's next byte, in AL. */
next:   in      al, STATUS
        test    al, 1
        jz      next
        in      al, DATA
        ret

/* AL as two hexadecimal digits. Keeps all registers. */
put_byte:
        push    eax
        mov     ah, al
        shr     al, 4
        call    1f
        mov     al, ah
        and     al, 15
        call    1f
        pop     eax
        ret
1:      cmp     al, 10
        jb      2f
        add     al, 'a' - '0' - 10
2:      add     al, '0'
        jmp     put_char

/* Stores AX. */
store:  push    ebx
        movzx   ebx, byte ptr [stored]
        mov     [ring + 2 * ebx], ax
        inc     dword ptr [stored]
        pop     ebx
        ret

/* An edge that a controller remembers may tell of a byte that was read since: so both look first. */
key:    push    eax
        in      al, STATUS
        test    al, 1
        jz      1f
        in      al, DATA
        mov     ah, 'k'
        call    store
1:      mov     al, 0x20
        out     PIC1, al
        pop     eax
        iretd

moved:  push    eax
        in      al, STATUS
        test    al, 1
        jz      1f
        in      al, DATA
        mov     ah, 'm'
        call    store
1:      mov     al, 0x20
        out     PIC2, al
        out     PIC1, al
        pop     eax
        iretd

received:
        push    eax
        push    edx
1:      mov     dx, COM1 + 5
        in      al, dx
        test    al, 1                   /* data ready */
        jz      2f
        mov     dx, COM1
        in      al, dx
        mov     ah, 's'
        call    store
        jmp     1b
2:      mov     al, 0x20
        out     PIC1, al
        pop     edx
        pop     eax
        iretd

        .bss
        .balign 4
stored: .skip   4
ring:   .skip   512
