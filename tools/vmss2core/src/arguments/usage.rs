//! What is printed without arguments.

/// All options, by what they are for.
pub const USAGE: &str = "\
vmss2core: makes the core file that a debugger wants, of a guest at rest

usage: vmss2core [options] X.vmss [X.vmem]
       vmss2core dump [--json] X.vmss

X.vmss: a VMware checkpoint (.vmss, .vmsn, debug.guest). Its memory is in it, beside it, or named. Or a core of a guest:
QEMU's dump-guest-memory, kdump, makedumpfile, vmss2core's own. Each may be compressed by gzip or zstd.

What to make:
  (nothing)          a core of each processor's address space, for gdb: vmss.core0, vmss.core1, ...
  -U i               of processor i only                                              --vcpu i
  -M                 a core of physical memory: vmss.core                             --physical
  --auto             what the guest's operating system wants: -N, -W, or -M

Linux:
  -N, -N6            a core of the kernel, for crash and drgn: vmss.core              --linux, --linux-2.6
  -N4                of Linux 2.4, or another that keeps no VMCOREINFO                --linux-2.4
  -P                 lists the processes, on standard output
  -P<pid>            a core of a process, for gdb: core.PID                           --process PID
  -l OFFSETS         where things are in the kernel, as getlinuxoffsets prints it     --offsets
                     [default: found out]
  -O X               the kernel runs X (hexadecimal) from where it was linked         --slide
                     [default: found out]
  --kdump            with -N: in kdump's compressed format, each page by itself, zero pages for nothing
  --compress HOW     of --kdump: zlib (what it is if nothing is said), zstd, none
  --without-free     of --kdump: leave out pages that the kernel has free

Windows:
  -W, -W8            a crash dump, for WinDbg and others: memory.dmp                  --windows, --windows-8
                     (whether its debugger's data is encoded, and where it is, is found out)
  -W<num>            its build number, for one that does not say it                   --build NUM
  -WK                pages of the kernel only                                         --kernel-only
  --bitmap           pages of zeros are left out
  -WDDB<hex>         where KdDebuggerDataBlock is; -W8DDB<hex>, too                   --debugger-data HEX
  -WSCAN             search all memory at once, not the first 256 MiB first           --scan

macOS:
  -X32 KERNEL, -X64 KERNEL   a core for LLDB; KERNEL is the guest's mach_kernel: vmss.core   --macos-32, --macos-64

EFI firmware:
  -F                 a core of what it did when it met an exception: vmss.core        --firmware
  -F<address>        with its EFI_SYSTEM_CONTEXT there (hexadecimal)                  --firmware=ADDRESS
                     [default: found on a stack]

Everywhere:
  -o FILE            where to write; the number of the processor follows where it is one's   --output
  -q                 say nothing but errors                                           --quiet
  --threads N        how many threads work; as many as there are processors if not said
  --json             the names of the files for programs
  --help, --version
dump: the groups and tags of a checkpoint
-S... (Solaris) is not supported.
";
