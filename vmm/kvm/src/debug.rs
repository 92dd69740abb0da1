//! What a debugger wants, in the processor's debug registers (SDM vol. 3B, 17.2): four addresses, to be executed, written, or read or
//! written. No byte of the guest changes.
//!
//! A stop that is set there is found at the processor's speed. What they cannot hold, the software CPU looks for while it executes in
//! KVM's place, which it does anywhere: more stops than four registers, ranges that would need more, loads told from stores, and
//! guests that use the debug registers themselves.
//!
//! A debug register tells of a watchpoint's hit which part of it was accessed, up to eight bytes, and not which byte.

#[cfg(test)]
mod judged;

use crate::debug_probe::{self, Told};
use crate::guest_debug::{self, BREAKPOINTS, Kind};
use dejavm_cpu::{Cpu, Stops, WatchHit, WatchKind};
use dejavm_units::Gva;

/// DR7's bits L0 to G3: some breakpoint is on.
const ENABLED: u64 = 0xff;

/// What one debug register waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Register {
    address: u64,
    kind: Kind,
    /// Index in [`Stops::watchpoints`]; `None` of breakpoints.
    watchpoint: Option<usize>,
}

impl Register {
    fn tells_writes(&self) -> bool {
        match self.kind {
            Kind::Write(_) => true,
            Kind::Execute | Kind::Access(_) => false,
        }
    }
}

/// How stops are looked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Plan {
    /// There are none.
    #[default]
    Nothing,
    /// By debug registers.
    Registers(Registers),
    /// By the software CPU, in KVM's place.
    Software,
}

/// Debug registers, as many as are used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Registers(Vec<Register>);

impl Plan {
    fn of(stops: &Stops, told: Told) -> Plan {
        if stops.breakpoints.is_empty() && stops.watchpoints.is_empty() {
            return Plan::Nothing;
        }
        let tells = (told.executed || stops.breakpoints.is_empty())
            && (told.accessed || stops.watchpoints.is_empty());
        match assign(stops) {
            Some(registers) if tells => Plan::Registers(Registers(registers)),
            Some(_) | None => Plan::Software,
        }
    }
}

impl Plan {
    /// What the vCPU is to be told. The guest's own debug registers are without effect while there are stops in them.
    pub(crate) fn request(&self) -> guest_debug::Stops {
        let mut stops = guest_debug::Stops::default();
        if let Plan::Registers(Registers(registers)) = self {
            for (into, register) in stops.breakpoints.iter_mut().zip(registers) {
                *into = Some((Gva(register.address), register.kind));
            }
        }
        stops
    }
}

/// The registers that stops need; `None` if there are too few, or if registers cannot tell what is wanted.
fn assign(stops: &Stops) -> Option<Vec<Register>> {
    let mut registers: Vec<Register> = Vec::new();
    let mut add = |address, kind, watchpoint| {
        let register = Register { address, kind, watchpoint };
        if !registers.contains(&register) {
            registers.push(register);
        }
        (registers.len() <= BREAKPOINTS).then_some(())
    };
    for breakpoint in &stops.breakpoints {
        add(breakpoint.at.0, Kind::Execute, None)?;
    }
    for (index, watch) in stops.watchpoints.iter().enumerate() {
        let (mut address, mut left) = (watch.start.0, watch.bytes);
        while left > 0 {
            let mut bytes: u8 = 1 << address.trailing_zeros().min(3);
            while u64::from(bytes) > left {
                bytes /= 2;
            }
            match watch.kind {
                WatchKind::Read => return None,
                WatchKind::Write => add(address, Kind::Write(bytes), Some(index))?,
                WatchKind::Access => {
                    // Where both tell, it was a store.
                    add(address, Kind::Write(bytes), Some(index))?;
                    add(address, Kind::Access(bytes), Some(index))?;
                }
            }
            address = address.checked_add(bytes.into())?;
            left -= u64::from(bytes);
        }
    }
    Some(registers)
}

