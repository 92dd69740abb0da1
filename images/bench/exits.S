/*
 * exits: what a hypervisor's engine costs, told by the kernel's command line: `compute N` is N rounds in registers and memory,
 * `ports N` N reads and as many writes of COM1's registers, each of which leaves the processor. Prints a line before and one after.
 */
#include "../guests/common.h"

#define CMDLINE_PADDR   24              /* struct hvm_start_info */
#define SCRATCH         0x3ff           /* COM1: keeps what is written */
#define TABLE_BYTES     0x40000

        .bss
        .balign 4096
table:  .skip   TABLE_BYTES

        .text
main:
        mov     esi, [ebx + CMDLINE_PADDR]
        mov     bl, [esi]               /* the first letter of the word */
1:      lodsb
        cmp     al, ' '
        ja      1b
        xor     ecx, ecx
2:      movzx   eax, byte ptr [esi]
        sub     eax, '0'
        cmp     eax, 9
        ja      3f
        imul    ecx, ecx, 10
        add     ecx, eax
        inc     esi
        jmp     2b
3:      print   "begin exits\n"
        mov     eax, 0x12345678
        test    ecx, ecx
        jz      done
        cmp     bl, 'p'
        je      ports

/* An xorshift whose numbers choose words of a table: 14 instructions a round. */
compute:
        xorshift32
        mov     edx, eax
        and     edx, TABLE_BYTES - 4
        add     [table + edx], eax
        dec     ecx
        jnz     compute
        jmp     done

ports:
        mov     edx, SCRATCH
        mov     eax, ecx
        out     dx, al
        in      al, dx
        cmp     al, cl
        jne     failed
        dec     ecx
        jnz     ports

done:
        print   "end exits "
        call    put_hex
        print   "\n"
        jmp     leave
failed:
        print   "what was written is not read\n"
/* The one end that every machine has, however small: no interrupt table, and an interrupt. */
leave:
        mov     word ptr [idtr], 0
        lidt    [idtr]
        int3
