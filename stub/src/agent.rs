//! Agent expressions: the conditions of breakpoints, compiled by gdb to bytecode and evaluated here, so
//! that a condition that does not hold costs no round trip (the gdb manual, appendix "The GDB Agent
//! Expression Mechanism").

use dejavm_units::Gva;

/// What an expression may look at.
pub trait Machine {
    /// The low 64 bits of a register, by gdb's number.
    fn register(&mut self, number: u16) -> Option<u64>;
    /// Reads `into.len()` bytes; `false` if any is not there.
    fn memory(&mut self, at: Gva, into: &mut [u8]) -> bool;
}

/// Why an expression has no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AgentError {
    /// The bytecode ends without `end`, or within an operand, or a jump leaves it.
    #[error("the bytecode ends early")]
    EndsEarly,
    /// An operation that is unknown, or one for tracing.
    #[error("bytecode {0:#04x} cannot be evaluated")]
    Operation(u8),
    /// More popped than pushed, or more than 100 values.
    #[error("the stack does not hold it")]
    Stack,
    /// Division by zero.
    #[error("division by zero")]
    Division,
    /// A register that is not there.
    #[error("there is no register {0}")]
    Register(u16),
    /// Memory that cannot be read.
    #[error("memory at {0} cannot be read")]
    Memory(Gva),
    /// A loop that goes on for too long.
    #[error("the expression takes too many steps")]
    TooLong,
}

/// As much as the manual lets an expression demand.
const STACK_MAX: usize = 100;
/// Bytecodes have loops; conditions do not need this many.
const STEPS_MAX: u32 = 10_000;

struct Run<'a> {
    code: &'a [u8],
    at: usize,
    stack: [u64; STACK_MAX],
    depth: usize,
}

