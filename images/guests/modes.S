/*
 * modes: real mode and virtual-8086 mode, each entered from protected mode and left again. Real mode:
 * segment arithmetic, the A20 gate, an interrupt through the vector table at 0, 32-bit operands in
 * 16-bit code, decimal adjustment. Virtual-8086: INT n and HLT arrive at the monitor as #GP (IOPL 0),
 * one port is open in the I/O permission bitmap. Prints one line for each.
 */
#include "common.h"

#define LOW             0x8000          /* where the 16-bit code runs; its segment is LOW / 16 */
#define RESULTS         0x7000
#define TSS_SELECTOR    0x30

/* Offset of a 16-bit label in its segment. */
#define at(label)       (label - low_code)

main:
        mov     esi, offset low_code
        mov     edi, LOW
        mov     ecx, offset low_code_end - low_code
        rep movsb
        mov     edi, RESULTS
        mov     ecx, 64
        xor     eax, eax
        rep stosb
        /* Vector 0x60 of the real-mode table, which the PVH loader left unused. */
        mov     dword ptr [0x60 * 4], ((LOW / 16) << 16)
        mov     word ptr [0x60 * 4], offset at(real_interrupt)

        lidt    [real_idtr]
        ljmp    CODE16, LOW + at(enter_real)
back:
        mov     eax, DATA32
        mov     ds, eax
        mov     es, eax
        mov     ss, eax
        mov     esp, offset stack_top
        lidt    [idtr]
        print   "modes real segment "
        mov     eax, [RESULTS]
        call    put_hex
        print   " a20 on "
        mov     eax, [RESULTS + 4]
        call    put_hex
        print   " off "
        mov     eax, [RESULTS + 8]
        call    put_hex
        print   " int "
        mov     eax, [RESULTS + 12]
        call    put_hex
        print   " wide "
        mov     eax, [RESULTS + 16]
        call    put_hex
        print   " decimal "
        mov     eax, [RESULTS + 20]
        call    put_hex
        print   "\n"

        gate    13, monitor
        mov     eax, offset tss
        mov     word ptr [tss_descriptor + 2], ax
        shr     eax, 16
        mov     byte ptr [tss_descriptor + 4], al
        mov     byte ptr [tss_descriptor + 7], ah
        lgdt    [gdtr_with_tss]
        mov     dword ptr [tss + 4], offset stack_top
        mov     dword ptr [tss + 8], DATA32
        mov     word ptr [tss + 102], offset permissions - tss
        mov     ax, TSS_SELECTOR
        ltr     ax
        print   "modes v86 "
        /* What IRETD to virtual-8086 mode pops: GS FS DS ES SS ESP EFLAGS(VM) CS EIP. */
        push    0
        push    0
        push    LOW / 16
        push    LOW / 16
        push    LOW / 16
        push    0x1000
        push    0x00020002
        push    LOW / 16
        push    offset at(virtual)
        iretd

/* #GP from virtual-8086 mode: INT n is counted and skipped, HLT ends, anything else is a failure. */
monitor:
        cld
        push    ebp
        push    ecx
        lea     ebp, [esp + 8]          /* error code, EIP, CS, EFLAGS, ... */
        test    dword ptr [ebp + 12], 0x20000
        jz      9f
        mov     ecx, DATA32
        mov     ds, ecx                 /* the processor nulled the data segments on the way in */
        movzx   ecx, word ptr [ebp + 8]
        shl     ecx, 4
        add     ecx, [ebp + 4]
        cmp     byte ptr [ecx], 0xcd
        je      1f
        cmp     byte ptr [ecx], 0xf4
        jne     9f
        push    eax
        print   " traps "
        mov     eax, [traps]
        call    put_decimal
        print   " ax "
        pop     eax
        call    put_hex
        print   " flags "
        mov     eax, [ebp + 12]
        and     eax, 0xfffef02a         /* without RF, which faults push set (QEMU: clear), and the last computation's flags */
        call    put_hex
        print   "\n"
        leave_with EXIT_OK
1:      inc     dword ptr [traps]
        add     dword ptr [ebp + 4], 2
        pop     ecx
        pop     ebp
        add     esp, 4
        iretd
9:      print   " unexpected general protection fault\n"
        leave_with EXIT_FAILED

        /* Below: copied to LOW. Addresses are offsets in that segment. */
        .balign 16
low_code:
        .code16
