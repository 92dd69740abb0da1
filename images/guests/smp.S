/*
 * smp: what processors do to each other. The first one starts all others by INIT and start-up messages; all go to long mode, with
 * page tables in common, and work through the cases below together. Prints "case N ok" or what went wrong. Knows no number of
 * processors: with one alone, most cases have nothing to do.
 */
#include "common.h"

#define LAPIC           0xfee00000      /* in R14, in 64-bit code */
#define L_EOI           0x0b0
#define L_LDR           0x0d0
#define L_SVR           0x0f0
#define L_ICR           0x300
#define L_ICR_HIGH      0x310
#define L_TIMER         0x320
#define L_LINT0         0x350
#define L_COUNT         0x380
#define L_DIVIDE        0x3e0
#define L_ID            0x020

#define ICR_INIT        0x0c4500        /* to all but oneself, asserted */
#define ICR_STARTUP     0x0c4600
#define ICR_NMI         0x0c4400
#define ICR_OTHERS      0x0c4000
#define ICR_LOGICAL     0x004800
#define ICR_ONE         0x004000

#define TRAMPOLINE      0x70000
#define WINDOW          0x40000000      /* in R13: the linear page that is mapped to one thing and another */
#define PROCESSORS_MAX  8
/* 2 ms at 2 GHz: who has not come by then is not there. */
#define PATIENCE        4000000

#define LOCKED          20000
#define SPUN            3000
#define PINGS           300
#define TICKS           10
#define PATCHES         300
#define MAPPINGS        200

        .bss
        .balign 4096
pml4:   .skip   4096
pdpt:   .skip   4096
pds:    .skip   4 * 4096
window_table:
        .skip   4096
page_a: .skip   4096
page_b: .skip   4096
idt64:  .skip   256 * 16
stacks: .skip   (PROCESSORS_MAX + 2) * 4096
        .balign 64
counter:        .skip   64
spin:           .skip   64
command:        .skip   64
done:           .skip   64
ready:          .skip   64
turn:           .skip   64
replies:        .skip   64
errors:         .skip   64
acks:           .skip   64
ping:           .skip   64
pong:           .skip   64
nmis:           .skip   64
logicals:       .skip   64
ticks:          .skip   64
others:         .skip   64              /* processors besides the first */
ids:            .skip   64              /* APIC ids by number */

        .data
next_number:
        .long   1
idtr64: .word   256 * 16 - 1
        .long   idt64, 0

/* EBX = number of the processor; goes on at `long`, in 64-bit mode. */
        .text
enter_long:
        mov     eax, cr4
        or      eax, 0x20               /* PAE */
        mov     cr4, eax
        mov     eax, offset pml4
        mov     cr3, eax
        mov     ecx, 0xc0000080         /* EFER.LME */
        rdmsr
        or      eax, 0x100
        wrmsr
        mov     eax, cr0
        or      eax, 0x80010000         /* PG, WP */
        mov     cr0, eax
        ljmp    CODE64, offset long

main:
        /* The first 4 GiB to themselves, but for the window's 2 MiB. */
        mov     dword ptr [pml4], offset pdpt + 3
        mov     edi, offset pdpt
        mov     eax, offset pds + 3
        mov     ecx, 4
1:      mov     [edi], eax
        add     eax, 4096
        add     edi, 8
        loop    1b
        mov     edi, offset pds
        mov     eax, 0x83
        mov     ecx, 2048
2:      mov     [edi], eax
        add     eax, 0x200000
        add     edi, 8
        loop    2b
        mov     dword ptr [pds + 4096], offset window_table + 3
        mov     dword ptr [window_table], offset page_a + 3
        mov     esi, offset trampoline
        mov     edi, TRAMPOLINE
        mov     ecx, offset trampoline_end - trampoline
        rep movsb
        xor     ebx, ebx
        jmp     enter_long

        trampoline_to other32
other32:
        mov     eax, DATA32
        mov     ds, eax
        mov     es, eax
        mov     ss, eax
        mov     ebx, 1
        lock xadd [next_number], ebx
        jmp     enter_long

        .code64
long:
        mov     r15d, ebx
        mov     r14d, LAPIC
        mov     r13d, WINDOW
        lea     eax, [rbx + 1]
        shl     eax, 12
        mov     esp, offset stacks
        add     rsp, rax
        test    r15d, r15d
        jz      first
        lidt    [rip + idtr64]
        call    own_lapic
        lock inc dword ptr [rip + ready]
        xor     ebx, ebx
