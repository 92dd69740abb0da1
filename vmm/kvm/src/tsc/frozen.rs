//! A guest's time stamp counter that stands still while the guest runs, or is known not to have.
//!
//! A processor that scales the counter gives the guest `(host counter * ratio >> fraction bits) + offset`. At a rate of 1 kHz that changes
//! once in a millisecond: a *tick*. The offset is set so that the guest reads a chosen value (what the board's clock says, the same on
//! every engine), and the guest runs in windows between two ticks; each tick comes to pass while it is outside:
//!
//! ```text
//!  host counter   ──────────┬───────────────────┬───────────────────┬──────
//!  scaled              7    │         8         │         9         │  10
//!                           │◄──── guest ──►    │◄─ guest ─►        │
//!  offset               set │ v - 8          set│ v - 9
//!  guest reads              │ v v v  v    v     │ v   v   v
//! ```
//!
//! Nothing rests on a timer being in time. After each window the scaled counter is looked at again: it never falls, so if it is what it was
//! before, the guest read nothing but the value. If it is not, the guest *may* have read more, and the recorder is told ([`Held::Passed`]): such a recording's
//! exactness rests on its digests. A value that the guest has read is never followed by a smaller one: a value chosen below what may have been read
//! is raised to it.

/// The fraction bits of the ratio on processors of Intel's and AMD's (SDM vol. 3C, 25.6.5, *TSC multiplier*; AMD's manual vol. 2, *TSC
/// Ratio MSR*).
pub const FRACTION_BITS_INTEL: u32 = 48;
/// AMD's.
pub const FRACTION_BITS_AMD: u32 = 32;

/// How a host's counter becomes a guest's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale {
    ratio: u64,
    fraction_bits: u32,
}

impl Scale {
    /// As Linux computes it for a guest's rate and the host's (`kvm_set_tsc_khz`, `set_tsc_khz`); `None` where the processor has no such
    /// ratio.
    ///
    /// 1 kHz of 2.4 GHz with 32 bits: 2^32 / 2 400 000 = 1789.57, so 1789, and a tick takes 2^32 / 1789 = 2 400 765 cycles.
    pub fn new(guest_khz: u32, host_khz: u32, fraction_bits: u32) -> Option<Scale> {
        let wide = u128::from(guest_khz) << fraction_bits;
        let ratio = wide.checked_div(host_khz.into())?;
        let ratio = u64::try_from(ratio).ok().filter(|&ratio| ratio > 0)?;
        Some(Scale { ratio, fraction_bits })
    }

    /// The host's counter, scaled.
    pub fn scaled(self, host: u64) -> u64 {
        ((u128::from(host) * u128::from(self.ratio)) >> self.fraction_bits) as u64
    }

    /// Cycles of the host's counter until it changes: 1 at least.
    pub fn cycles_left(self, host: u64) -> u64 {
        let next = (u128::from(self.scaled(host)) + 1) << self.fraction_bits;
        // The first at which the product reaches it.
        let first = next.div_ceil(self.ratio.into());
        u64::try_from(first - u128::from(host)).unwrap_or(u64::MAX)
    }
}

/// Before the guest runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// With this offset it reads the value, and is to be out of the guest before so many cycles have passed.
    Open {
        /// For `KVM_VCPU_TSC_OFFSET` (Linux 5.16): a write of IA32_TSC may be taken for an attempt to synchronise processors.
        offset: u64,
        /// Cycles of the host's counter.
        cycles: u64,
    },
    /// The tick is too near: after so many cycles, ask again.
    Wait {
        /// Cycles of the host's counter.
        cycles: u64,
    },
}

/// After it ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// It read nothing but the value.
    Exactly,
    /// It may have read up to so much more.
    Passed {
        /// Ticks.
        by: u64,
    },
}

/// The counter of one guest.
#[derive(Clone, Copy, Debug)]
pub struct Frozen {
    scale: Scale,
    /// A window shorter than that is not worth opening.
    cycles_min: u64,
    /// What may have been read so far, at most.
    highest: u64,
    /// The window that is open: the scaled counter in it.
    open: Option<u64>,
    value: u64,
    passed: u64,
}

impl Frozen {
    /// One that has not been read. Windows of less than `cycles_min` are waited for.
    pub fn new(scale: Scale, cycles_min: u64) -> Frozen {
        Frozen { scale, cycles_min, highest: 0, open: None, value: 0, passed: 0 }
    }

    /// The guest is about to run and is to read `value`; the host's counter is `host` now.
    pub fn open(&mut self, value: u64, host: u64) -> Window {
        assert!(self.open.is_none(), "the guest is outside");
        let cycles = self.scale.cycles_left(host);
        if cycles < self.cycles_min {
            return Window::Wait { cycles };
        }
        let scaled = self.scale.scaled(host);
        self.value = value.max(self.highest);
        self.open = Some(scaled);
        Window::Open { offset: self.value.wrapping_sub(scaled), cycles }
    }

