//! A campaign: many batches of one family on all workers.

use crate::catalogue::Catalogue;
use crate::compare;
use crate::emulated::{Guest, Mode, Step};
use crate::family::Family;
use crate::host::{Host, HostError};
use crate::report;
use crate::shared::{CASES, COMPLETED};
use crate::test_case::Batch;
use iced_x86::Mnemonic;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// What to run.
#[derive(Clone)]
pub struct Plan {
    /// Instructions.
    pub family: Family,
    /// Everything random follows from it.
    pub seed: u64,
    /// Tests, rounded up to whole batches.
    pub cases: u64,
    /// Only this batch.
    pub only_batch: Option<u64>,
    /// Only this case of each batch counts.
    pub only_case: Option<usize>,
    /// Threads, each with a runner process of its own.
    pub workers: usize,
    /// The `silicon` program, which the runners execute.
    pub program: PathBuf,
    /// What executes in the software CPU.
    pub step: Step,
    /// Stop after this many mismatches.
    pub mismatches_max: u64,
}

/// What one mnemonic did.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Tests.
    pub cases: u64,
    /// Of these, how many ended in an exception on the host.
    pub exceptions: u64,
    /// Of all, how many disagreed.
    pub mismatches: u64,
    /// The first disagreement by batch and case, in full.
    pub first: Option<(u64, usize, String)>,
}

/// What a campaign found.
pub struct Report {
    /// By mnemonic.
    pub tallies: BTreeMap<Mnemonic, Tally>,
    /// Tests per form of the catalogue.
    pub forms: Vec<u64>,
    /// All tests.
    pub cases: u64,
    /// All disagreements.
    pub mismatches: u64,
    /// A batch that could not be run or judged.
    pub broken: Option<String>,
}

/// Runs a campaign.
pub fn run(plan: &Plan, catalogue: &Catalogue) -> Report {
    let report = Mutex::new(Report {
        tallies: BTreeMap::new(),
        forms: vec![0; catalogue.forms.len()],
        cases: 0,
        mismatches: 0,
        broken: None,
    });
    let next = AtomicU64::new(plan.only_batch.unwrap_or(0));
    let end = match plan.only_batch {
        Some(batch) => batch + 1,
        None => plan.cases.div_ceil(CASES as u64),
    };
    std::thread::scope(|scope| {
        for _ in 0..plan.workers {
            scope.spawn(|| {
                let worked = work(plan, catalogue, &next, end, &report);
                if let Err(why) = worked {
                    let mut report = report.lock().expect("no worker panics with the lock");
                    report.broken.get_or_insert(why);
                    next.store(end, Ordering::Relaxed);
                }
            });
        }
    });
    report.into_inner().expect("no worker panics with the lock")
}

fn work(
    plan: &Plan,
    catalogue: &Catalogue,
    next: &AtomicU64,
    end: u64,
    report: &Mutex<Report>,
) -> Result<(), String> {
    let mut host = Host::start(&plan.program, plan.family.bits()).map_err(|e| e.to_string())?;
    let modes: &[Mode] = match plan.family.bits() {
        64 => &[Mode::Long],
        _ => &[Mode::Compatibility, Mode::Legacy],
    };
    let mut guests: Vec<Guest> = modes.iter().map(|mode| Guest::new(*mode, plan.step)).collect();
    // Whatever else executes must do what the reference semantics do, undefined flags included.
    let mut references: Vec<Guest> = match plan.step {
        Step::Reference => Vec::new(),
        Step::Decoded | Step::Translated => {
            modes.iter().map(|mode| Guest::new(*mode, Step::Reference)).collect()
        }
    };
    let mut captures = [vec![0u8; CASES * 2048], vec![0u8; CASES * 2048]];
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= end {
            return Ok(());
        }
        let batch = Batch::new(catalogue, plan.step, plan.seed, number);
        let n = number as usize % guests.len();
        let pair = Pair { guest: &mut guests[n], reference: references.get_mut(n) };
        let found = judge(plan, &batch, catalogue, &mut host, pair, &mut captures)?;
        let mut report = report.lock().expect("no worker panics with the lock");
        report.add(found);
        if report.mismatches >= plan.mismatches_max {
            next.store(end, Ordering::Relaxed);
        }
    }
}

/// The software CPU under test, and one by the reference semantics unless it is that already.
struct Pair<'a> {
    guest: &'a mut Guest,
    reference: Option<&'a mut Guest>,
}

