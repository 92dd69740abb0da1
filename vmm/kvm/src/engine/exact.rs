//! Exact positions, slowly: KVM executes instruction by instruction, counted as the software CPU counts them.
//!
//! What is stepped is what a general-purpose instruction of protected or 64-bit mode does in registers and RAM ([`ordinary`]): there a trap
//! flag is one instruction. All else is the software CPU's, who shares the count: whatever a trap flag shows in, is masked by, or is
//! lost over (MOV SS, STI, POPF, PUSHF, INT n, IRET, SYSCALL, HLT), devices, interrupts, repeated strings with their own rule of counting, the time
//! stamp counter, x87 and SSE, and guests that set TF themselves or have breakpoints in their debug registers.
//!
//! *Faults.* An instruction that faults counts nothing, and its handler would run off with the trap flag on its stack. So the guest is stepped with
//! an empty table of interrupts: an exception cannot be delivered, nor the double fault that follows, and the processor shuts down, before
//! anything has changed but registers that we still have. The software CPU then executes the instruction, fault and all. What faults by its page
//! tables is not even tried, and these are marked as accessed before, so nothing is left to when a processor does that.

use super::KvmEngine;
use crate::debug;
use crate::error::{KvmError, refused};
use crate::exits::{Exit, answer};
use crate::guest_debug::{self, Stops};
use crate::registers;
use dejavm_cpu::{Bus, Cpu, CpuState, SegReg, Segment, Stop, Use, control, rflags};
use dejavm_memory::GuestRam;
use dejavm_units::{Gva, PAGE_SIZE, Position};
use iced_x86::{
    Code, Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic,
    OpAccess, OpKind, Register,
};
use kvm_bindings::kvm_regs;

/// Bytes of the longest instruction.
const INSTRUCTION_BYTES_MAX: usize = 15;
/// Flags with which the software CPU executes: steps, resumes, virtual-8086 mode, alignment checks.
const UNUSUAL: u64 = 1 << 8 | rflags::RF | 1 << 17 | 1 << 18;

/// A guest whose registers are in the vCPU.
struct Loaded {
    /// As it was put there; segments and control registers stay so.
    state: CpuState,
    regs: kvm_regs,
    /// Instructions since.
    completed: u64,
}

impl KvmEngine {
    /// As [`Cpu::run_until`], to the last position and flag.
    pub(super) fn run_exactly(
        &mut self,
        cpu: &mut Cpu,
        ram: &mut GuestRam,
        bus: &mut dyn Bus,
        limit: Position,
    ) -> Result<Stop, KvmError> {
        let stops = cpu.stops();
        if !stops.breakpoints.is_empty() || !stops.watchpoints.is_empty() {
            return Ok(cpu.run_until(ram, bus, limit));
        }
        let mut factory = InstructionInfoFactory::new();
        let mut loaded = None;
        loop {
            let position = cpu.position().0 + loaded.as_ref().map_or(0, |is: &Loaded| is.completed);
            if position < limit.0 && !bus.wants_control() && !bus.signal_pending() {
                let here = loaded.take().unwrap_or_else(|| Loaded::of(cpu.state()));
                match self.step_here(cpu, ram, bus, here, &mut factory)? {
                    Ok(next) => {
                        loaded = Some(next);
                        continue;
                    }
                    Err(here) => here.bring_home(cpu),
                }
            } else if let Some(here) = loaded.take() {
                here.bring_home(cpu);
            }
            let next = Position(cpu.position().0.saturating_add(1)).min(limit);
            match cpu.run_until(ram, bus, next) {
                Stop::Limit if next < limit => self.counts.by_software += 1,
                stop => return Ok(stop),
            }
        }
    }

