//! Writes a guest of each kind into a folder, to try things on. usage: build FOLDER [MIB]
//!
//! With MIB, 64-bit guests have so much memory above 4 GiB, of zeros.

use dejavm_windows_guest::{Options, System, Windows};
use std::path::Path;

fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().expect("usage: build FOLDER [MIB]");
    let mib: Option<u64> = arguments.next().and_then(|mib| mib.parse().ok());
    for system in System::ALL {
        let mut options = Options::new(system);
        let pages = mib.filter(|_| system.is_64()).map(|mib| mib << 8);
        options.runs = pages.map(|pages| vec![(1, 0x9e), (0x100, 0x2f00), (0x10_0000, pages)]);
        let mut guest = Windows::new(&options);
        if let Some(pages) = pages {
            guest.regions[1].pages = pages;
        }
        let folder = Path::new(&folder).join(format!("{system:?}").to_lowercase());
        std::fs::create_dir_all(&folder)?;
        println!("{}", guest.write(&folder)?.display());
    }
    Ok(())
}
