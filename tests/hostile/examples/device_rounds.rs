//! Scripts from seeds against every device for so many seconds each, from another seed on each time: what to run where there is no
//! fuzzer. `device_rounds SECONDS [FIRST SEED]`

use dejavm_hostile::devices::{self, Device, random_script};
use std::time::{Duration, Instant};

fn rounds<D: Device>(name: &str, time: Duration, first: u64) {
    let begun = Instant::now();
    let mut seed = first;
    while begun.elapsed() < time {
        let script = random_script::<D>(seed);
        if std::panic::catch_unwind(|| devices::run::<D>(&script)).is_err() {
            println!("{name}: seed {seed} fails");
            std::process::exit(1);
        }
        seed += 1;
    }
    println!("{name}: {} scripts", seed - first);
}

fn main() {
    let mut numbers = std::env::args().skip(1).map(|argument| argument.parse().expect("a number"));
    let time = Duration::from_secs(numbers.next().unwrap_or(10));
    let first = numbers.next().unwrap_or(1_000_000);
    macro_rules! all {
        ($($device:ident)*) => {
            $(rounds::<devices::$device>(stringify!($device), time, first);)*
        };
    }
    all!(VirtioBlock VirtioNet VirtioRng IdeFunction E1000Card VgaCard Keyboard SerialPort Timer);
    all!(RealTimeClock Pics LocalApic IoApicChip AcpiBlock SystemPorts PciBridges FirmwareConfig);
}