    /// One instruction on KVM, or `Err` with the guest as it was.
    fn step_here(
        &mut self,
        cpu: &mut Cpu,
        ram: &mut GuestRam,
        bus: &mut dyn Bus,
        mut here: Loaded,
        factory: &mut InstructionInfoFactory,
    ) -> Result<Result<Loaded, Loaded>, KvmError> {
        let interrupted = bus.interrupt_pending() && here.regs.rflags & rflags::IF != 0;
        if interrupted || !here.is_usual() || !here.prepare(cpu, ram, bus, factory) {
            return Ok(Err(here));
        }
        if here.completed == 0 {
            let mut state = here.state.clone();
            state.idtr.limit = 0;
            let board = self.board(bus, state.position);
            // The software CPU has executed.
            registers::forget_translations(&self.vcpu, &state, &board)?;
            registers::load(&self.vcpu, &state, &board)?;
            guest_debug::set(&self.vcpu, &Stops { step: true, ..Stops::default() })?;
            let run = self.vcpu.get_kvm_run();
            (run.request_interrupt_window, run.cr8) = (0, bus.cr8().into());
        }
        let at = here.state.position;
        let exit = loop {
            if let Some(exit) = answer(&mut self.vcpu, self.run_bytes, cpu, ram, bus, at)? {
                break exit;
            }
        };
        match exit {
            Exit::Debug { .. } => {}
            // An exception, or what the kernel would emulate and cannot.
            Exit::Shutdown | Exit::CannotEmulate => {
                return Ok(Err(here));
            }
            other => {
                let what = format!("an instruction in registers and RAM ended with {other:?}");
                return Err(KvmError::Entry(what));
            }
        }
        here.regs = self.vcpu.get_regs().map_err(refused("the registers"))?;
        here.regs.rflags &= !UNUSUAL;
        here.completed += 1;
        self.counts.stepped += 1;
        Ok(Ok(here))
    }
}

impl Loaded {
    fn of(state: CpuState) -> Loaded {
        let regs = registers::general(&state);
        Loaded { state, regs, completed: 0 }
    }

    fn bring_home(self, cpu: &mut Cpu) {
        if self.completed > 0 {
            let Loaded { regs, completed, .. } = self;
            cpu.completed_elsewhere(completed, &registers::numbered(&regs), regs.rip, regs.rflags);
        }
    }

    /// Whether a trap flag is one instruction here.
    fn is_usual(&self) -> bool {
        let CpuState { cr0, a20, halted, interrupt_shadow, pending_debug, dr, .. } = &self.state;
        *a20 && !halted
            && !interrupt_shadow
            && *pending_debug == 0
            && cr0 & control::CR0_PE != 0
            && !debug::is_used_by_guest(dr[7])
            && self.regs.rflags & UNUSUAL == 0
    }

    fn is_64_bit(&self) -> bool {
        self.state.efer & control::EFER_LMA != 0
            && self.state.seg[SegReg::Cs as usize].rights.is_long()
    }

    /// Makes ready for the next instruction; `false` if it is the software CPU's.
    fn prepare(
        &self,
        cpu: &mut Cpu,
        ram: &mut GuestRam,
        bus: &mut dyn Bus,
        factory: &mut InstructionInfoFactory,
    ) -> bool {
        let wide = self.is_64_bit();
        let cs = &self.state.seg[SegReg::Cs as usize];
        if !(wide || cs.rights.is_big() && self.is_flat()) {
            return false;
        }
        let start = self.regs.rip;
        let bytes = self.instruction_bytes(cpu, ram, start);
        let bits = if wide { 64 } else { 32 };
        let instruction = Decoder::with_ip(bits, &bytes, start, DecoderOptions::NONE).decode();
        if !ordinary(&instruction) {
            return false;
        }
        let mut uses = vec![(Gva(start), instruction.len() as u64, Use::Fetch)];
        for used in factory.info(&instruction).used_memory() {
            let kind = match used.access() {
                OpAccess::NoMemAccess | OpAccess::None => continue,
                OpAccess::Read | OpAccess::CondRead => Use::Load,
                OpAccess::Write
                | OpAccess::CondWrite
                | OpAccess::ReadWrite
                | OpAccess::ReadCondWrite => Use::Store,
            };
            let Some(at) = used.virtual_address(0, |register, _, _| self.value(register)) else {
                return false;
            };
            let at = if wide { at } else { at & 0xffff_ffff };
            uses.push((Gva(at), used.memory_size().size() as u64, kind));
        }
        cpu.prepare_elsewhere(ram, bus, &uses)
    }

    /// As many as there are.
    fn instruction_bytes(&self, cpu: &Cpu, ram: &GuestRam, start: u64) -> Vec<u8> {
        let mut bytes = vec![0; INSTRUCTION_BYTES_MAX];
        let in_page = (PAGE_SIZE - start % PAGE_SIZE).min(INSTRUCTION_BYTES_MAX as u64) as usize;
        let (first, second) = bytes.split_at_mut(in_page);
        let mut have = 0;
        for (at, into) in [(start, first), (start.wrapping_add(in_page as u64), second)] {
            let found = cpu.inspect(ram, Gva(at), None);
            if found.is_none_or(|gpa| ram.read(gpa, into).is_err()) {
                break;
            }
            have += into.len();
        }
        bytes.truncate(have);
        bytes
    }

    fn is_flat(&self) -> bool {
        let flat = |segment: &Segment| segment.base == 0 && segment.limit == u32::MAX;
        let data = [SegReg::Es, SegReg::Ss, SegReg::Ds];
        flat(&self.state.seg[SegReg::Cs as usize])
            && data.iter().all(|&register| {
                let segment = &self.state.seg[register as usize];
                flat(segment) && segment.rights.is_writable() && !segment.rights.is_expand_down()
            })
            && self.state.seg[SegReg::Ss as usize].rights.is_big()
    }

    /// A register in an address; of segment registers the base.
    fn value(&self, register: Register) -> Option<u64> {
        let base = |at: SegReg| Some(self.state.seg[at as usize].base);
        match register {
            Register::CS | Register::DS | Register::ES | Register::SS if self.is_64_bit() => {
                Some(0)
            }
            Register::CS => base(SegReg::Cs),
            Register::DS => base(SegReg::Ds),
            Register::ES => base(SegReg::Es),
            Register::SS => base(SegReg::Ss),
            Register::FS => base(SegReg::Fs),
            Register::GS => base(SegReg::Gs),
            _ if register.is_gpr() => {
                let whole = registers::numbered(&self.regs)[register.full_register().number()];
                Some(match register.size() {
                    8 => whole,
                    4 => whole & 0xffff_ffff,
                    2 => whole & 0xffff,
                    _ => return None,
                })
            }
            _ => None,
        }
    }
}

/// Whether an instruction is one that is stepped.
fn ordinary(instruction: &Instruction) -> bool {
    let near = match instruction.flow_control() {
        FlowControl::Next
        | FlowControl::UnconditionalBranch
        | FlowControl::IndirectBranch
        | FlowControl::ConditionalBranch
        | FlowControl::Return
        | FlowControl::Call
        | FlowControl::IndirectCall => true,
        FlowControl::Interrupt | FlowControl::XbeginXabortXend | FlowControl::Exception => false,
    };
    let far = instruction.is_jmp_far()
        || instruction.is_jmp_far_indirect()
        || instruction.is_call_far()
        || instruction.is_call_far_indirect()
        || matches!(instruction.mnemonic(), Mnemonic::Retf);
    let repeated = instruction.has_rep_prefix() || instruction.has_repne_prefix();
    let segments = (0..instruction.op_count()).any(|n| {
        instruction.op_kind(n) == OpKind::Register && !instruction.op_register(n).is_gpr()
    });
    // Their operand in memory is not where the address says.
    let far_bit = matches!(
        instruction.mnemonic(),
        Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc
    ) && instruction.op0_kind() == OpKind::Memory
        && instruction.op1_kind() == OpKind::Register;
    near && !far
        && !repeated
        && !segments
        && !far_bit
        && instruction.code() != Code::INVALID
        && is_general_purpose(instruction.mnemonic())
}

/// General-purpose instructions (SDM vol. 1, 5.1) that do the same on every processor, but for flags that the manuals leave undefined.
fn is_general_purpose(mnemonic: Mnemonic) -> bool {
    use Mnemonic as M;
    let moves = matches!(
        mnemonic,
        M::Mov
            | M::Movzx
            | M::Movsx
            | M::Movsxd
            | M::Lea
            | M::Xchg
            | M::Xadd
            | M::Cmpxchg
            | M::Cmpxchg8b
            | M::Bswap
            | M::Push
            | M::Pop
            | M::Leave
            | M::Cbw
            | M::Cwde
            | M::Cdqe
            | M::Cwd
            | M::Cdq
            | M::Cqo
            | M::Lodsb
            | M::Lodsd
            | M::Stosb
            | M::Stosd
            | M::Movsb
            | M::Nop
    );
    let computes = matches!(
        mnemonic,
        M::Add
            | M::Adc
            | M::Sub
            | M::Sbb
            | M::Cmp
            | M::And
            | M::Or
            | M::Xor
            | M::Test
            | M::Not
            | M::Neg
            | M::Inc
            | M::Dec
            | M::Mul
            | M::Imul
            | M::Div
            | M::Idiv
            | M::Shl
            | M::Shr
            | M::Sar
            | M::Rol
            | M::Ror
            | M::Rcl
            | M::Rcr
            | M::Shld
            | M::Shrd
            | M::Bt
            | M::Bts
            | M::Btr
            | M::Btc
            | M::Clc
            | M::Stc
            | M::Cmc
            | M::Cld
            | M::Std
    );
    computes || moves || is_branch(mnemonic) || is_conditional(mnemonic)
}