    /// The guest has run, and the host's counter is `host` now.
    pub fn close(&mut self, host: u64) -> Held {
        let scaled = self.open.take().expect("the guest ran");
        let by = self.scale.scaled(host).wrapping_sub(scaled);
        self.highest = self.value.wrapping_add(by);
        if by == 0 {
            return Held::Exactly;
        }
        self.passed += 1;
        Held::Passed { by }
    }

    /// Windows that were passed.
    pub fn passed(&self) -> u64 {
        self.passed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Random(u64);

    impl Random {
        fn below(&mut self, bound: u64) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 >> 11) % bound
        }
    }

    #[test]
    fn ratios_as_the_processors_have_them() {
        let amd = Scale::new(1, 2_400_000, FRACTION_BITS_AMD).unwrap();
        assert_eq!(amd.ratio, 1789);
        assert_eq!(amd.cycles_left(0), 2_400_765);
        let intel = Scale::new(1, 2_400_000, FRACTION_BITS_INTEL).unwrap();
        assert_eq!(intel.ratio, 117_281_240);
        assert_eq!(intel.cycles_left(0), 2_400_001);
        // A host's own rate; one that no ratio has.
        let same = Scale::new(2_400_000, 2_400_000, FRACTION_BITS_AMD).unwrap();
        assert_eq!((same.scaled(77), same.cycles_left(77)), (77, 1));
        assert_eq!(Scale::new(0, 2_400_000, FRACTION_BITS_AMD), None);
        assert_eq!(Scale::new(1, 0, FRACTION_BITS_AMD), None);
    }

    #[test]
    fn cycles_left_are_exact() {
        let mut random = Random(0x7a5c);
        for _ in 0..10_000 {
            let bits = if random.below(2) == 0 { FRACTION_BITS_AMD } else { FRACTION_BITS_INTEL };
            let host_khz = 1_000_000 + random.below(4_000_000) as u32;
            let scale = Scale::new(1 + random.below(1000) as u32, host_khz, bits).unwrap();
            let host = random.below(1 << 50);
            let left = scale.cycles_left(host);
            assert!(left > 0);
            assert_eq!(scale.scaled(host + left - 1), scale.scaled(host), "{scale:?} {host}");
            assert_eq!(scale.scaled(host + left), scale.scaled(host) + 1, "{scale:?} {host}");
        }
    }

    /// A double of the processor: the host's counter goes on all the time, the guest reads at random moments, timers are late by anything,
    /// the thread is put off the processor anywhere. No read is anything but the value unless the window is told to be passed.
    #[test]
    fn what_the_guest_reads_is_the_value_or_is_found_out() {
        for seed in 1..=200u64 {
            let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let bits = if seed % 2 == 0 { FRACTION_BITS_AMD } else { FRACTION_BITS_INTEL };
            let scale = Scale::new(1, 2_000_000 + random.below(2_000_000) as u32, bits).unwrap();
            let mut frozen = Frozen::new(scale, 100_000);
            // How often something takes the processor away, one in so many.
            let rudeness = [1 << 40, 50, 3][seed as usize % 3];
            let mut host = random.below(1 << 45);
            let (mut value, mut last_read, mut passed) = (0u64, 0u64, 0);
            for _ in 0..300 {
                value += random.below(3);
                let (offset, cycles) = loop {
                    match frozen.open(value, host) {
                        Window::Wait { cycles } => host += cycles + random.below(1000),
                        Window::Open { offset, cycles } => break (offset, cycles),
                    }
                };
                let delay = |random: &mut Random| match random.below(rudeness) {
                    0 => random.below(10_000_000),
                    _ => random.below(200),
                };
                // Until the guest runs, until it is kicked a little before the tick, or exits by itself.
                host += delay(&mut random);
                let stay = random.below(cycles.saturating_sub(2_000).max(1));
                let mut reads = Vec::new();
                for _ in 0..random.below(5) {
                    reads.push(scale.scaled(host + random.below(stay + 1)).wrapping_add(offset));
                }
                reads.sort_unstable();
                host += stay;
                if random.below(rudeness) == 0 {
                    host += delay(&mut random);
                    reads.push(scale.scaled(host).wrapping_add(offset));
                }
                host += delay(&mut random);
                let first = value.max(last_read);
                match frozen.close(host) {
                    Held::Exactly => assert!(
                        reads.iter().all(|&read| read == frozen.value),
                        "seed {seed}: {reads:?}, not {}",
                        frozen.value
                    ),
                    Held::Passed { by } => {
                        passed += 1;
                        assert!(
                            reads
                                .iter()
                                .all(|&read| (frozen.value..=frozen.value + by).contains(&read))
                        );
                    }
                }
                if let (Some(&low), Some(&high)) = (reads.first(), reads.last()) {
                    assert!(
                        low >= last_read,
                        "seed {seed}: time went back from {last_read} to {low}"
                    );
                    assert!(low >= first);
                    last_read = high;
                }
                // Where nothing is passed, what is read is what was asked for, on every engine.
                assert!(frozen.passed() > 0 || frozen.value == value);
            }
            assert_eq!(frozen.passed(), passed);
            match rudeness {
                3 => assert!(passed > 10, "seed {seed}: {passed}"),
                50 => {}
                _ => assert_eq!(passed, 0, "seed {seed}"),
            }
        }
    }
}
