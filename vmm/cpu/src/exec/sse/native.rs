//! Test bench: one instruction executed both by the host itself and by the software CPU.
//!
//! UNSAFETY: machine code is assembled into a page of its own and called. Each test hands over
//! instructions that use XMM0 to XMM2, RAX, RCX, RDX, the flags and at most 16 bytes at [RSI]; the
//! code around them loads and stores exactly those from a [`Registers`] that lives across the call,
//! and puts MXCSR back. XMM, RAX, RCX, RDX and RSI are the caller's to lose. An unmasked exception
//! arrives as SIGFPE, whose handler notes it in the `Registers` at RDI and goes on after the
//! instruction; nothing else in these tests raises that signal.
#![expect(unsafe_code, reason = "runs generated code; see UNSAFETY above")]

use crate::exception::{AbortReason, vector};
use crate::model::Features;
use crate::testing::{Bench, CODE, DATA};
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect};

/// What an instruction may read and write.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Registers {
    pub(super) xmm: [u128; 3],
    /// 16 bytes at [RSI].
    pub(super) memory: u128,
    /// RAX, RCX, RDX.
    pub(super) gpr: [u64; 3],
    pub(super) rflags: u64,
    pub(super) mxcsr: u32,
    /// The instruction's length in bytes, for the signal handler.
    length: u32,
    /// #XM was raised.
    pub(super) trapped: u32,
}

/// Notes a SIGFPE in the test's [`Registers`] and skips the instruction.
extern "C" fn trapped(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes the context of the interrupted code, in which RDI is the function's
    // argument; see UNSAFETY above.
    unsafe {
        let gregs = &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs;
        let registers = gregs[libc::REG_RDI as usize] as *mut Registers;
        (*registers).trapped = 1;
        gregs[libc::REG_RIP as usize] += i64::from((*registers).length);
    }
}

fn catch_traps() {
    // SAFETY: the structure is plain data that is all zeros but for what is set; the handler touches
    // only what UNSAFETY above says.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = trapped as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        assert_eq!(libc::sigaction(libc::SIGFPE, &raw const action, std::ptr::null_mut()), 0);
    }
}

/// RFLAGS bits that are compared.
const ARITHMETIC: u64 = crate::flags::rflags::ARITHMETIC;

/// `instruction` wrapped as a function of one pointer.
fn wrap(instruction: &[u8]) -> Vec<u8> {
    let mut code = vec![];
    code.extend([0x0f, 0xae, 0x57, 96]); // ldmxcsr [rdi+96]
    code.extend([0x0f, 0x10, 0x47, 0]); // movups xmm0, [rdi]
    code.extend([0x0f, 0x10, 0x4f, 16]); // movups xmm1, [rdi+16]
    code.extend([0x0f, 0x10, 0x57, 32]); // movups xmm2, [rdi+32]
    code.extend([0x48, 0x8b, 0x47, 64]); // mov rax, [rdi+64]
    code.extend([0x48, 0x8b, 0x4f, 72]); // mov rcx, [rdi+72]
    code.extend([0x48, 0x8b, 0x57, 80]); // mov rdx, [rdi+80]
    code.extend([0x48, 0x8d, 0x77, 48]); // lea rsi, [rdi+48]
    code.extend([0xff, 0x77, 88, 0x9d]); // push [rdi+88]; popfq
    code.extend(instruction);
    code.extend([0x9c, 0x8f, 0x47, 88]); // pushfq; pop [rdi+88]
    code.extend([0x0f, 0xae, 0x5f, 96]); // stmxcsr [rdi+96]
    code.extend([0x0f, 0x11, 0x47, 0]); // movups [rdi], xmm0
    code.extend([0x0f, 0x11, 0x4f, 16]); // movups [rdi+16], xmm1
    code.extend([0x0f, 0x11, 0x57, 32]); // movups [rdi+32], xmm2
    code.extend([0x48, 0x89, 0x47, 64]); // mov [rdi+64], rax
    code.extend([0x48, 0x89, 0x4f, 72]); // mov [rdi+72], rcx
    code.extend([0x48, 0x89, 0x57, 80]); // mov [rdi+80], rdx
    code.extend([0x68, 0x80, 0x1f, 0, 0, 0x0f, 0xae, 0x14, 0x24, 0x58]); // push 0x1f80; ldmxcsr [rsp]; pop rax
    code.push(0xc3);
    code
}