impl Run<'_> {
    fn operand(&mut self, bytes: usize) -> Result<u64, AgentError> {
        let end = self.at.checked_add(bytes).ok_or(AgentError::EndsEarly)?;
        let operand = self.code.get(self.at..end).ok_or(AgentError::EndsEarly)?;
        self.at = end;
        Ok(operand.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    fn push(&mut self, value: u64) -> Result<(), AgentError> {
        *self.stack.get_mut(self.depth).ok_or(AgentError::Stack)? = value;
        self.depth += 1;
        Ok(())
    }

    fn pop(&mut self) -> Result<u64, AgentError> {
        self.depth = self.depth.checked_sub(1).ok_or(AgentError::Stack)?;
        Ok(self.stack[self.depth])
    }

    /// The value `back` below the top.
    fn peek(&self, back: usize) -> Result<u64, AgentError> {
        let index = self.depth.checked_sub(back + 1).ok_or(AgentError::Stack)?;
        Ok(self.stack[index])
    }

    fn binary(&mut self, operation: impl Fn(u64, u64) -> u64) -> Result<(), AgentError> {
        let right = self.pop()?;
        let left = self.pop()?;
        self.push(operation(left, right))
    }

    fn divide(&mut self, operation: impl Fn(u64, u64) -> Option<u64>) -> Result<(), AgentError> {
        let right = self.pop()?;
        let left = self.pop()?;
        self.push(operation(left, right).ok_or(AgentError::Division)?)
    }

    fn load(&mut self, bytes: usize, machine: &mut dyn Machine) -> Result<(), AgentError> {
        let at = Gva(self.pop()?);
        let mut value = [0; 8];
        let loaded = value.get_mut(..bytes).is_some_and(|into| machine.memory(at, into));
        if !loaded {
            return Err(AgentError::Memory(at));
        }
        self.push(u64::from_le_bytes(value))
    }

    fn jump(&mut self, target: u64) -> Result<(), AgentError> {
        self.at = usize::try_from(target).map_err(|_| AgentError::EndsEarly)?;
        Ok(())
    }
}

/// Keeps `bits` bits and copies the highest of them upwards.
fn sign_extend(value: u64, bits: u64) -> u64 {
    match bits {
        0 => 0,
        1..64 => ((value << (64 - bits)) as i64 >> (64 - bits)) as u64,
        _ => value,
    }
}

fn zero_extend(value: u64, bits: u64) -> u64 {
    if bits < 64 { value & ((1 << bits) - 1) } else { value }
}

fn shift(value: u64, by: u64, shifted: impl Fn(u64, u32) -> u64, beyond: u64) -> u64 {
    u32::try_from(by).ok().filter(|by| *by < 64).map_or(beyond, |by| shifted(value, by))
}

/// Evaluates an expression; its value is what is on top of the stack at `end`, 0 if nothing is.
///
/// # Errors
/// Bytecode that does not evaluate: whoever asks should stop and let gdb decide.
pub fn evaluate(code: &[u8], machine: &mut dyn Machine) -> Result<u64, AgentError> {
    let mut run = Run { code, at: 0, stack: [0; STACK_MAX], depth: 0 };
    for _ in 0..STEPS_MAX {
        let operation = run.operand(1)? as u8;
        match operation {
            0x02 => run.binary(u64::wrapping_add)?,
            0x03 => run.binary(u64::wrapping_sub)?,
            0x04 => run.binary(u64::wrapping_mul)?,
            0x05 => run.divide(|a, b| Some((a as i64).checked_div(b as i64)? as u64))?,
            0x06 => run.divide(u64::checked_div)?,
            0x07 => run.divide(|a, b| Some((a as i64).checked_rem(b as i64)? as u64))?,
            0x08 => run.divide(u64::checked_rem)?,
            0x09 => run.binary(|a, b| shift(a, b, |a, b| a << b, 0))?,
            0x0a => run.binary(|a, b| {
                let sign = (a as i64 >> 63) as u64;
                shift(a, b, |a, b| (a as i64 >> b) as u64, sign)
            })?,
            0x0b => run.binary(|a, b| shift(a, b, |a, b| a >> b, 0))?,
            0x0e => {
                let value = run.pop()?;
                run.push(u64::from(value == 0))?;
            }
            0x0f => run.binary(|a, b| a & b)?,
            0x10 => run.binary(|a, b| a | b)?,
            0x11 => run.binary(|a, b| a ^ b)?,
            0x12 => {
                let value = run.pop()?;
                run.push(!value)?;
            }
            0x13 => run.binary(|a, b| u64::from(a == b))?,
            0x14 => run.binary(|a, b| u64::from((a as i64) < b as i64))?,
            0x15 => run.binary(|a, b| u64::from(a < b))?,
            0x16 | 0x2a => {
                let bits = run.operand(1)?;
                let value = run.pop()?;
                let extend = if operation == 0x16 { sign_extend } else { zero_extend };
                run.push(extend(value, bits))?;
            }
            0x17 => run.load(1, machine)?,
            0x18 => run.load(2, machine)?,
            0x19 => run.load(4, machine)?,
            0x1a => run.load(8, machine)?,
            0x20 => {
                let target = run.operand(2)?;
                if run.pop()? != 0 {
                    run.jump(target)?;
                }
            }
            0x21 => {
                let target = run.operand(2)?;
                run.jump(target)?;
            }
            0x22..=0x25 => {
                let value = run.operand(1 << (operation - 0x22))?;
                run.push(value)?;
            }
            0x26 => {
                let number = run.operand(2)? as u16;
                let value = machine.register(number).ok_or(AgentError::Register(number))?;
                run.push(value)?;
            }
            0x27 => return if run.depth == 0 { Ok(0) } else { run.pop() },
            0x28 => run.push(run.peek(0)?)?,
            0x29 => {
                run.pop()?;
            }
            0x2b => {
                let (top, below) = (run.pop()?, run.pop()?);
                run.push(top)?;
                run.push(below)?;
            }
            0x32 => {
                let back = run.operand(1)? as usize;
                run.push(run.peek(back)?)?;
            }
            0x33 => {
                let (top, middle, bottom) = (run.pop()?, run.pop()?, run.pop()?);
                run.push(top)?;
                run.push(bottom)?;
                run.push(middle)?;
            }
            other => return Err(AgentError::Operation(other)),
        }
    }
    Err(AgentError::TooLong)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Register n holds 100 + n; memory holds its own address's low byte below 0x1000.
    struct Simple;

    impl Machine for Simple {
        fn register(&mut self, number: u16) -> Option<u64> {
            (number < 10).then_some(100 + u64::from(number))
        }
        fn memory(&mut self, at: Gva, into: &mut [u8]) -> bool {
            for (byte, address) in into.iter_mut().zip(at.0..) {
                *byte = address as u8;
            }
            at.0 < 0x1000
        }
    }

    fn value(code: &[u8]) -> Result<u64, AgentError> {
        evaluate(code, &mut Simple)
    }

    #[test]
    fn values() {
        // reg 3; const8 103; equal; end
        assert_eq!(value(&[0x26, 0, 3, 0x22, 103, 0x13, 0x27]), Ok(1));
        // const16 0x102; ref32; end
        assert_eq!(value(&[0x23, 1, 2, 0x19, 0x27]), Ok(0x0504_0302));
        // const8 0xff; ext 8; const8 1; less_signed; end: -1 < 1
        assert_eq!(value(&[0x22, 0xff, 0x16, 8, 0x22, 1, 0x14, 0x27]), Ok(1));
        assert_eq!(value(&[0x22, 0xff, 0x16, 8, 0x22, 1, 0x15, 0x27]), Ok(0));
        // 7 - 2 * 3, by swapping
        assert_eq!(value(&[0x22, 2, 0x22, 3, 4, 0x22, 7, 0x2b, 3, 0x27]), Ok(1));
        // 1 << 64 and -1 >> 70, arithmetically
        assert_eq!(value(&[0x22, 1, 0x22, 64, 9, 0x27]), Ok(0));
        assert_eq!(value(&[0x22, 0xff, 0x16, 8, 0x22, 70, 0x0a, 0x27]), Ok(u64::MAX));
        // rot: a b c => c a b
        assert_eq!(value(&[0x22, 1, 0x22, 2, 0x22, 3, 0x33, 0x27]), Ok(2));
        assert_eq!(value(&[0x22, 1, 0x22, 2, 0x22, 3, 0x33, 0x29, 0x29, 0x27]), Ok(3));
        assert_eq!(value(&[0x22, 5, 0x22, 6, 0x32, 1, 0x27]), Ok(5));
        // if_goto over `const8 0; end`
        assert_eq!(value(&[0x22, 1, 0x20, 0, 8, 0x22, 0, 0x27, 0x22, 9, 0x27]), Ok(9));
        assert_eq!(value(&[0x27]), Ok(0));
    }

    #[test]
    fn what_does_not_evaluate() {
        assert_eq!(value(&[]), Err(AgentError::EndsEarly));
        assert_eq!(value(&[0x25, 1]), Err(AgentError::EndsEarly));
        assert_eq!(value(&[2, 0x27]), Err(AgentError::Stack));
        assert_eq!(value(&[0x21, 0, 0]), Err(AgentError::TooLong));
        assert_eq!(value(&[0x21, 0xff, 0xff]), Err(AgentError::EndsEarly));
        assert_eq!(value(&[0x22, 1, 0x28, 0x21, 0, 2]), Err(AgentError::Stack));
        assert_eq!(value(&[0x22, 1, 0x22, 0, 5, 0x27]), Err(AgentError::Division));
        assert_eq!(value(&[0x26, 1, 0, 0x27]), Err(AgentError::Register(256)));
        assert_eq!(value(&[0x23, 0x10, 0, 0x17, 0x27]), Err(AgentError::Memory(Gva(0x1000))));
        assert_eq!(value(&[0x0c]), Err(AgentError::Operation(0x0c)));
        // The most negative number divided by -1 has no quotient.
        let code = [0x25, 0x80, 0, 0, 0, 0, 0, 0, 0, 0x22, 0xff, 0x16, 8, 5, 0x27];
        assert_eq!(value(&code), Err(AgentError::Division));
    }
}
