use dejavm_machine::*;
use dejavm_units::*;
use std::time::Instant;
fn main() {
    let config = MachineConfig::new(dejavm_memory::RamLayout::new(2 << 20).unwrap());
    let mut m =
        Machine::boot(&config, &Boot { image: dejavm_images::SPIN, initrd: None, cmdline: "" })
            .unwrap();
    m.run(Position(1_000_000));
    let s = m.cpu_state();
    // L: inc eax; add eax, ebx; mov ecx, [esp-0x40]; push ecx; pop ecx; inc dword [esp-0x100]; xor ecx,eax; nop; dec edi; jmp L
    let code = [
        0x40, 1, 0xd8, 0x8b, 0x4c, 0x24, 0xc0, 0x51, 0x59, 0xff, 0x84, 0x24, 0, 0xff, 0xff, 0xff,
        0x31, 0xc1, 0x90, 0x4f, 0xeb, 0xea,
    ];
    assert_eq!(m.write_virtual(Gva(s.rip), None, &code), code.len());
    let t = Instant::now();
    m.run(Position(301_000_000));
    println!("plain {:?} MIPS {}", t.elapsed(), 300.0 / t.elapsed().as_secs_f64());
    let mut seen = std::collections::BTreeMap::new();
    for _ in 0..200 {
        m.run(Position(m.position().0 + 1));
        let s = m.cpu_state();
        *seen.entry(s.seg[1].base + s.rip).or_insert(0) += 1;
    }
    println!("{seen:x?}");
    let at = Gva(*seen.iter().max_by_key(|x| x.1).unwrap().0);
    m.set_stops(&Stops { breakpoints: vec![Breakpoint { at, space: None }], watchpoints: vec![] });
    let t = Instant::now();
    let mut n = 0u64;
    let p = m.position().0;
    while t.elapsed().as_secs_f64() < 1.0 {
        for _ in 0..1000 {
            assert!(matches!(m.run(Position(u64::MAX)), Stop::Breakpoint { .. }));
            n += 1;
        }
    }
    println!(
        "hits/s {} ({} instr each)",
        n as f64 / t.elapsed().as_secs_f64(),
        (m.position().0 - p) / n
    );
    let stops = m.stops().clone();
    let t = Instant::now();
    let mut n = 0u64;
    while t.elapsed().as_secs_f64() < 1.0 {
        for _ in 0..1000 {
            m.set_stops(&Stops::default());
            m.run(Position(m.position().0 + 1));
            m.set_stops(&stops);
            assert!(matches!(m.run(Position(u64::MAX)), Stop::Breakpoint { .. }));
            n += 1;
        }
    }
    println!("gdb-style hits/s {}", n as f64 / t.elapsed().as_secs_f64());
    m.set_stops(&Stops {
        breakpoints: vec![Breakpoint { at, space: Some(Gpa(0x123000)) }],
        watchpoints: vec![],
    });
    let p = m.position().0;
    let t = Instant::now();
    m.run(Position(p + 100_000_000));
    println!("bp not meant: MIPS {}", 100.0 / t.elapsed().as_secs_f64());
    let s = m.cpu_state();
    println!("{:x?}", s.gpr);
    let w = |start, bytes, kind| Stops {
        breakpoints: vec![],
        watchpoints: vec![Watchpoint { start: Gva(start), bytes, kind, space: None }],
    };
    m.set_stops(&w(s.gpr[4] & !0xfff | 4, 4, WatchKind::Access));
    let p = m.position().0;
    let t = Instant::now();
    println!("{:?}", m.run(Position(p + 20_000_000)));
    println!("stack page watched: MIPS {}", 20.0 / t.elapsed().as_secs_f64());
}