/// A pseudo-random sequence (SplitMix64).
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub(super) fn next128(&mut self) -> u128 {
        u128::from(self.next()) << 64 | u128::from(self.next())
    }

    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.next() as usize % from.len()]
    }

    /// MXCSR: the default half of the time, else any rounding mode, DAZ and FTZ, in half of the cases
    /// with any masks; any sticky flags.
    fn mxcsr(&mut self) -> u32 {
        let random = self.next() as u32;
        match random >> 30 {
            0 | 1 => 0x1f80 | random & 0x3f,
            2 => 0x1f80 | random & 0xffff,
            _ => random & 0xffff,
        }
    }

    /// A vector of numbers of which many are special.
    pub(super) fn floats(&mut self) -> u128 {
        let singles: [u32; 4] = std::array::from_fn(|_| self.single());
        match self.next() & 1 {
            0 => singles.iter().fold(0, |v, &s| v << 32 | u128::from(s)),
            _ => u128::from(self.double()) << 64 | u128::from(self.double()),
        }
    }

    fn single(&mut self) -> u32 {
        let random = self.next();
        let (sign, low) = ((random as u32) & 1 << 31, (random >> 32) as u32);
        sign | match random & 15 {
            0 => 0,
            1 => 0x7f80_0000,                                 // infinity
            2 => 0x7fc0_0000 | low & 0x3f_ffff,               // quiet NaN
            3 => 0x7f80_0000 | low & 0x3f_ffff | 1,           // signaling NaN
            4 => low & 0x7f_ffff,                             // denormal
            5 => 0x0080_0000 + (low & 7),                     // smallest normal numbers
            6 => 0x7f7f_fff8 + (low & 7),                     // largest numbers
            7 => 0x3f80_0000 + (low & 3),                     // one and a little
            8 => 0x4f00_0000 - 2 + (low & 3),                 // around 2^31
            9 => 0x5f00_0000 - 2 + (low & 3),                 // around 2^63
            10 => ((low >> 8 & 0xff) as f32 / 2.0).to_bits(), // halves
            11 => 0x3f80_0000 + (low & 0xf800_000f).rotate_left(4) % 0x80_0000, // short significands
            12 => (low & 0x7fff_ffff) % 0x0400_0000, // near the tiny ones
            13 => 0x3e00_0000 + low % 0x0300_0000,   // near one
            _ => low & 0x7fff_ffff,
        }
    }

    fn double(&mut self) -> u64 {
        let random = self.next();
        let (sign, low) = ((random << 32) & 1 << 63, self.next());
        let fraction = low & 0xf_ffff_ffff_ffff;
        sign | match random & 15 {
            0 => 0,
            1 => 0x7ff << 52,
            2 => 0xfff << 51 | fraction >> 1,
            3 => 0x7ff << 52 | fraction >> 1 | 1,
            4 => fraction,
            5 => (1 << 52) + (low & 7),
            6 => (0x7ff << 52) - 1 - (low & 7),
            7 => (0x3ff << 52) + (low & 3),
            8 => f64::from(i32::MAX).to_bits() + (low & 0x1f_ffff) - 0x10_0000,
            9 => (0x43e0 << 48) - 2 + (low & 3),
            10 => ((low & 0xff) as f64 / 2.0).to_bits(),
            11 => f64::from(self.single() as f32).to_bits() & !(1 << 63),
            12 => (low & !(1 << 63)) % (8 << 52),
            13 => (0x3f0 << 52) + low % (0x20 << 52),
            14 => f64::from(f32::from_bits(self.single())).to_bits() & !(1 << 63),
            _ => low & !(1 << 63),
        }
    }
}

/// How operands are made.
#[derive(Clone, Copy)]
pub(super) enum Operands {
    /// Any bits; with many bytes equal among operands, and extreme ones.
    Integers,
    /// Numbers of which many are special.
    Floats,
}

impl Operands {
    fn make(self, random: &mut Random) -> Registers {
        let mut vector = || match self {
            Operands::Floats => random.floats(),
            Operands::Integers => match random.next() % 5 {
                0 => u128::from_le_bytes(std::array::from_fn(|_| {
                    random.pick(&[0, 1, 2, 0x7f, 0x80, 0x81, 0xff, 0xfe])
                })),
                1 => u128::from(random.next() % 70),
                2 => u128::from_le_bytes(std::array::from_fn(|_| (random.next() % 4) as u8)),
                _ => random.next128(),
            },
        };
        let xmm = [vector(), vector(), vector()];
        let mut memory = vector();
        if random.next().is_multiple_of(4) {
            memory = xmm[0];
        }
        let gpr = std::array::from_fn(|_| {
            let shift = random.next() % 64;
            random.next() >> shift ^ 0u64.wrapping_sub(random.next() & 1)
        });
        let rflags = random.next() & ARITHMETIC | 2;
        let mxcsr = random.mxcsr();
        Registers { xmm, memory, gpr, rflags, mxcsr, length: 0, trapped: 0 }
    }
}