enter_real:                             /* 16-bit protected mode first, then PE off */
        mov     eax, DATA16
        mov     ds, ax
        mov     es, ax
        mov     ss, ax
        mov     eax, cr0
        and     al, 0xfe
        mov     cr0, eax
        ljmp    LOW / 16, offset at(real)
real:
        xor     ax, ax
        mov     ds, ax
        mov     ss, ax
        mov     sp, 0x6ff0
        /* 1000:0010 and 1001:0000 are one byte. */
        mov     ax, 0x1000
        mov     es, ax
        mov     word ptr es:[0x10], 0xbeef
        mov     ax, 0x1001
        mov     es, ax
        mov     ax, es:[0]
        mov     ds:[RESULTS], ax
        /* FFFF:0510 is 0x100500: with A20 masked, it is 0x500. */
        mov     ax, 0xffff
        mov     es, ax
        mov     ebx, es:[0x510]         /* a byte of our own image above 1 MiB: put back below */
        mov     dword ptr ds:[0x500], 0x11111111
        mov     dword ptr es:[0x510], 0x22222222
        mov     eax, ds:[0x500]
        mov     ds:[RESULTS + 4], eax
        /* Port 0x92 and the keyboard controller's output port are joined by an OR gate. */
        in      al, 0x92
        and     al, 0xfd
        out     0x92, al
        mov     al, 0xdd
        out     0x64, al
        mov     dword ptr es:[0x510], 0x33333333
        mov     ecx, ds:[0x500]
        mov     al, 0xdf
        out     0x64, al
        in      al, 0x92
        or      al, 2
        out     0x92, al
        mov     ds:[RESULTS + 8], ecx
        mov     es:[0x510], ebx
        /* The handler gets AX, returns it changed, and sees CS:IP and FLAGS on a 16-bit stack. */
        mov     ax, 0x0102
        int     0x60
        mov     ds:[RESULTS + 12], ax
        mov     ds:[RESULTS + 14], sp
        /* 32-bit operands and addresses. */
        mov     eax, 0x00010001
        imul    eax, eax, 0x1234
        mov     ebx, 4
        lea     eax, [eax + ebx * 4 + 1]
        mov     ds:[RESULTS + 16], eax
        /* Packed and unpacked decimal. */
        mov     al, 0x38
        add     al, 0x45
        daa
        mov     ds:[RESULTS + 20], al
        mov     al, 0x21
        sub     al, 0x19
        das
        mov     ds:[RESULTS + 21], al
        mov     al, 77
        aam
        aad
        mov     ds:[RESULTS + 22], al
        mov     ax, 0x0009
        add     al, 8
        aaa
        mov     ds:[RESULTS + 23], al
        mov     eax, cr0
        or      al, 1
        mov     cr0, eax
        .byte   0x66                    /* a far jump with a 32-bit offset, out of 16-bit code */
        .byte   0xea
        .long   back
        .word   CODE32

real_interrupt:
        push    bp
        mov     bp, sp
        xchg    al, ah
        add     ax, [bp + 4]            /* the caller's CS */
        pop     bp
        iret

virtual:
        mov     al, 'v'
        out     DEBUG_CONSOLE, al       /* open in the bitmap: no trap */
        mov     cx, 5
1:      int     0x21
        loop    1b
        mov     ax, cs
        mov     es, ax
        mov     ax, es:[at(word_in_segment)]
        hlt
word_in_segment:
        .word   0x5a5a
low_code_end:
        .code32

        .data
        .balign 8
gdt_with_tss:
        .quad   0
        .quad   0x00cf9b000000ffff
        .quad   0x00cf93000000ffff
        .quad   0x00af9b000000ffff
        .quad   0x00009b000000ffff
        .quad   0x000093000000ffff
tss_descriptor:
        .word   permissions_end - tss - 1, 0
        .byte   0, 0x89, 0, 0           /* available 32-bit TSS; the base is filled in at run time */
gdtr_with_tss:
        .word   tss_descriptor + 7 - gdt_with_tss
        .long   gdt_with_tss
real_idtr:
        .word   0x3ff
        .long   0
traps:  .long   0
        .balign 128
tss:    .skip   104
permissions:
        .skip   DEBUG_CONSOLE / 8, 0xff
        .byte   0xff & ~(1 << (DEBUG_CONSOLE & 7))
        .byte   0xff                    /* the bitmap ends with a byte of ones */
permissions_end:
