//! `target.xml`: the registers, described to gdb. One line, because WinDbg's client wants no newlines.

use super::{Feature, Layout, Register, registers};
use std::fmt::Write;

/// Names of flag bits, for gdb to print a register by.
type Flags = &'static [(&'static str, u8, u8)];

const EFLAGS: Flags = &[
    ("CF", 0, 0),
    ("", 1, 1),
    ("PF", 2, 2),
    ("AF", 4, 4),
    ("ZF", 6, 6),
    ("SF", 7, 7),
    ("TF", 8, 8),
    ("IF", 9, 9),
    ("DF", 10, 10),
    ("OF", 11, 11),
    ("NT", 14, 14),
    ("RF", 16, 16),
    ("VM", 17, 17),
    ("AC", 18, 18),
    ("VIF", 19, 19),
    ("VIP", 20, 20),
    ("ID", 21, 21),
];
const CR0: Flags = &[
    ("PE", 0, 0),
    ("MP", 1, 1),
    ("EM", 2, 2),
    ("TS", 3, 3),
    ("ET", 4, 4),
    ("NE", 5, 5),
    ("WP", 16, 16),
    ("AM", 18, 18),
    ("NW", 29, 29),
    ("CD", 30, 30),
    ("PG", 31, 31),
];
const CR4: Flags = &[
    ("VME", 0, 0),
    ("PVI", 1, 1),
    ("TSD", 2, 2),
    ("DE", 3, 3),
    ("PSE", 4, 4),
    ("PAE", 5, 5),
    ("MCE", 6, 6),
    ("PGE", 7, 7),
    ("PCE", 8, 8),
    ("OSFXSR", 9, 9),
    ("OSXMMEXCPT", 10, 10),
    ("UMIP", 11, 11),
    ("LA57", 12, 12),
    ("FSGSBASE", 16, 16),
    ("PCIDE", 17, 17),
    ("OSXSAVE", 18, 18),
    ("SMEP", 20, 20),
    ("SMAP", 21, 21),
];
const EFER: Flags = &[("SCE", 0, 0), ("LME", 8, 8), ("LMA", 10, 10), ("NXE", 11, 11)];
const MXCSR: Flags = &[
    ("IE", 0, 0),
    ("DE", 1, 1),
    ("ZE", 2, 2),
    ("OE", 3, 3),
    ("UE", 4, 4),
    ("PE", 5, 5),
    ("DAZ", 6, 6),
    ("IM", 7, 7),
    ("DM", 8, 8),
    ("ZM", 9, 9),
    ("OM", 10, 10),
    ("UM", 11, 11),
    ("PM", 12, 12),
    ("FZ", 15, 15),
];

/// What stands in front of a feature's registers.
fn types(feature: Feature, bytes: u8) -> String {
    let flags = |id: &str, size: u8, fields: Flags| {
        let mut text = format!("<flags id=\"{id}\" size=\"{size}\">");
        for (name, start, end) in fields {
            let _ = write!(text, "<field name=\"{name}\" start=\"{start}\" end=\"{end}\"/>");
        }
        text + "</flags>"
    };
    match feature {
        Feature::Core => flags("eflags", 4, EFLAGS),
        Feature::Segments => String::new(),
        Feature::System => {
            flags("cr0", bytes, CR0) + &flags("cr4", bytes, CR4) + &flags("efer", bytes, EFER)
        }
        Feature::Sse => {
            let vectors = "<vector id=\"v4f\" type=\"ieee_single\" count=\"4\"/>\
                 <vector id=\"v2d\" type=\"ieee_double\" count=\"2\"/>\
                 <vector id=\"v16i8\" type=\"int8\" count=\"16\"/>\
                 <vector id=\"v8i16\" type=\"int16\" count=\"8\"/>\
                 <vector id=\"v4i32\" type=\"int32\" count=\"4\"/>\
                 <vector id=\"v2i64\" type=\"int64\" count=\"2\"/>\
                 <union id=\"vec128\"><field name=\"v4_float\" type=\"v4f\"/>\
                 <field name=\"v2_double\" type=\"v2d\"/><field name=\"v16_int8\" type=\"v16i8\"/>\
                 <field name=\"v8_int16\" type=\"v8i16\"/><field name=\"v4_int32\" type=\"v4i32\"/>\
                 <field name=\"v2_int64\" type=\"v2i64\"/><field name=\"uint128\" type=\"uint128\"/>\
                 </union>";
            vectors.to_owned() + &flags("mxcsr", 4, MXCSR)
        }
    }
}

/// The description of a layout.
pub fn target_xml(layout: Layout) -> String {
    let (architecture, bytes) = match layout {
        Layout::Bits32 => ("i386", 4),
        Layout::Bits64 => ("i386:x86-64", 8),
    };
    let mut xml = format!(
        "<?xml version=\"1.0\"?><!DOCTYPE target SYSTEM \"gdb-target.dtd\">\
         <target version=\"1.0\"><architecture>{architecture}</architecture>"
    );
    let all = registers(layout);
    for (feature, name) in [
        (Feature::Core, "org.gnu.gdb.i386.core"),
        (Feature::Sse, "org.gnu.gdb.i386.sse"),
        (Feature::Segments, "org.gnu.gdb.i386.segments"),
        (Feature::System, "dejavm.system"),
    ] {
        if all.iter().all(|register| register.feature != feature) {
            continue;
        }
        let _ = write!(xml, "<feature name=\"{name}\">{}", types(feature, bytes));
        for (number, register) in (0..).zip(all) {
            if register.feature == feature {
                push_register(&mut xml, number, register);
            }
        }
        xml += "</feature>";
    }
    xml + "</target>"
}

fn push_register(xml: &mut String, number: usize, register: &Register) {
    let Register { name, bits, kind, feature, what: _ } = register;
    let _ = write!(
        xml,
        "<reg name=\"{name}\" bitsize=\"{bits}\" type=\"{kind}\" regnum=\"{number}\"{}/>",
        if *feature == Feature::System { " group=\"system\"" } else { "" }
    );
}
