/*
 * What every guest begins with. Contract (PVH direct boot, the same file boots under QEMU's -kernel):
 * entered at `start` in 32-bit protected mode, flat segments, paging off, interrupts off, EBX = start
 * info. The loader's GDT may lie anywhere, so ours is loaded first; then `main` runs on our stack.
 *
 * Output goes to the debug console (port 0xe9) and to COM1; a guest ends through the exit port (0xf4):
 * value v makes QEMU's isa-debug-exit leave with status 2v+1.
 */
        .intel_syntax noprefix
        .code32

#define DEBUG_CONSOLE   0xe9
#define EXIT_PORT       0xf4
#define EXIT_OK         0x10    /* process status 33 */
#define EXIT_FAILED     0x11    /* process status 35 */
#define COM1            0x3f8
#define PIC1            0x20
#define PIC2            0xa0
#define PIT_HZ          1193182
#define CODE32          0x08
#define DATA32          0x10
#define CODE64          0x18
#define CODE16          0x20
#define DATA16          0x28

#ifndef MULTIBOOT
        .section .note.Xen, "a", @note
        .long   4, 4, 18                /* name size, content size, XEN_ELFNOTE_PHYS32_ENTRY */
        .asciz  "Xen"
        .long   start
#endif

        .data
        .balign 8
gdt:    .quad   0
        .quad   0x00cf9b000000ffff      /* CODE32: base 0, limit 4 GiB */
        .quad   0x00cf93000000ffff      /* DATA32 */
        .quad   0x00af9b000000ffff      /* CODE64 */
        .quad   0x00009b000000ffff      /* CODE16: base 0, limit 64 KiB */
        .quad   0x000093000000ffff      /* DATA16 */
gdt_end:
gdtr:   .word   gdt_end - gdt - 1
        .long   gdt
idtr:   .word   256 * 8 - 1
        .long   idt

        .bss
        .balign 4096
idt:    .skip   256 * 8
        .skip   16384
stack_top:

        .text
#ifdef MULTIBOOT
        /* Loaded as ELF, entered at its entry point with EAX = magic and EBX = information, which `main` finds in EBP and EBX. */
        .balign 4
        .long   0x1badb002, 0, -0x1badb002
#endif
        .globl  start
start:
#ifdef MULTIBOOT
        mov     ebp, eax
#endif
        cli
        cld
        lgdt    [gdtr]
        ljmp    CODE32, offset 1f
1:      mov     eax, DATA32
        mov     ds, eax
        mov     es, eax
        mov     fs, eax
        mov     gs, eax
        mov     ss, eax
        mov     esp, offset stack_top
        lidt    [idtr]
        /* COM1: 8 bits, no parity, 115200 baud, FIFO on, interrupts off. */
        mov     dx, COM1 + 1
        xor     eax, eax
        out     dx, al
        mov     dx, COM1 + 3
        mov     al, 0x80
        out     dx, al
        mov     dx, COM1
        mov     al, 1
        out     dx, al
        mov     dx, COM1 + 1
        xor     eax, eax
        out     dx, al
        mov     dx, COM1 + 3
        mov     al, 3
        out     dx, al
        mov     dx, COM1 + 2
        mov     al, 7
        out     dx, al
        jmp     main

/* AL to both outputs. Keeps all registers. */
put_char:
        push    eax
        push    edx
        out     DEBUG_CONSOLE, al
        mov     ah, al
        mov     dx, COM1 + 5
1:      in      al, dx
        test    al, 0x20                /* transmitter holding register empty */
        jz      1b
        mov     al, ah
        mov     dx, COM1
        out     dx, al
        pop     edx
        pop     eax
        ret

/* The string at ESI. Keeps all registers. */
put_string:
        push    eax
        push    esi
1:      lodsb
        test    al, al
        jz      2f
        call    put_char
        jmp     1b
2:      pop     esi
        pop     eax
        ret

/* EAX as eight hexadecimal digits. Keeps all registers. */
put_hex:
        push    eax
        push    ecx
        push    edx
        mov     edx, eax
        mov     ecx, 8
1:      rol     edx, 4
        mov     eax, edx
        and     eax, 15
        cmp     al, 10
        jb      2f
        add     al, 'a' - '0' - 10
2:      add     al, '0'
        call    put_char
        loop    1b
        pop     edx
        pop     ecx
        pop     eax
        ret