impl Registers {
    /// The watchpoint that was hit, by what the processor says in DR6: of several the first.
    pub(crate) fn hit(&self, dr6: u64, cpu: &Cpu) -> Option<WatchHit> {
        let watchpoints = &cpu.stops().watchpoints;
        let met = self.0.iter().enumerate().filter(|(n, _)| dr6 >> n & 1 != 0);
        let met = met.filter_map(|(_, register)| Some((register.watchpoint?, register)));
        let met = met.filter(|&(index, _)| {
            watchpoints.get(index).is_some_and(|watch| cpu.is_space_in_use(watch.space))
        });
        // A store says more than the load before it.
        let (index, register) =
            met.min_by_key(|&(index, register)| (index, !register.tells_writes()))?;
        let kind = if register.tells_writes() { WatchKind::Write } else { WatchKind::Read };
        Some(WatchHit { index, address: Gva(register.address), kind, processor: 0 })
    }
}

/// Whether a guest has breakpoints of its own on, by its DR7.
pub(crate) fn is_used_by_guest(dr7: u64) -> bool {
    dr7 & ENABLED != 0
}

/// What a debugger wants of a vCPU.
#[derive(Default)]
pub(crate) struct Debugging {
    /// What debug registers tell of on this host, if that was asked already.
    told: Option<Told>,
    /// The stops that the plan is for.
    stops: Stops,
    plan: Plan,
}

impl Debugging {
    /// How these stops are looked for.
    pub(crate) fn plan(&mut self, stops: &Stops) -> &Plan {
        if self.stops != *stops {
            let told = *self.told.get_or_insert_with(debug_probe::told);
            self.stops = stops.clone();
            self.plan = Plan::of(stops, told);
        }
        &self.plan
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dejavm_cpu::{Breakpoint, Watchpoint};

    const ALL: Told = Told { executed: true, accessed: true };

    fn stops(breakpoints: &[u64], watchpoints: &[(u64, u64, WatchKind)]) -> Stops {
        let breakpoint = |&at: &u64| Breakpoint { at: Gva(at), space: None };
        let watchpoint = |&(start, bytes, kind): &(u64, u64, WatchKind)| Watchpoint {
            start: Gva(start),
            bytes,
            kind,
            space: None,
        };
        Stops {
            breakpoints: breakpoints.iter().map(breakpoint).collect(),
            watchpoints: watchpoints.iter().map(watchpoint).collect(),
        }
    }

    fn registers(stops: &Stops) -> Option<Vec<(u64, Kind)>> {
        let plan = Plan::of(stops, ALL);
        if !matches!(plan, Plan::Registers(_)) {
            return None;
        }
        let set = plan.request().breakpoints.into_iter().flatten();
        Some(set.map(|(at, kind)| (at.0, kind)).collect())
    }

    #[test]
    fn four_registers_hold_what_they_can() {
        use Kind::Execute;
        use WatchKind::{Access, Read, Write};
        assert_eq!(Plan::of(&stops(&[], &[]), ALL), Plan::Nothing);
        let four: Vec<_> = (1..=4).map(|at| (at, Execute)).collect();
        assert_eq!(registers(&stops(&[1, 2, 3, 4], &[])), Some(four.clone()));
        // Twice the same is one.
        assert_eq!(registers(&stops(&[1, 2, 3, 4, 4], &[])), Some(four));
        assert_eq!(registers(&stops(&[1, 2, 3, 4, 5], &[])), None);
        let both = Some(vec![(0x2008, Kind::Write(8)), (0x2008, Kind::Access(8))]);
        assert_eq!(registers(&stops(&[], &[(0x2008, 8, Access)])), both);
        let parts = [(0x2001, Kind::Write(1)), (0x2002, Kind::Write(2)), (0x2004, Kind::Write(1))];
        assert_eq!(registers(&stops(&[], &[(0x2001, 4, Write)])), Some(parts.to_vec()));
        assert_eq!(registers(&stops(&[7, 8], &[(0x2001, 4, Write)])), None);
        assert_eq!(registers(&stops(&[], &[(0x2000, 4, Read)])), None);
        assert_eq!(registers(&stops(&[], &[(0x2000, 33, Write)])), None);
        assert_eq!(registers(&stops(&[], &[(u64::MAX - 3, 8, Write)])), None);
        // A processor that tells less.
        let told = Told { accessed: false, ..ALL };
        assert_eq!(Plan::of(&stops(&[], &[(0x2000, 4, Write)]), told), Plan::Software);
        assert!(matches!(Plan::of(&stops(&[1], &[]), told), Plan::Registers(_)));
    }
}
