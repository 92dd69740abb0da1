//! The software CPU against the processor that the tests run on: random instructions in random
//! states, one at a time in both, and everything that they leave compared.

mod arrange;
pub mod campaign;
pub mod catalogue;
mod compare;
mod emulated;
mod encode;
mod family;
mod host;
pub mod layout;
pub mod native;
mod newer;
pub mod random;
pub mod report;
pub mod shared;
mod test_case;
mod undefined;
mod values;

pub use emulated::Step;
pub use family::Family;
pub use host::RUNNER_COMMAND;
