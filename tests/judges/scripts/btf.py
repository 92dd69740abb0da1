"""Gives drgn a kernel's types and symbols out of the core itself: the BTF and the kallsyms that kernels carry. With them drgn's
own helpers work without the kernel's 630 MB of debugging information."""

import drgn
import struct
from drgn import Program, TypeEnumerator, TypeKind, TypeMember, TypeParameter
from drgn.helpers.linux.kallsyms import load_vmlinux_kallsyms

# Types of variables: BTF has those of per-CPU variables only.
VARIABLES = {
    "init_task": "struct task_struct",
    "init_pid_ns": "struct pid_namespace",
    "modules": "struct list_head",
    "init_uts_ns": "struct uts_namespace",
    "init_mm": "struct mm_struct",
    "_totalram_pages": "atomic_long_t",
    "__per_cpu_offset": "unsigned long [512]",
    "vmemmap_base": "unsigned long",
    "page_offset_base": "unsigned long",
    "vmalloc_base": "unsigned long",
    "__cpu_online_mask": "struct cpumask",
    "__cpu_possible_mask": "struct cpumask",
    "nr_cpu_ids": "unsigned int",
    "linux_banner": "char [512]",
    "jiffies": "unsigned long",
}

VOID, INT, PTR, ARRAY, STRUCT, UNION, ENUM, FWD, TYPEDEF, VOLATILE, CONST, RESTRICT, FUNC, FUNC_PROTO, VAR, DATASEC, FLOAT, DECL_TAG, TYPE_TAG, ENUM64 = range(20)
KEYWORDS = {STRUCT: TypeKind.STRUCT, UNION: TypeKind.UNION, ENUM: TypeKind.ENUM, ENUM64: TypeKind.ENUM, TYPEDEF: TypeKind.TYPEDEF, INT: TypeKind.INT}