/* EAX as decimal. Keeps all registers. */
put_decimal:
        push    eax
        push    ebx
        push    ecx
        push    edx
        mov     ebx, 10
        xor     ecx, ecx
1:      xor     edx, edx
        div     ebx
        push    edx
        inc     ecx
        test    eax, eax
        jnz     1b
2:      pop     eax
        add     al, '0'
        call    put_char
        loop    2b
        pop     edx
        pop     ecx
        pop     ebx
        pop     eax
        ret

/* Ends the guest with the value AL; where nobody listens on the port, halts for ever. */
exit:
        out     EXIT_PORT, al
1:      cli
        hlt
        jmp     1b

/* Vector EAX gets the interrupt gate to EBX. Keeps all registers. */
set_gate:
        push    ebx
        mov     word ptr [idt + eax * 8], bx
        mov     word ptr [idt + eax * 8 + 2], CODE32
        mov     word ptr [idt + eax * 8 + 4], 0x8e00
        shr     ebx, 16
        mov     word ptr [idt + eax * 8 + 6], bx
        pop     ebx
        ret

/* Both 8259s at vectors 0x20 and 0x28, every line masked but those that AX leaves 0 (bit = IRQ). */
pic_init:
        push    eax
        mov     al, 0x11
        out     PIC1, al
        out     PIC2, al
        mov     al, 0x20
        out     PIC1 + 1, al
        mov     al, 0x28
        out     PIC2 + 1, al
        mov     al, 4
        out     PIC1 + 1, al
        mov     al, 2
        out     PIC2 + 1, al
        mov     al, 1
        out     PIC1 + 1, al
        out     PIC2 + 1, al
        pop     eax
        out     PIC1 + 1, al
        xchg    al, ah
        out     PIC2 + 1, al
        xchg    al, ah
        ret

/* Channel 0 as rate generator (mode 2) with divisor AX. */
pit_init:
        push    eax
        mov     al, 0x34
        out     0x43, al
        pop     eax
        out     0x40, al
        xchg    al, ah
        out     0x40, al
        xchg    al, ah
        ret

/* print "text": the literal, to both outputs. Keeps all registers. */
        .macro  print text
        .pushsection .data
771:    .asciz  "\text"
        .popsection
        push    esi
        mov     esi, offset 771b
        call    put_string
        pop     esi
        .endm

/* COM1 interrupts when a byte has arrived. Changes EAX and EDX. */
        .macro  com1_interrupts
        mov     dx, COM1 + 4
        mov     al, 0x0b                /* DTR, RTS, OUT2: on a PC OUT2 gates the interrupt line */
        out     dx, al
        mov     dx, COM1 + 1
        mov     al, 1                   /* received data available */
        out     dx, al
        .endm

/* Halts until a handler has made the word at \count another than EBX. */
        .macro  halt_while_ebx_is count
773:    cli
        cmp     ebx, [\count]
        jne     774f
        sti                             /* the instruction after STI is never interrupted before it */
        hlt
        jmp     773b
774:    sti
        .endm

/* The next number of Marsaglia's xorshift, in EAX; never 0. Changes EDX. */
        .macro  xorshift32
        mov     edx, eax
        shl     edx, 13
        xor     eax, edx
        mov     edx, eax
        shr     edx, 17
        xor     eax, edx
        mov     edx, eax
        shl     edx, 5
        xor     eax, edx
        .endm

/* Where other processors start, to be copied to a page of the first megabyte: they go on at `entry`, in protected mode. */
        .macro  trampoline_to entry
        .code16
        .att_syntax
trampoline:
        cli
        movw    %cs, %ax
        movw    %ax, %ds
        lgdtl   trampoline_gdtr - trampoline
        movl    %cr0, %eax
        orb     $1, %al
        movl    %eax, %cr0
        ljmpl   $CODE32, $\entry
trampoline_gdtr:
        .word   gdt_end - gdt - 1
        .long   gdt
trampoline_end:
        .intel_syntax noprefix
        .code32
        .endm

        .macro  gate vector, handler
        push    eax
        push    ebx
        mov     eax, \vector
        mov     ebx, offset \handler
        call    set_gate
        pop     ebx
        pop     eax
        .endm

        .macro  leave_with value
        mov     al, \value
        jmp     exit
        .endm
