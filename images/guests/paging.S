/*
 * paging: accessed and dirty bits, write protection and page faults, with two-level 32-bit tables and
 * then with four-level tables in long mode. Every line shows the low 12 bits of the entries after
 * one kind of access; the processor sets the bits (Intel SDM vol. 3, 4.8).
 */
#include "common.h"

#define PRESENT 1
#define WRITE   2
#define LARGE   0x80

        .macro  show_low entry
        print   " "
        mov     eax, [\entry]
        and     eax, 0xfff
        call    put_hex
        .endm

main:
        gate    14, fault32
        /* 4 MiB identity-mapped by pages of 4 KiB, the next 4 MiB by one large page. */
        mov     edi, offset table
        mov     eax, PRESENT | WRITE
1:      stosd
        add     eax, 4096
        cmp     eax, 0x400000
        jb      1b
        mov     dword ptr [directory], offset table + PRESENT + WRITE
        mov     dword ptr [directory + 4], 0x400000 + PRESENT + WRITE + LARGE
        mov     eax, cr4
        or      eax, 0x10               /* PSE */
        mov     cr4, eax
        mov     eax, offset directory
        mov     cr3, eax
        mov     eax, cr0
        or      eax, 0x80010000         /* PG, WP */
        mov     cr0, eax

        mov     esi, offset table + (0x300000 >> 12) * 4
        print   "paging32 untouched"
        show_low esi
        show_low "directory + 4"
        mov     eax, [0x300000]
        mov     eax, [0x500000]
        print   "\npaging32 read     "
        show_low esi
        show_low "directory + 4"
        mov     dword ptr [0x300000], 0xfeedface
        mov     dword ptr [0x500000], 0xfeedface
        print   "\npaging32 written  "
        show_low esi
        show_low "directory + 4"
        /* Cleared in the table: visible at the latest after INVLPG. */
        and     dword ptr [esi], ~0x60
        invlpg  [0x300000]
        mov     eax, [0x300000]
        print   "\npaging32 cleared  "
        show_low esi
        show_low directory
        /* A write to a read-only page with CR0.WP faults even for the supervisor: error code 3. */
        and     dword ptr [esi], ~WRITE
        invlpg  [0x300000]
        mov     dword ptr [0x300ff0], 0x600df00d
        print   "\npaging32 fault     "
        mov     eax, [fault_code]
        call    put_hex
        print   " at "
        mov     eax, [fault_address]
        call    put_hex
        print   " now"
        show_low esi
        /* Not present: error code 0, the handler maps it. */
        and     dword ptr [esi], ~PRESENT
        invlpg  [0x300000]
        mov     ebp, [0x300ff0]
        print   "\npaging32 absent    "
        mov     eax, [fault_code]
        call    put_hex
        print   " read "
        mov     eax, ebp
        call    put_hex
        print   " now"
        show_low esi
        print   "\n"

        /* Paging off, four-level tables, long mode. */
        mov     eax, cr0
        and     eax, 0x7fffffff
        mov     cr0, eax
        mov     edi, offset table
        mov     ecx, 1024
        xor     eax, eax
        rep stosd                       /* now a PAE table: 512 entries of 8 bytes */
        mov     eax, PRESENT | WRITE
        mov     edi, offset table
2:      mov     [edi], eax
        add     edi, 8
        add     eax, 4096
        cmp     eax, 0x200000
        jb      2b
        mov     dword ptr [level4], offset level3 + PRESENT + WRITE
        mov     dword ptr [level3], offset level2 + PRESENT + WRITE
        mov     dword ptr [level2], offset table + PRESENT + WRITE
        mov     dword ptr [level2 + 8], 0x200000 + PRESENT + WRITE + LARGE
        /* The top of the address space too: -2 MiB is physical 0x200000. */
        mov     dword ptr [level4 + 511 * 8], offset level3 + PRESENT + WRITE
        mov     dword ptr [level3 + 511 * 8], offset level2 + PRESENT + WRITE
        mov     dword ptr [level2 + 511 * 8], 0x200000 + PRESENT + WRITE + LARGE
        /* Interrupt gate 14, 16 bytes long, in a table of its own. */
        mov     eax, offset fault64
        mov     word ptr [idt64 + 14 * 16], ax
        mov     word ptr [idt64 + 14 * 16 + 2], CODE64
        mov     word ptr [idt64 + 14 * 16 + 4], 0x8e00
        shr     eax, 16
        mov     word ptr [idt64 + 14 * 16 + 6], ax
        lidt    [idtr64]
        mov     eax, cr4
        or      eax, 0x20               /* PAE */
        mov     cr4, eax
        mov     eax, offset level4
        mov     cr3, eax
        mov     ecx, 0xc0000080         /* EFER */
        rdmsr
        or      eax, 0x900              /* LME, NXE */
        wrmsr
        mov     eax, cr0
        or      eax, 0x80000000
        mov     cr0, eax
        ljmp    CODE64, offset long_mode

        .code64