class Btf:
    """The types, found by number and by kind and name."""

    def __init__(self, prog: Program, data: bytes):
        self.prog, self.made = prog, {}
        magic, _, _, header, types, types_size, strings, strings_size = struct.unpack_from("<HBBIIIII", data)
        assert magic == 0xEB9F, hex(magic)
        self.strings = data[header + strings : header + strings + strings_size]
        self.data = data[header + types : header + types + types_size]
        self.at, self.names, self.percpu, self.enumerators = [None], {}, {}, {}
        at = 0
        while at < len(self.data):
            name, info, size = struct.unpack_from("<III", self.data, at)
            kind, count = info >> 24 & 31, info & 0xFFFF
            number = len(self.at)
            self.at.append(at)
            more = {INT: 4, ARRAY: 12, STRUCT: 12 * count, UNION: 12 * count, ENUM: 8 * count, FUNC_PROTO: 8 * count, VAR: 4, DATASEC: 12 * count, DECL_TAG: 4, ENUM64: 12 * count}
            at += 12 + more.get(kind, 0)
            if kind in KEYWORDS and name:
                self.names.setdefault((KEYWORDS[kind], self.string(name)), number)
            if kind == VAR:
                self.percpu[self.string(name)] = size
            if kind == ENUM:
                for i in range(count):
                    (label,) = struct.unpack_from("<I", self.data, at - 8 * (count - i))
                    self.enumerators.setdefault(label, number)

    def string(self, offset: int) -> str:
        return self.strings[offset : self.strings.index(b"\0", offset)].decode()

    def find(self, prog, kinds, name, filename):
        for kind in kinds:
            number = self.names.get((kind, name))
            if number is not None:
                return self.type(number)
        return None

    def type(self, number: int):
        if number not in self.made:
            self.made[number] = self.make(number)
        return self.made[number]

    def members(self, at: int, count: int, bits: bool):
        for i in range(count):
            name, number, offset = struct.unpack_from("<III", self.data, at + 12 + 12 * i)
            width, offset = (offset >> 24, offset & 0xFFFFFF) if bits else (0, offset)

            def member(number=number, width=width):
                return drgn.Object(self.prog, self.type(number), bit_field_size=width or None)

            yield TypeMember(member, self.string(name) or None, offset)

    def make(self, number: int):
        prog = self.prog
        if number == 0:
            return prog.void_type()
        at = self.at[number]
        name, info, size = struct.unpack_from("<III", self.data, at)
        name, kind, count, flag = self.string(name) or None, info >> 24 & 31, info & 0xFFFF, bool(info >> 31)
        if kind == INT:
            (encoding,) = struct.unpack_from("<I", self.data, at + 12)
            if encoding >> 24 & 4:
                return prog.bool_type(name, size, "little")
            return prog.int_type(name, size, bool(encoding >> 24 & 1) or name == "char", "little")
        if kind == FLOAT:
            return prog.float_type(name, size, "little")
        if kind == PTR:
            return prog.pointer_type(self.type(size), 8, "little")
        if kind == ARRAY:
            of, _, length = struct.unpack_from("<III", self.data, at + 12)
            return prog.array_type(self.type(of), length)
        if kind == STRUCT:
            return prog.struct_type(name, size, tuple(self.members(at, count, flag)))
        if kind == UNION:
            return prog.union_type(name, size, tuple(self.members(at, count, flag)))
        if kind == FWD:
            return prog.union_type(name) if flag else prog.struct_type(name)
        if kind in (ENUM, ENUM64):
            integer = prog.int_type("int" if flag else "unsigned int", size, flag, "little")
            values = []
            for i in range(count):
                if kind == ENUM:
                    label, value = struct.unpack_from("<Ii" if flag else "<II", self.data, at + 12 + 8 * i)
                else:
                    label, low, high = struct.unpack_from("<III", self.data, at + 12 + 12 * i)
                    value = low | high << 32
                    if flag and value >> 63:
                        value -= 1 << 64
                values.append(TypeEnumerator(self.string(label), value))
            return prog.enum_type(name, integer, values)
        if kind == TYPEDEF:
            return prog.typedef_type(name, self.type(size))
        if kind in (VOLATILE, CONST, RESTRICT):
            bits = {VOLATILE: drgn.Qualifiers.VOLATILE, CONST: drgn.Qualifiers.CONST, RESTRICT: drgn.Qualifiers.RESTRICT}[kind]
            of = self.type(size)
            return of.qualified(of.qualifiers | bits)
        if kind == FUNC_PROTO:
            parameters = [TypeParameter(self.type(of)) for _, of in struct.iter_unpack("<II", self.data[at + 12 : at + 12 + 8 * count]) if of]
            return prog.function_type(self.type(size), parameters)
        if kind == TYPE_TAG:
            return self.type(size)
        raise ValueError(f"BTF kind {kind}")


def load(prog: Program) -> Btf:
    """Registers both."""
    prog.register_symbol_finder("kallsyms", load_vmlinux_kallsyms(prog), enable_index=0)
    start, stop = prog.symbol("__start_BTF").address, prog.symbol("__stop_BTF").address
    btf = Btf(prog, prog.read(start, stop - start))
    prog.register_type_finder("btf", btf.find, enable_index=0)

    constants = {btf.string(label): number for label, number in btf.enumerators.items()}

    def find_object(prog, name, flags, filename):
        if flags & drgn.FindObjectFlags.CONSTANT and name in constants:
            of = btf.type(constants[name])
            return drgn.Object(prog, of, next(value.value for value in of.enumerators if value.name == name))
        if name in btf.percpu:
            return drgn.Object(prog, btf.type(btf.percpu[name]), address=prog.symbol(name).address)
        if name in VARIABLES:
            return drgn.Object(prog, VARIABLES[name], address=prog.symbol(name).address)
        return None

    prog.register_object_finder("btf", find_object, enable_index=0)
    return btf
