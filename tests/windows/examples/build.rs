//! Writes a guest of each kind into a folder, to try things on. usage: build FOLDER
use dejavm_windows_guest::{Options, System, Windows};
use std::path::Path;

fn main() -> std::io::Result<()> {
    let folder = std::env::args().nth(1).expect("a folder");
    for system in System::ALL {
        let folder = Path::new(&folder).join(format!("{system:?}").to_lowercase());
        std::fs::create_dir_all(&folder)?;
        println!("{}", Windows::new(&Options::new(system)).write(&folder)?.display());
    }
    Ok(())
}
