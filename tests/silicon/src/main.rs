//! `silicon`: the comparison by hand, and the native runner that it starts.

use dejavm_silicon::campaign::{self, Plan};
use dejavm_silicon::catalogue::Catalogue;
use dejavm_silicon::{Family, RUNNER_COMMAND, Step, native};
use std::process::ExitCode;

const USAGE: &str = "usage: silicon triage FAMILY [--cases N] [--seed S] [--batch B] [--case C] \
                     [--decoded|--translated] [--workers W] [--mnemonic M]
FAMILY: integer64 integer32 x87mmx64 x87mmx32 sse64 sse32 all";

struct Options {
    families: Vec<Family>,
    cases: u64,
    seed: u64,
    batch: Option<u64>,
    case: Option<usize>,
    step: Step,
    workers: usize,
    mnemonic: Option<String>,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == RUNNER_COMMAND) {
        return be_runner(&arguments);
    }
    match parse(&arguments).and_then(|options| triage(&options)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::from(2)
        }
    }
}

fn be_runner(arguments: &[String]) -> ExitCode {
    let [_, bits, fd] = arguments else { return ExitCode::from(2) };
    let Ok(fd) = fd.parse() else { return ExitCode::from(2) };
    match native::main(bits == "32", fd) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("native runner: {error}");
            ExitCode::FAILURE
        }
    }
}

fn parse(arguments: &[String]) -> Result<Options, String> {
    let [command, family, rest @ ..] = arguments else { return Err(USAGE.to_owned()) };
    if command != "triage" {
        return Err(USAGE.to_owned());
    }
    let families =
        if family == "all" { Family::ALL.to_vec() } else { vec![family.parse::<Family>()?] };
    let mut options = Options {
        families,
        cases: 500_000,
        seed: 1,
        batch: None,
        case: None,
        step: Step::Reference,
        workers: std::thread::available_parallelism().map_or(1, usize::from),
        mnemonic: None,
    };
    let mut rest = rest.iter();
    while let Some(name) = rest.next() {
        if name == "--decoded" {
            options.step = Step::Decoded;
            continue;
        }
        if name == "--translated" {
            options.step = Step::Translated;
            continue;
        }
        let value = rest.next().ok_or_else(|| format!("{name} wants a value\n{USAGE}"))?;
        let number = || value.parse::<u64>().map_err(|_| format!("{name}: {value} is no number"));
        match name.as_str() {
            "--cases" => options.cases = number()?,
            "--seed" => options.seed = number()?,
            "--batch" => options.batch = Some(number()?),
            "--case" => options.case = Some(number()? as usize),
            "--workers" => options.workers = number()? as usize,
            "--mnemonic" => options.mnemonic = Some(value.clone()),
            _ => return Err(format!("unknown option {name}\n{USAGE}")),
        }
    }
    Ok(options)
}

/// Prints what each mnemonic did; whether all agreed.
fn triage(options: &Options) -> Result<bool, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut all_agree = true;
    for family in &options.families {
        let catalogue = Catalogue::new(*family);
        let plan = Plan {
            family: *family,
            seed: options.seed,
            cases: options.cases,
            only_batch: options.batch,
            only_case: options.case,
            workers: options.workers,
            program: program.clone(),
            step: options.step,
            mismatches_max: u64::MAX,
        };
        let report = campaign::run(&plan, &catalogue);
        println!("{family}: seed {}", options.seed);
        for (mnemonic, tally) in &report.tallies {
            let name = format!("{mnemonic:?}");
            let named = options.mnemonic.as_ref().is_none_or(|wanted| *wanted == name);
            if !named || tally.mismatches == 0 {
                continue;
            }
            println!(
                "{name}: {} cases, {} exceptions, {} mismatches",
                tally.cases, tally.exceptions, tally.mismatches
            );
            if let Some((_, _, text)) = &tally.first {
                println!("{text}");
            }
        }
        println!(
            "{family}: {} cases, {} mismatches; {} of {} forms",
            report.cases,
            report.mismatches,
            catalogue.forms.len() - report.missed(&catalogue).len(),
            catalogue.forms.len()
        );
        if options.batch.is_none() {
            println!("not covered: {:?}", report.missed(&catalogue));
        }
        if let Some(broken) = &report.broken {
            return Err(broken.clone());
        }
        all_agree &= report.mismatches == 0;
    }
    Ok(all_agree)
}
