"""Makes of a vmlinux one that crash 8.0.2 understands. usage: crash_vmlinux.py VMLINUX OUTPUT

Since Linux 6.5, and 6.1 of the stable series, `struct pid` ends in a flexible array, so its size does not cover the first
element. crash before 8.0.4 reads as many bytes as the size says, looks for that element behind them, finds no task's namespace
right, and lists two tasks, of QEMU's own dumps too. Here the size is made to cover one element."""

import mmap
import shutil
import struct
import sys

OLD, NEW = 96, 112

source, output = sys.argv[1:]
shutil.copyfile(source, output)
with open(output, "r+b") as file, mmap.mmap(file.fileno(), 0) as image:
    (headers,) = struct.unpack_from("<Q", image, 40)
    size, count, names = struct.unpack_from("<HHH", image, 58)

    def section(n):
        name, _, _, _, offset, length = struct.unpack_from("<IIQQQQ", image, headers + n * size)
        return name, offset, length

    names_at = section(names)[1]
    for n in range(count):
        name, offset, length = section(n)
        end = image.find(b"\0", names_at + name)
        if image[names_at + name : end] != b".debug_info":
            continue
        # The name stands in the entry itself, being no longer than a reference; then comes the size.
        wanted, made = b"pid\0" + bytes([OLD]), 0
        at = image.find(wanted, offset, offset + length)
        while at >= 0:
            image[at + 4] = NEW
            made += 1
            at = image.find(wanted, at + 5, offset + length)
        if made == 0:
            sys.exit(f"{source}: no `struct pid` of {OLD} bytes")
        break
    else:
        sys.exit(f"{source}: no .debug_info")
