"""What volatility3 sees in a crash dump of Windows. usage: volatility.py FILE [ADDRESS...]

Prints the header as its structures have it, where physical memory is, 4096 bytes at each physical address, and what it finds in the
address space of the header's page tables: the kernel by its symbols' record, and KUSER_SHARED_DATA's version."""

import json
import logging
import os
import sys

from volatility3 import framework
from volatility3.framework import contexts, layers
from volatility3.framework.automagic import windows
from volatility3.framework.layers import crash, intel, physical
from volatility3.framework.symbols.windows.pdbutil import PDBUtility

logging.disable(logging.CRITICAL)
framework.require_interface_version(2, 0, 0)
context = contexts.Context()
context.config["file.location"] = "file://" + os.path.abspath(sys.argv[1])
context.add_layer(physical.FileLayer(context, "file", "file"))
dump = crash.WindowsCrashDumpStacker.stack(context, "file")
context.add_layer(dump)
header = dump.get_header()
is_64 = isinstance(dump, crash.WindowsCrashDump64Layer)


def number(name):
    return int(getattr(header, name))


def text(value):
    return value.decode() if isinstance(value, bytes) else value


fields = ["MajorVersion", "MinorVersion", "DirectoryTableBase", "PfnDataBase", "PsLoadedModuleList", "PsActiveProcessHead",
          "MachineImageType", "NumberProcessors", "BugCheckCode", "KdDebuggerDataBlock", "DumpType", "SystemTime"]
seen = {
    "layer": type(dump).__name__,
    "header": {name: number(name) for name in fields if hasattr(header, name)},
    # Address, length, offset in the file.
    "mapping": [[at, length, below] for at, length, below, _, _ in dump.mapping(0, dump.maximum_address + 1, ignore_errors=True)],
    "pages": [dump.read(int(address, 16), 4096, pad=False).hex() for address in sys.argv[2:]],
}
if number("DumpType") == 5:
    summary = dump.get_summary_header()
    seen["summary"] = [int(summary.HeaderSize), int(summary.Pages), int(summary.BitmapSize)]

# Its own search for page tables, and the header's.
found = windows.WindowsIntelStacker.stack(context, dump.name)
seen["found"] = None if found is None else [type(found).__name__, found.config["page_map_offset"]]
kind = intel.WindowsIntel32e if is_64 else intel.WindowsIntelPAE if number("PaeEnabled") == 1 else intel.WindowsIntel
context.config["intel.memory_layer"] = dump.name
context.config["intel.page_map_offset"] = number("DirectoryTableBase")
space = kind(context, "intel", "intel", metadata={"os": "Windows"})
context.add_layer(space)
shared = 0xFFFFF78000000000 if is_64 else 0xFFDF0000
seen["version"] = int.from_bytes(space.read(shared + 0x26C, 4), "little")
modules = number("PsLoadedModuleList")
pointer = 8 if is_64 else 4
first = int.from_bytes(space.read(modules, pointer), "little")
base = int.from_bytes(space.read(first + 6 * pointer, pointer), "little")
names = [name + b".pdb" for name in (b"ntkrnlmp", b"ntkrnlpa", b"ntkrpamp", b"ntoskrnl")]
# Its addresses of 64-bit systems have 48 bits.
start = base & (1 << 48) - 1
scanned = PDBUtility.pdbname_scan(context, "intel", 4096, names, start=start, end=start + 0x400000)
seen["kernel"] = [[found["mz_offset"] - start + base, text(found["pdb_name"]), text(found["GUID"]), found["age"]] for found in scanned]
json.dump(seen, sys.stdout)