/// Runs a batch in both and compares.
fn judge(
    plan: &Plan,
    batch: &Batch,
    catalogue: &Catalogue,
    host: &mut Host,
    pair: Pair<'_>,
    [captures, reference_captures]: &mut [Vec<u8>; 2],
) -> Result<Report, String> {
    let Pair { guest, mut reference } = pair;
    if let Err(error) = host.run(batch) {
        return Err(explain(&error, batch, host));
    }
    let arena = host.outcomes();
    guest.load(batch);
    if let Some(reference) = &mut reference {
        reference.load(batch);
    }
    let mut report = Report {
        tallies: BTreeMap::new(),
        forms: vec![0; catalogue.forms.len()],
        cases: batch.tests.len() as u64,
        mismatches: 0,
        broken: None,
    };
    for (n, test) in batch.tests.iter().enumerate() {
        if plan.only_case.is_some_and(|only| only != n) {
            continue;
        }
        let mut native = arena.outcomes[n];
        compare::normalise(test, &mut native);
        let soft = guest.run(batch, test, captures);
        let with_fx = batch.family.has_fx();
        let mut difference =
            compare::compare(test, with_fx, (&native, &arena.captures), (&soft, captures));
        if let (None, Some(reference)) = (&difference, &mut reference) {
            let outcome = reference.run(batch, test, reference_captures);
            let (exact, soft) = ((&outcome, &reference_captures[..]), (&soft, &captures[..]));
            difference = compare::compare_exactly(test, with_fx, exact, soft);
        }
        let tally = report.tallies.entry(test.instruction.mnemonic()).or_default();
        tally.cases += 1;
        tally.exceptions += u64::from(native.vector != COMPLETED);
        if let Some(place) = catalogue.place(test.instruction.code()) {
            report.forms[place] += 1;
        }
        if let Some(difference) = difference {
            report.mismatches += 1;
            tally.mismatches += 1;
            if tally.first.is_none() {
                let text = report::mismatch(batch, n, &native, &difference);
                tally.first = Some((batch.number, n, text));
            }
        }
    }
    if !guest.is_pristine(batch) {
        let culprit = find_stray(batch, guest, captures);
        return Err(format!("the software CPU changed what a case cannot change:\n{culprit}"));
    }
    Ok(report)
}

/// Which case of a batch writes where it must not.
fn find_stray(batch: &Batch, guest: &mut Guest, captures: &mut [u8]) -> String {
    for (n, test) in batch.tests.iter().enumerate() {
        guest.load(batch);
        guest.run(batch, test, captures);
        if !guest.is_pristine(batch) {
            return report::describe(batch, n);
        }
    }
    "none when run alone".to_owned()
}

fn explain(error: &HostError, batch: &Batch, host: &mut Host) -> String {
    match error {
        HostError::Stray => {
            let alone = |n: &usize| matches!(host.run(&batch.only(*n)), Err(HostError::Stray));
            let culprit = (0..batch.tests.len()).find(alone);
            let culprit = culprit.map(|n| report::describe(batch, n)).unwrap_or_default();
            format!("{error} (family {}, batch {})\n{culprit}", batch.family, batch.number)
        }
        HostError::Died { case, .. } | HostError::Hangs { case } => {
            format!("{error}\n{}", report::describe(batch, *case))
        }
        HostError::Io(_) => {
            format!("{error} (family {}, batch {})", batch.family, batch.number)
        }
    }
}

impl Report {
    fn add(&mut self, other: Report) {
        self.cases += other.cases;
        self.mismatches += other.mismatches;
        for (to, from) in self.forms.iter_mut().zip(&other.forms) {
            *to += from;
        }
        for (mnemonic, from) in other.tallies {
            let to = self.tallies.entry(mnemonic).or_default();
            to.cases += from.cases;
            to.exceptions += from.exceptions;
            to.mismatches += from.mismatches;
            // The least by batch and case, so that the choice does not depend on the workers.
            if let Some(first) = from.first
                && to.first.as_ref().is_none_or(|known| (first.0, first.1) < (known.0, known.1))
            {
                to.first = Some(first);
            }
        }
    }

    /// Forms of the catalogue that no test had.
    pub fn missed<'a>(&self, catalogue: &'a Catalogue) -> Vec<&'a str> {
        let forms = catalogue.forms.iter().zip(&self.forms);
        forms.filter(|(_, n)| **n == 0).map(|(form, _)| form.info.instruction_string()).collect()
    }

    /// The first disagreement of each mnemonic that has any.
    pub fn examples(&self) -> impl Iterator<Item = (&Mnemonic, &Tally)> {
        self.tallies.iter().filter(|(_, tally)| tally.mismatches != 0)
    }
}
