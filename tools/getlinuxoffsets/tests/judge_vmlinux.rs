//! A real kernel's vmlinux: what gdb says of its debugging symbols and what its BTF says is one line. A slow judge: the file
//! is 631 MB, from a package of 855 MB (`make judges`).

use std::process::Command;

fn line(from: &str, file: &str) -> String {
    let output =
        Command::new(env!("CARGO_BIN_EXE_getlinuxoffsets")).args([from, file]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn debians_vmlinux_through_gdb_and_by_btf() {
    let path = dejavm_images::fetched("vmlinux-amd64-dbg").unwrap_or_else(|why| panic!("{why}"));
    let file = path.to_str().unwrap();
    let by_gdb = line("gdb", file);
    assert!(by_gdb.starts_with("-l 0x6") && by_gdb.trim().split(',').count() == 14, "{by_gdb}");
    // What only old kernels have is 0: next_task, and sp0 of 64 bits.
    let fields: Vec<&str> = by_gdb.trim().trim_start_matches("-l ").split(',').collect();
    let absent = fields.iter().filter(|field| **field == "0").count();
    assert_eq!((fields[2], absent), ("0", 2), "{by_gdb}");
    assert_eq!(by_gdb, line("btf", file));
}