/// Executes `instruction` `cases` times on both CPUs and compares everything. `immediate`: the last
/// byte is random each time.
pub(super) fn compare(
    name: &str,
    instruction: &[u8],
    immediate: bool,
    operands: Operands,
    cases: u32,
) {
    let seed = name.bytes().fold(1u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    let mut random = Random(seed);
    // SAFETY: a new mapping, at no fixed address.
    let page = unsafe {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        mmap_anonymous(std::ptr::null_mut(), 4096, protection, MapFlags::PRIVATE).unwrap()
    };
    let host_can = is_x86_feature_detected!("sse4.2")
        && is_x86_feature_detected!("aes")
        && is_x86_feature_detected!("pclmulqdq");
    if !host_can {
        #[expect(clippy::disallowed_macros, reason = "a test's own output")]
        {
            println!("{name}: not compared, this host lacks SSE4.2, AES or PCLMULQDQ");
        }
        return;
    }
    catch_traps();
    let mut bench = Bench::long();
    bench.cpu.model.features = Features::AES | Features::PCLMUL;
    let mut instruction = instruction.to_vec();
    let rounds = if immediate { cases.min(256) } else { 1 };
    for round in 0..rounds {
        if immediate {
            *instruction.last_mut().unwrap() = round as u8;
        }
        let code = wrap(&instruction);
        // SAFETY: the page is ours, large enough, and not executed meanwhile.
        unsafe {
            mprotect(page, 4096, MprotectFlags::READ | MprotectFlags::WRITE).unwrap();
            std::ptr::copy_nonoverlapping(code.as_ptr(), page.cast(), code.len());
            mprotect(page, 4096, MprotectFlags::READ | MprotectFlags::EXEC).unwrap();
        }
        // SAFETY: the page holds a function of this type; see UNSAFETY above.
        let native: extern "sysv64" fn(*mut Registers) = unsafe { std::mem::transmute(page) };
        bench.poke(CODE, &instruction);
        for _ in 0..cases.div_ceil(rounds) {
            let mut before = operands.make(&mut random);
            before.length = instruction.len() as u32;
            let mut expected = before;
            native(&raw mut expected);
            let got = emulate(&mut bench, &before);
            expected.rflags &= ARITHMETIC;
            for (got, expected) in got.xmm.iter().zip(&mut expected.xmm) {
                if name.starts_with("dpp") && is_other_nan(*got, *expected, name) {
                    *expected = *got;
                }
            }
            assert_eq!(
                got, expected,
                "{name} {instruction:02x?}, seed {seed:#x}\nbefore {before:#x?}\ngot {got:#x?}\nexpected {expected:#x?}"
            );
        }
    }
    // SAFETY: mapped above with this size; `native` is gone.
    unsafe { rustix::mm::munmap(page, 4096).unwrap() };
}

/// Whether two results of DPPS or DPPD differ only in which of several quiet NaNs the sum is: newer processors of Intel's (those with
/// AVX-512 FP16) have another one than older ones.
fn is_other_nan(got: u128, expected: u128, name: &str) -> bool {
    let bits = if name == "dpps" { 32 } else { 64 };
    let quiet: u128 = if name == "dpps" { 0x7fc0_0000 } else { 0x7ff8_0000_0000_0000 };
    (0..128 / bits).all(|lane| {
        let [got, expected] = [got, expected].map(|all| all >> (lane * bits) & ((1 << bits) - 1));
        got == expected || got & quiet == quiet && expected & quiet == quiet
    })
}

fn emulate(bench: &mut Bench, before: &Registers) -> Registers {
    bench.poke(DATA, &before.memory.to_le_bytes());
    let cpu = &mut bench.cpu;
    cpu.rip = CODE;
    cpu.xmm[..3].copy_from_slice(&before.xmm);
    cpu.gpr[..3].copy_from_slice(&before.gpr);
    cpu.gpr[crate::gpr::RSI] = DATA;
    cpu.set_rflags(before.rflags);
    cpu.mxcsr = before.mxcsr;
    let trapped = match cpu.try_step(&mut bench.ram, &mut bench.board) {
        Ok(()) => 0,
        Err(AbortReason::Exception { vector: vector::XM, error_code: None }) => 1,
        Err(other) => panic!("{other:?}"),
    };
    let cpu = &bench.cpu;
    Registers {
        xmm: cpu.xmm[..3].try_into().unwrap(),
        memory: u128::from_le_bytes(bench.peek(DATA)),
        gpr: cpu.gpr[..3].try_into().unwrap(),
        rflags: cpu.rflags() & ARITHMETIC,
        mxcsr: cpu.mxcsr,
        length: before.length,
        trapped,
    }
}

/// The same instruction with XMM1 and with [RSI] as its source: `prefix` and `opcode`, then ModRM.
pub(super) fn compare_both_sources(
    name: &str,
    opcode: &[u8],
    immediate: bool,
    operands: Operands,
    cases: u32,
) {
    // XMM0, XMM1 and XMM1, [RSI].
    for modrm in [0xc1, 0x0e] {
        let mut instruction = opcode.to_vec();
        instruction.push(modrm);
        if immediate {
            instruction.push(0);
        }
        compare(name, &instruction, immediate, operands, cases);
    }
}
