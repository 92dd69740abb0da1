/* Two threads on two CPUs count together, round after round, and forgot to lock the count. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
enum { ROUNDS = 100 };
static volatile long count;
static volatile int arrived;

static void *run(void *number) {
    cpu_set_t here;
    CPU_ZERO(&here);
    CPU_SET((long)number, &here);
    sched_setaffinity(0, sizeof here, &here);
    volatile unsigned work = 1;
    for (int round = 1; round <= ROUNDS; round++) {
        __atomic_add_fetch(&arrived, 1, __ATOMIC_SEQ_CST);
        while (arrived < 2 * round)
            __builtin_ia32_pause();
        for (int i = 0; i < 100; i++)
            work = work * 1103515245 + 12345;
        count = count + 1;
    }
    return NULL;
}

int main(void) {
    pthread_t one, two;
    pthread_create(&one, NULL, run, (void *)0);
    pthread_create(&two, NULL, run, (void *)1);
    pthread_join(one, NULL);
    pthread_join(two, NULL);
    return count != 2 * ROUNDS;
}