long_mode:
        /* The top alias and the low address are one memory. */
        mov     rax, -0x200000 + 0x1000
        mov     rbx, 0x1122334455667788
        mov     [rax], rbx
        mov     rcx, [0x201000]
        mov     [rip + seen], rcx
        mov     r8, [rip + level2 + 511 * 8]
        mov     [rip + entry_written], r8
        mov     r8, [rip + level2 + 8]
        mov     [rip + entry_read], r8
        mov     r8, [rip + level4]
        mov     [rip + entry_top], r8
        /* Not present, and a fetch from a no-execute page (error code 0x11); the handler skips. */
        mov     rax, 0x40000000
        lea     rdx, [rip + 1f]
        mov     [rip + resume], rdx
        mov     rbx, [rax]
1:      mov     rax, [rip + fault_code]
        mov     [rip + absent_code], rax
        mov     eax, 1
        shl     rax, 63
        or      [rip + level2 + 8], rax
        invlpg  [0x201000]
        lea     rdx, [rip + 2f]
        mov     [rip + resume], rdx
        mov     eax, 0x201000
        jmp     rax
2:      mov     rax, [rip + fault_code]
        mov     [rip + fetch_code], rax
        /* Back through compatibility mode: far return to a 32-bit segment. */
        push    CODE32
        lea     rax, [rip + legacy]
        push    rax
        retfq

fault64:
        mov     rax, [rsp]
        mov     [rip + fault_code], rax
        mov     rax, cr2
        mov     [rip + fault_address], rax
        mov     rax, [rip + resume]
        mov     [rsp + 8], rax
        add     rsp, 8
        iretq

        .code32
legacy:
        mov     eax, cr0
        and     eax, 0x7fffffff
        mov     cr0, eax
        mov     ecx, 0xc0000080
        rdmsr
        and     eax, ~0x900
        wrmsr
        mov     eax, cr4
        and     eax, ~0x20
        mov     cr4, eax
        print   "paging64 alias    "
        mov     eax, [seen + 4]
        call    put_hex
        mov     eax, [seen]
        call    put_hex
        print   "\npaging64 entries  "
        show_low entry_written
        show_low entry_read
        show_low entry_top
        print   "\npaging64 absent    "
        mov     eax, [absent_code]
        call    put_hex
        print   "\npaging64 no-execute "
        mov     eax, [fetch_code]
        call    put_hex
        print   " at "
        mov     eax, [fault_address]
        call    put_hex
        print   "\n"
        leave_with EXIT_OK

/* Keeps what it was told and makes the page at ESI's entry present and writable. */
fault32:
        push    eax
        mov     eax, [esp + 4]
        mov     [fault_code], eax
        mov     eax, cr2
        mov     [fault_address], eax
        or      dword ptr [esi], PRESENT | WRITE
        invlpg  [0x300000]
        pop     eax
        add     esp, 4
        iretd

        .data
        .balign 8
idtr64: .word   256 * 16 - 1
        .long   idt64, 0

        .bss
        .balign 4096
directory: .skip 4096
table:  .skip   4096
level4: .skip   4096
level3: .skip   4096
level2: .skip   4096
idt64:  .skip   4096
seen:   .skip   8
entry_written: .skip 8
entry_read: .skip 8
entry_top: .skip 8
resume: .skip   8
fault_code: .skip 8
fault_address: .skip 8
absent_code: .skip 8
fetch_code: .skip 8
