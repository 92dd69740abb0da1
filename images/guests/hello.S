/* hello: prints a line on both consoles and exits. */
#include "common.h"

main:
        print   "hello from a guest of dejavm\n"
        leave_with EXIT_OK