fn is_branch(mnemonic: Mnemonic) -> bool {
    use Mnemonic as M;
    matches!(
        mnemonic,
        M::Jmp
            | M::Call
            | M::Ret
            | M::Loop
            | M::Loope
            | M::Loopne
            | M::Jcxz
            | M::Jecxz
            | M::Jrcxz
            | M::Jo
            | M::Jno
            | M::Jb
            | M::Jae
            | M::Je
            | M::Jne
            | M::Jbe
            | M::Ja
            | M::Js
            | M::Jns
            | M::Jp
            | M::Jnp
            | M::Jl
            | M::Jge
            | M::Jle
            | M::Jg
    )
}

fn is_conditional(mnemonic: Mnemonic) -> bool {
    use Mnemonic as M;
    matches!(
        mnemonic,
        M::Seto
            | M::Setno
            | M::Setb
            | M::Setae
            | M::Sete
            | M::Setne
            | M::Setbe
            | M::Seta
            | M::Sets
            | M::Setns
            | M::Setp
            | M::Setnp
            | M::Setl
            | M::Setge
            | M::Setle
            | M::Setg
            | M::Cmovo
            | M::Cmovno
            | M::Cmovb
            | M::Cmovae
            | M::Cmove
            | M::Cmovne
            | M::Cmovbe
            | M::Cmova
            | M::Cmovs
            | M::Cmovns
            | M::Cmovp
            | M::Cmovnp
            | M::Cmovl
            | M::Cmovge
            | M::Cmovle
            | M::Cmovg
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether the first instruction of 64-bit or 32-bit code is stepped.
    fn is(bits: u32, bytes: &[u8]) -> bool {
        ordinary(&Decoder::with_ip(bits, bytes, 0x1000, DecoderOptions::NONE).decode())
    }

    #[test]
    fn what_a_trap_flag_is_one_instruction_for() {
        // mov rax, rbx; add [rcx], eax; jne; call; ret; push rax; pop rcx; lodsb; cmovb eax, [rdx]
        for bytes in [
            &[0x48, 0x89, 0xd8][..],
            &[0x01, 0x01],
            &[0x75, 0xfe],
            &[0xe8, 0, 0, 0, 0],
            &[0xc3],
            &[0x50],
            &[0x59],
            &[0xac],
            &[0x0f, 0x42, 0x02],
        ] {
            assert!(is(64, bytes), "{bytes:x?}");
        }
        // mov ss, eax; mov cr0, rax; popfq; pushfq; int 80h; int3; iretq; syscall; sti; hlt; in al, dx; rep stosb; rdtsc; cpuid; lgdt; retf;
        // fld1; addps; bts [rcx], eax; rdrand eax; pause; xgetbv; nothing.
        for bytes in [
            &[0x8e, 0xd0][..],
            &[0x0f, 0x22, 0xc0],
            &[0x9d],
            &[0x9c],
            &[0xcd, 0x80],
            &[0xcc],
            &[0x48, 0xcf],
            &[0x0f, 0x05],
            &[0xfb],
            &[0xf4],
            &[0xec],
            &[0xf3, 0xaa],
            &[0x0f, 0x31],
            &[0x0f, 0xa2],
            &[0x0f, 0x01, 0x10],
            &[0xcb],
            &[0xd9, 0xe8],
            &[0x0f, 0x58, 0xc1],
            &[0x0f, 0xab, 0x01],
            &[0x0f, 0xc7, 0xf0],
            &[0xf3, 0x90],
            &[0x0f, 0x01, 0xd0],
            &[],
        ] {
            assert!(!is(64, bytes), "{bytes:x?}");
        }
        // push ds, a far call and BOUND are of 32-bit code.
        for bytes in [&[0x1e][..], &[0x9a, 0, 0, 0, 0, 8, 0], &[0x62, 0x01]] {
            assert!(!is(32, bytes), "{bytes:x?}");
        }
    }
}
