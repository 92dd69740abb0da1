# What gdb does to the guest `counter` while it is recorded on KVM; live.sh looks at what it says. What it computes must be 1.
break *main
continue
printf "at main: %d\n", (long)$pc==(long)&main
stepi
stepi
printf "two steps on: %d\n", (long)$pc-(long)&main==2
delete

hbreak tick
continue
printf "at the tick: %d\n", (long)$pc==(long)&tick
info registers eip eflags
printf "interrupts are off there: %d\n", ($eflags&0x200)==0
x/2xw &count
delete

watch *(unsigned *)&mixed
continue
printf "mixed is ebx: %d\n", *(unsigned *)&mixed==(unsigned)$ebx
continue
printf "mixed is ebx again: %d\n", *(unsigned *)&mixed==(unsigned)$ebx
delete

rwatch *(unsigned *)&count
continue
delete

# Without interrupts the guest never ends, so there is something for Ctrl-C.
set $eflags = $eflags & ~0x200
set $before = *(unsigned *)&count
set debug remote 1
while *(unsigned *)&count == $before
    continue
end
set debug remote 0
printf "it has counted meanwhile: %d\n", *(unsigned *)&count!=$before
set $eflags = $eflags | 0x200
detach