1:      pause
        mov     eax, [rip + command]
        cmp     eax, ebx
        je      1b
        mov     ebx, eax
        push    rbx
        mov     ecx, offset cases
        call    [rcx + rax * 8]
        pop     rbx
        lock inc dword ptr [rip + done]
        jmp     1b

/* Software-enables the local APIC, gives it a logical id. */
own_lapic:
        mov     dword ptr [r14 + L_SVR], 0x1ff
        mov     ecx, [r14 + L_ID]
        shr     ecx, 24
        mov     eax, offset ids
        mov     [rax + r15 * 4], ecx
        mov     eax, 0x1000000
        shl     eax, cl
        mov     [r14 + L_LDR], eax
        ret

        .macro  gate64 vector, handler
        mov     eax, offset \handler
        mov     word ptr [rip + idt64 + \vector * 16], ax
        mov     word ptr [rip + idt64 + \vector * 16 + 2], CODE64
        mov     word ptr [rip + idt64 + \vector * 16 + 4], 0x8e00
        shr     eax, 16
        mov     word ptr [rip + idt64 + \vector * 16 + 6], ax
        .endm

/* say "text" */
        .macro  say text
        .pushsection .data
771:    .asciz  "\text"
        .popsection
        mov     esi, offset 771b
        call    put64
        .endm

/* case N: all processors do it; goes on when all have done. */
        .macro  case number
        mov     dword ptr [rip + done], 0
        mov     dword ptr [rip + turn], 0
        mov     dword ptr [rip + replies], 0
        mov     dword ptr [rip + errors], 0
        mov     dword ptr [rip + acks], 0
        mov     dword ptr [rip + counter], 0
        mov     eax, \number
        mov     [rip + command], eax
        mov     ecx, offset cases
        call    [rcx + rax * 8]
        mov     eax, [rip + others]
        mov     ebx, offset done
        call    await
        mov     ecx, \number
        cmp     dword ptr [rip + errors], 0
        jne     failed
        .endm

/* Spins until the number at RBX is EAX. */
await:  cmp     [rbx], eax
        je      1f
        pause
        jmp     await
1:      ret

/* The string at RSI to both outputs. */
put64:  lodsb
        test    al, al
        jz      1f
        out     DEBUG_CONSOLE, al
        mov     dx, COM1
        out     dx, al
        jmp     put64
1:      ret

failed: lea     eax, [rcx + '0']
        mov     [rip + failed_case], al
        mov     esi, offset failed_text
        call    put64
        mov     al, EXIT_FAILED
        jmp     leave64

        .data
failed_text:
        .ascii  "case "
failed_case:
        .asciz  "? failed\n"
processors_text:
        .asciz  "? processors\n"
        .balign 8
cases:  .long   0, 0
        .long   count_locked, 0
        .long   count_spinning, 0
        .long   ping_pong, 0
        .long   take_nmi, 0
        .long   take_logical, 0
        .long   take_ticks, 0
        .long   patch_code, 0
        .long   move_window, 0
        .long   dirty_window, 0
        .long   halt_one, 0
        .text

leave64:
        out     EXIT_PORT, al
1:      hlt
        jmp     1b

first:
        gate64  2, on_nmi
        gate64  0x40, on_ping
        gate64  0x41, on_pong
        gate64  0x42, on_logical
        gate64  0x43, on_tick
        gate64  0x44, on_shootdown
        lidt    [rip + idtr64]
        call    own_lapic
        /* The 8259 stays out of it. */
        mov     dword ptr [r14 + L_LINT0], 0x10000
        call    start_others
        mov     eax, [rip + ready]
        mov     [rip + others], eax
        add     al, '1'
        mov     [rip + processors_text], al
        mov     esi, offset processors_text
        call    put64

        case    1
        mov     eax, [rip + others]
        inc     eax
        imul    eax, eax, LOCKED
        cmp     [rip + counter], eax
        jne     failed
        say     "locked increments ok\n"
        case    2
        mov     eax, [rip + others]
        inc     eax
        imul    eax, eax, SPUN
        cmp     [rip + counter], eax
        jne     failed
        say     "spin lock ok\n"
        case    3
        say     "ping pong ok\n"
        case    4
        say     "nmi ok\n"
        case    5
        say     "logical destination ok\n"
        case    6
        say     "timers ok\n"
        case    7
        say     "cross-modified code ok\n"
        case    8
        say     "shootdown ok\n"
        case    9
        say     "dirty bits ok\n"
        /* One is halted for good; the others go on; then INIT and a start-up message bring all up again. */
        cmp     dword ptr [rip + others], 0
        je      2f
        mov     dword ptr [rip + done], 0
        mov     dword ptr [rip + command], 10
        mov     eax, [rip + others]
        dec     eax
        mov     ebx, offset done
        call    await
        mov     dword ptr [rip + command], 0
        mov     dword ptr [rip + ready], 0
        mov     dword ptr [rip + next_number], 1
        call    start_others
        mov     ecx, 10
        mov     eax, [rip + others]
        cmp     [rip + ready], eax
        jne     failed
        case    1
