//! Scripts from seeds against every device for so many seconds each, from another seed on each time: what to run where there is no
//! fuzzer. `device_rounds SECONDS [FIRST SEED]`

use dejavm_hostile::devices::{ALL, Entry};
use std::time::{Duration, Instant};

fn rounds(device: &Entry, time: Duration, first: u64) {
    let begun = Instant::now();
    let mut seed = first;
    while begun.elapsed() < time {
        let script = (device.random_script)(seed);
        if std::panic::catch_unwind(|| (device.run)(&script)).is_err() {
            println!("{}: seed {seed} fails", device.name);
            std::process::exit(1);
        }
        seed += 1;
    }
    println!("{}: {} scripts", device.name, seed - first);
}

fn main() {
    let mut numbers = std::env::args().skip(1).map(|argument| argument.parse().expect("a number"));
    let time = Duration::from_secs(numbers.next().unwrap_or(10));
    let first = numbers.next().unwrap_or(1_000_000);
    for device in ALL {
        rounds(device, time, first);
    }
}
