/*
 * multiboot: a kernel by the Multiboot Specification (0.6.96) that prints what its loader tells: who it is, how many modules
 * there are, and of each its words and its size.
 */
#define MULTIBOOT
#include "common.h"

#define LOADED          0x2badb002
#define HAS_MODULES     (1 << 3)
#define HAS_NAME        (1 << 9)
#define MODULES         20
#define MODULE_LIST     24
#define NAME            64

main:
        cmp     ebp, LOADED
        jne     9f
        print   "loaded by "
        test    dword ptr [ebx], HAS_NAME
        jz      1f
        mov     esi, [ebx + NAME]
        call    put_string
        jmp     2f
1:      print   "who says no name"
2:      xor     ecx, ecx
        test    dword ptr [ebx], HAS_MODULES
        jz      3f
        mov     ecx, [ebx + MODULES]
3:      print   ", modules: "
        mov     eax, ecx
        call    put_decimal
        print   "\n"
        mov     edi, [ebx + MODULE_LIST]
        jecxz   5f
4:      mov     esi, [edi + 8]          /* its words */
        call    put_string
        print   ": "
        mov     eax, [edi + 4]
        sub     eax, [edi]
        call    put_decimal
        print   " bytes\n"
        add     edi, 16
        loop    4b
5:      leave_with EXIT_OK
9:      print   "the loader is none of Multiboot\n"
        leave_with EXIT_FAILED
