/*
 * breaks: uses the debug registers itself (SDM vol. 3B, 18.2 and 18.3): instructions, stores and accesses that are waited for, whole and in
 * part, and single steps. Prints a line for each case: for each #DB what DR6 said (B0-B3, BS), and how far behind the case's label the
 * guest stood.
 */
#include "common.h"

#define RF              0x10000
#define TF              0x100
#define DR6_CAUSES      0xe00f
/* DR7: bit 10 is one; local and global enable of register n; R/W and LEN of register n. */
#define ONE             0x400
#define LOCAL(n)        (1 << (2 * (n)))
#define GLOBAL(n)       (2 << (2 * (n)))
#define EXECUTED(n)     0
#define WRITTEN(n)      (1 << (16 + 4 * (n)))
#define ACCESSED(n)     (3 << (16 + 4 * (n)))
#define BYTES_2(n)      (1 << (18 + 4 * (n)))
#define BYTES_4(n)      (3 << (18 + 4 * (n)))

        .macro  wait_for number, address
        mov     eax, offset \address
        mov     dr\number, eax
        .endm

        .macro  arm bits
        mov     eax, ONE + \bits
        mov     dr7, eax
        .endm

        /* What came since the last, relative to the label. */
        .macro  tell text, label
        mov     eax, ONE
        mov     dr7, eax
        print   "\text"
        mov     edi, offset \label
        call    report
        .endm

main:
        gate    1, on_debug

        wait_for 0, run
        arm     LOCAL(0)
run:    nop
        nop
        tell    "executed  ", run

        /* Twice through, and by both enables. */
        wait_for 1, again
        arm     LOCAL(1) + GLOBAL(1)
        mov     ecx, 2
again:  dec     ecx
        jnz     again
        tell    "twice     ", again

        /* Two registers at one instruction. */
        wait_for 0, both
        wait_for 3, both
        arm     LOCAL(0) + GLOBAL(3)
both:   nop
        tell    "both      ", both

        wait_for 2, cell
        arm     LOCAL(2) + WRITTEN(2) + BYTES_4(2)
store:  mov     [cell], eax
        mov     ebx, [cell]
        inc     dword ptr [cell]
        tell    "written   ", store

        wait_for 2, cell
        arm     LOCAL(2) + ACCESSED(2) + BYTES_4(2)
load:   mov     ebx, [cell]
        mov     [cell], eax
        tell    "accessed  ", load

        /* Only the bytes that are waited for: 2 and 3 of the cell. */
        wait_for 1, cell + 2
        arm     GLOBAL(1) + WRITTEN(1) + BYTES_2(1)
part:   mov     word ptr [cell], ax
        mov     dword ptr [cell + 3], eax
        mov     byte ptr [cell + 4], al
        mov     dword ptr [cell - 1], eax
        mov     byte ptr [cell + 2], al
        tell    "in part   ", part

        /* A push, and a call. */
        wait_for 0, cell
        mov     ebp, esp
        mov     esp, offset cell + 4
        arm     LOCAL(0) + WRITTEN(0) + BYTES_4(0)
pushed: push    eax
        pop     eax
        call    1f
1:      nop
        mov     esp, ebp
        tell    "pushed    ", pushed

        /* Code and data at once: the instruction first. */
        wait_for 0, mixed
        wait_for 1, cell
        arm     LOCAL(0) + LOCAL(1) + WRITTEN(1) + BYTES_4(1)
mixed:  mov     [cell], eax
        nop
        tell    "mixed     ", mixed

        /* Nothing is on. */
        wait_for 0, off
        arm     WRITTEN(1) + BYTES_4(1)
off:    nop
        mov     [cell], eax
        tell    "off       ", off

        /* After an instruction, when the flag was there before it. */
        pushfd
        or      dword ptr [esp], TF
        popfd
step:   nop
        mov     eax, 1
        tell    "stepped   ", step

        print   "breaks ok\n"
        leave_with EXIT_OK

/* Notes DR6 and where; a breakpoint on an instruction is passed, steps end behind the second. */
on_debug:
        push    eax
        push    ebx
        mov     ebx, [trail_end]
        mov     eax, dr6
        and     eax, DR6_CAUSES
        mov     [ebx], eax
        mov     eax, [esp + 8]
        mov     [ebx + 4], eax
        add     dword ptr [trail_end], 8
        xor     eax, eax
        mov     dr6, eax
        or      dword ptr [esp + 16], RF
        test    dword ptr [ebx], 0x4000
        jz      1f
        cmp     dword ptr [trail_end], offset trail + 16
        jb      1f
        and     dword ptr [esp + 16], ~TF
1:      pop     ebx
        pop     eax
        iretd

/* All in the trail, relative to EDI, and empties it. */
report:
        mov     esi, offset trail
1:      cmp     esi, [trail_end]
        je      2f
        mov     al, ' '
        call    put_char
        mov     eax, [esi]
        call    put_hex
        mov     al, '+'
        call    put_char
        mov     eax, [esi + 4]
        sub     eax, edi
        call    put_decimal
        add     esi, 8
        jmp     1b
2:      print   "\n"
        mov     dword ptr [trail_end], offset trail
        ret

        .data
trail_end:
        .long   trail

        .bss
        .balign 16
        .skip   16
cell:   .skip   16
trail:  .skip   8 * 16
