//! `--engine`: what executes the guest.

use std::str::FromStr;

/// An engine, as the user names it. All do the same; no recording says which one it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
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
            "soft" => Ok(Engine::Soft),
            "soft,interp" => Ok(Engine::Interpreter),
            "soft,reference" => Ok(Engine::Reference),
            _ => Err("the engines are soft, soft,interp and soft,reference".into()),
        }
    }
}

impl From<Engine> for dejavm_cpu::Engine {
    fn from(engine: Engine) -> dejavm_cpu::Engine {
        match engine {
            Engine::Soft => dejavm_cpu::Engine::Translator,
            Engine::Interpreter => dejavm_cpu::Engine::Interpreter,
            Engine::Reference => dejavm_cpu::Engine::Reference,
        }
    }
}
