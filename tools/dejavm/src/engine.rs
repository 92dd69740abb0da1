//! `--engine`: what executes the guest.

use std::str::FromStr;

/// An engine, as the user names it. All kinds of `soft` do the same, and no recording says which of them it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// `auto`: KVM where it can promise that every replay is exact, and else the software CPU.
    Auto,
    /// `kvm`: the host's processor.
    Kvm,
    /// `kvm,step`: the host's processor by single steps, and the software CPU for all else. As exact as that, and slow.
    KvmSteps,
    /// `soft`: the software CPU as it is fastest.
    Soft,
    /// `soft,interp`: its interpreter of decoded blocks alone.
    Interpreter,
    /// `soft,reference`: its reference semantics alone.
    Reference,
}

impl FromStr for Engine {
    type Err = String;

    fn from_str(text: &str) -> Result<Engine, String> {
        match text {
            "auto" => Ok(Engine::Auto),
            "kvm" => Ok(Engine::Kvm),
            "kvm,step" => Ok(Engine::KvmSteps),
            "soft" => Ok(Engine::Soft),
            "soft,interp" => Ok(Engine::Interpreter),
            "soft,reference" => Ok(Engine::Reference),
            _ => {
                Err("the engines are auto, kvm, kvm,step, soft, soft,interp and soft,reference"
                    .into())
            }
        }
    }
}

impl From<Engine> for dejavm_cpu::Engine {
    fn from(engine: Engine) -> dejavm_cpu::Engine {
        match engine {
            // What KVM leaves to it, the software CPU does as fast as it can.
            Engine::Soft | Engine::Auto | Engine::Kvm | Engine::KvmSteps => {
                dejavm_cpu::Engine::Translator
            }
            Engine::Interpreter => dejavm_cpu::Engine::Interpreter,
            Engine::Reference => dejavm_cpu::Engine::Reference,
        }
    }
}
