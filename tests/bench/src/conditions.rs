//! Hits of a breakpoint whose condition does not hold, each second: judged by our stub, and judged by a debugger that is
//! told of each, as QEMU's stub needs it.

use crate::debug::{serve_qemu, serve_recording};
use crate::rsp::Debugger;
use crate::subject::Programs;
use crate::{child, create};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// How often the loop of the guest `spin` goes round, counted down in ECX.
const ROUNDS: u32 = 8_000_000;
/// Its first two instructions: `mov edx, eax; shl edx, 13`.
const LOOP: [u8; 5] = [0x89, 0xc2, 0xc1, 0xe2, 13];
/// Where in the file, and where in memory, the guest's code begins.
const CODE: (usize, u64) = (0x1000, 0x10_0000);
/// Hits that our stub is to refuse.
const HITS: u32 = 1_000_000;
/// Hits that the debugger refuses.
const TOLD_HITS: u32 = 1_000;

/// Hits refused each second.
pub struct Conditions {
    /// By our stub.
    judged: f64,
    /// By a debugger that our stub tells of each.
    told: f64,
    /// By a debugger that QEMU's stub tells of each.
    qemu_told: f64,
}

impl Conditions {
    /// Measures the three.
    pub fn measure(
        programs: &Programs,
        work: &Path,
        limit: Duration,
    ) -> Result<Conditions, String> {
        let image = dejavm_images::SPIN;
        let place = image.windows(LOOP.len()).position(|bytes| bytes == LOOP);
        let at = place.and_then(|place| place.checked_sub(CODE.0)).ok_or("spin has no loop")?;
        let at = CODE.1 + at as u64;
        let (kernel, recording) = (work.join("spin.elf"), work.join("spin.dvr"));
        std::fs::write(&kernel, image).map_err(|error| format!("spin.elf: {error}"))?;
        let mut record = Command::new(&programs.dejavm);
        record.args(["record", "-m", "32", "--force", "--kernel"]).arg(&kernel);
        record.arg("-o").arg(&recording);
        let null = || create(Path::new("/dev/null").to_owned());
        child::run(&mut record, null()?, null()?, limit)?;
        let (_server, mut debugger) = serve_recording(programs, &recording, limit)?;
        let judged = judged(&mut debugger, at)?;
        debugger.monitor("goto start")?;
        let told = told(&mut debugger, at)?;

        let mut qemu = Command::new(&programs.qemu);
        qemu.args(["-accel", "tcg", "-m", "32", "-nodefaults", "-display", "none", "-kernel"]);
        qemu.arg(&kernel);
        let (_server, mut debugger) = serve_qemu(qemu, limit)?;
        let qemu_told = self::told(&mut debugger, at).map_err(|error| format!("qemu: {error}"))?;
        Ok(Conditions { judged, told, qemu_told })
    }

    /// For a person.
    pub fn line(&self) -> String {
        format!(
            "conditions that do not hold: {:.0}/s judged by dejavm's stub; judged by a debugger: {:.0}/s with dejavm, \
             {:.0}/s with qemu\n",
            self.judged, self.told, self.qemu_told
        )
    }

    /// For a program.
    pub fn json(&self) -> Value {
        json!({
            "dejavm_stub_per_second": self.judged,
            "dejavm_told_per_second": self.told,
            "qemu_told_per_second": self.qemu_told,
        })
    }
}

/// As gdb sends `break *AT if $ecx < ROUNDS - HITS`: register 1, a constant of 32 bits, less (unsigned), end.
fn judged(debugger: &mut Debugger, at: u64) -> Result<f64, String> {
    let condition = format!("26000124{:08x}1527", ROUNDS - HITS);
    let point = format!("0,{at:x},1");
    debugger.ask(&format!("Z{point};X{:x},{condition}", condition.len() / 2))?;
    let seconds = debugger.time_stop("c")?;
    let ecx = debugger.ask("p1")?;
    let expected = format!("{:08x}", (ROUNDS - HITS - 1).swap_bytes());
    if ecx != expected {
        return Err(format!("the condition held with ecx {ecx}, not {expected}"));
    }
    debugger.ask(&format!("z{point}"))?;
    Ok(f64::from(HITS) / seconds)
}

/// What gdb does at least at each hit of a condition that it judges itself: look, then step over the breakpoint.
fn told(debugger: &mut Debugger, at: u64) -> Result<f64, String> {
    let point = format!("0,{at:x},1");
    debugger.ask(&format!("Z{point}"))?;
    debugger.time_stop("c")?;
    let started = Instant::now();
    for _ in 0..TOLD_HITS {
        debugger.ask("p1")?;
        debugger.ask(&format!("z{point}"))?;
        debugger.time_stop("s")?;
        debugger.ask(&format!("Z{point}"))?;
        debugger.time_stop("c")?;
    }
    let seconds = started.elapsed().as_secs_f64();
    debugger.ask(&format!("z{point}"))?;
    Ok(f64::from(TOLD_HITS) / seconds)
}
