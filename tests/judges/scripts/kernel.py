"""What drgn sees in the core of a Linux kernel. usage: kernel.py CORE [VMLINUX]

Without VMLINUX, types and symbols are the kernel's own."""

import json
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import btf
import drgn
from drgn.helpers.linux.fs import d_path, for_each_file
from drgn.helpers.linux.mm import access_process_vm, for_each_vma, totalram_pages
from drgn.helpers.linux.module import for_each_module
from drgn.helpers.linux.pid import find_task, for_each_task
from drgn.helpers.linux.sched import cpu_curr

# Of images/initramfs/facts.c.
PATTERN_AT, PATTERN_BYTES = 0x20000000, 20123

prog = drgn.Program()
prog.set_core_dump(sys.argv[1])
seen = {
    "is_kernel": bool(prog.flags & drgn.ProgramFlags.IS_LINUX_KERNEL),
    "vmcoreinfo": prog["VMCOREINFO"].string_().decode(),
}
if len(sys.argv) > 2:
    prog.load_debug_info([sys.argv[2]])
else:
    btf.load(prog)

seen["banner"] = prog["linux_banner"].string_().decode()
seen["memory_total_kb"] = int(totalram_pages(prog)) * 4
seen["modules"] = [module.name.string_().decode() for module in for_each_module(prog)]
seen["tasks"] = [[task.tgid.value_(), task.pid.value_(), task.comm.string_().decode()] for task in for_each_task(prog)]
seen["threads"] = sorted(thread.tid for thread in prog.threads())

current = cpu_curr(prog, 0)
seen["current"] = current.pid.value_()
# The first frame's registers are what the core holds of the processor.
try:
    seen["registers"] = {name: hex(value) for name, value in prog.stack_trace(current)[0].registers().items()}
except LookupError as error:
    seen["registers"] = str(error)

seen["processes"] = {}
for pid, task_pid, name in seen["tasks"]:
    if pid != task_pid or not name.startswith("facts"):
        continue
    task = find_task(prog, pid)
    process = {
        "files": {number: os.fsdecode(d_path(file.f_path)) for number, file in for_each_file(task)},
        "maps": [[area.vm_start.value_(), area.vm_end.value_()] for area in for_each_vma(task.mm)],
    }
    try:
        process["pattern"] = access_process_vm(task, PATTERN_AT, PATTERN_BYTES).hex()
    except drgn.FaultError:
        process["pattern"] = None
    seen["processes"][pid] = process
json.dump(seen, sys.stdout)