2:      say     "started again ok\n"
        mov     al, EXIT_OK
        jmp     leave64

start_others:
        mov     dword ptr [r14 + L_ICR_HIGH], 0
        mov     dword ptr [r14 + L_ICR], ICR_INIT
        mov     dword ptr [r14 + L_ICR], ICR_STARTUP + (TRAMPOLINE >> 12)
        rdtsc
        shl     rdx, 32
        lea     rdi, [rax + rdx + PATIENCE]
1:      pause
        rdtsc
        shl     rdx, 32
        add     rax, rdx
        cmp     rax, rdi
        jb      1b
        ret

/* send VALUE: to the processor with number EAX. */
        .macro  send value
        push    rbx
        mov     ebx, offset ids
        mov     eax, [rbx + rax * 4]
        pop     rbx
        shl     eax, 24
        mov     [r14 + L_ICR_HIGH], eax
        mov     dword ptr [r14 + L_ICR], \value
        .endm

/* Case 1. */
count_locked:
        mov     ecx, LOCKED
1:      lock inc dword ptr [rip + counter]
        loop    1b
        ret

/* Case 2. */
count_spinning:
        mov     ecx, SPUN
1:      mov     eax, 1
        xchg    [rip + spin], eax
        test    eax, eax
        jz      3f
2:      pause
        cmp     dword ptr [rip + spin], 0
        jne     2b
        jmp     1b
3:      mov     eax, [rip + counter]
        inc     eax
        mov     [rip + counter], eax
        mov     dword ptr [rip + spin], 0
        loop    1b
        ret

/* Case 3: between the first and the second, both halted in between. */
ping_pong:
        cmp     dword ptr [rip + others], 0
        je      9f
        cmp     r15d, 1
        ja      9f
        je      5f
        mov     ebp, 1
1:      mov     eax, 1
        send    ICR_ONE + 0x40
2:      cli
        cmp     [rip + pong], ebp
        je      3f
        sti
        hlt
        jmp     2b
3:      inc     ebp
        cmp     ebp, PINGS
        jbe     1b
        ret
5:      cli
        cmp     dword ptr [rip + ping], PINGS
        je      9f
        sti
        hlt
        jmp     5b
9:      cli
        ret

/* Case 4. */
take_nmi:
        mov     eax, [rip + others]
        mov     ebx, offset replies
        test    r15d, r15d
        jz      1f
        lock inc dword ptr [rbx]
        mov     ebx, offset nmis
        jmp     await
1:      call    await
        mov     dword ptr [r14 + L_ICR], ICR_NMI
        mov     ebx, offset nmis
        mov     eax, [rip + others]
        jmp     await

/* Case 5: to all but the first, by a set. */
take_logical:
        test    r15d, r15d
        jz      1f
        sti
        mov     eax, [rip + others]
        mov     ebx, offset logicals
        call    await
        cli
        ret
1:      cmp     dword ptr [rip + others], 0
        je      2f
        mov     eax, 0xfe000000
        mov     [r14 + L_ICR_HIGH], eax
        mov     dword ptr [r14 + L_ICR], ICR_LOGICAL + 0x42
        mov     eax, [rip + others]
        mov     ebx, offset logicals
        call    await
2:      ret

/* Case 6: every processor's own timer. */
take_ticks:
        mov     dword ptr [r14 + L_DIVIDE], 0xb
        mov     dword ptr [r14 + L_TIMER], 0x20043
        mov     dword ptr [r14 + L_COUNT], 10000
1:      cli
        mov     eax, offset ticks
        cmp     dword ptr [rax + r15 * 4], TICKS
        jae     2f
        sti
        hlt
        jmp     1b
2:      mov     dword ptr [r14 + L_COUNT], 0
        mov     dword ptr [r14 + L_TIMER], 0x10043
        ret

