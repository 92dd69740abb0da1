/*
 * priority: moves the local APIC's task priority (SDM vol. 3A, 11.8.3.1) up and down, for debuggers to look at
 * as CR8, and checks that it reads back. Prints one line.
 */
#include "common.h"

#define TPR             0xfee00080

main:
        mov     dword ptr [TPR], 0x5f
class_5:
        nop
        mov     dword ptr [TPR], 0xf0
class_15:
        mov     eax, [TPR]
        mov     dword ptr [TPR], 0
        cmp     eax, 0xf0
        jne     1f
        print   "priority ok\n"
        leave_with EXIT_OK
1:      print   "priority lost\n"
        leave_with EXIT_FAILED
