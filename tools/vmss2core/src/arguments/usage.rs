//! What is printed without arguments.

/// All options, by what they are for.
pub const USAGE: &str = "\
vmss2core: makes the core file that a debugger wants, of a guest at rest

usage: vmss2core [options] X.vmss [X.vmem]
       vmss2core dump [--json] X.vmss

X.vmss: a VMware checkpoint (.vmss, .vmsn). Its memory is in it, beside it, or named.

What to make:
  (nothing)          a core of each processor's address space, for gdb: vmss.core0, vmss.core1, ...
  -U i               of processor i only                                      --vcpu i
  -M                 a core of physical memory: vmss.core                     --physical
  -N, -N4, -N6       a core of a Linux kernel, for crash, drgn and makedumpfile: vmss.core   --linux

Linux:

Everywhere:
  -o FILE            where to write; a number is appended where there are several
  -q                 say nothing but errors
  --threads N        how many threads work; as many as there are processors if not said
  --json             the names of the files for programs
  --help, --version
dump: the groups and tags of a checkpoint
-S... (Solaris) is not supported.
";