/* Case 7: the first changes an instruction that the others execute. */
patch_code:
        mov     ebp, 1
        test    r15d, r15d
        jnz     5f
1:      mov     [rip + patched + 1], ebp
        mov     [rip + turn], ebp
        mov     eax, [rip + others]
        imul    eax, ebp
        mov     ebx, offset replies
        call    await
        inc     ebp
        cmp     ebp, PATCHES
        jbe     1b
        ret
5:      mov     eax, ebp
        mov     ebx, offset turn
        call    await
        xor     eax, eax
        cpuid
        call    patched
        cmp     eax, ebp
        je      6f
        lock inc dword ptr [rip + errors]
6:      lock inc dword ptr [rip + replies]
        inc     ebp
        cmp     ebp, PATCHES
        jbe     5b
        ret

/* All but the first forget the window's translation. */
shootdown:
        invlpg  [r13]
        mov     dword ptr [r14 + L_ICR], ICR_OTHERS + 0x44
        mov     eax, [rip + others]
        imul    eax, ebp
        mov     ebx, offset acks
        jmp     await

/* Case 8: the first maps the window elsewhere; the others read there all the time. */
move_window:
        mov     dword ptr [rip + page_a], 0
        mov     dword ptr [rip + page_b], 1
        mov     ebp, 1
        test    r15d, r15d
        jnz     5f
1:      mov     eax, offset page_a + 3
        mov     ecx, offset page_b + 3
        test    ebp, 1
        cmovnz  eax, ecx
        mov     [rip + window_table], eax
        call    shootdown
        mov     [rip + turn], ebp
        mov     eax, [rip + others]
        imul    eax, ebp
        mov     ebx, offset replies
        call    await
        inc     ebp
        cmp     ebp, MAPPINGS
        jbe     1b
        ret
5:      sti
6:      mov     eax, [r13]
        pause
        cmp     [rip + turn], ebp
        jne     6b
        mov     eax, [r13]
        mov     ecx, ebp
        and     ecx, 1
        cmp     eax, ecx
        je      7f
        lock inc dword ptr [rip + errors]
7:      lock inc dword ptr [rip + replies]
        inc     ebp
        cmp     ebp, MAPPINGS
        jbe     6b
        cli
        ret

/* Case 9: the first clears accessed and dirty; a store of the second sets them. */
dirty_window:
        mov     ebp, 1
        cmp     dword ptr [rip + others], 0
        je      9f
        cmp     r15d, 1
        ja      7f
        je      5f
1:      lock and dword ptr [rip + window_table], ~0x60
        call    shootdown
        mov     [rip + turn], ebp
        mov     eax, ebp
        mov     ebx, offset replies
        call    await
        mov     eax, [rip + window_table]
        and     eax, 0x60
        cmp     eax, 0x60
        je      2f
        lock inc dword ptr [rip + errors]
2:      inc     ebp
        cmp     ebp, MAPPINGS
        jbe     1b
        ret
5:      sti
6:      pause
        cmp     [rip + turn], ebp
        jne     6b
        mov     [r13 + 8], ebp
        lock inc dword ptr [rip + replies]
        inc     ebp
        cmp     ebp, MAPPINGS
        jbe     6b
        cli
        ret
7:      sti
8:      pause
        cmp     dword ptr [rip + replies], MAPPINGS
        jne     8b
        cli
9:      ret

/* Case 10. */
halt_one:
        cmp     r15d, 1
        jne     1f
        cli
        hlt
1:      ret

on_nmi: lock inc dword ptr [rip + nmis]
        iretq

on_ping:
        push    rax
        inc     dword ptr [rip + ping]
        xor     eax, eax
        send    ICR_ONE + 0x41
        pop     rax
        jmp     end_of_interrupt

on_pong:
        inc     dword ptr [rip + pong]
        jmp     end_of_interrupt

on_logical:
        lock inc dword ptr [rip + logicals]
        jmp     end_of_interrupt

on_tick:
        push    rax
        mov     eax, offset ticks
        inc     dword ptr [rax + r15 * 4]
        pop     rax
        jmp     end_of_interrupt

on_shootdown:
        invlpg  [r13]
        lock inc dword ptr [rip + acks]
end_of_interrupt:
        mov     dword ptr [r14 + L_EOI], 0
        iretq

        .data
        .balign 4096
patched:
        .byte   0xb8                    /* mov eax, imm32; ret */
        .long   0
        .byte   0xc3
        .balign 4096
