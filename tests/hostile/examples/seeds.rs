//! Writes what fuzzers begin with: `seeds FOLDER` fills `FOLDER/TARGET` for each target of `tests/fuzz`.

use dejavm_hostile::{Seed, devices, seed_recording};
use std::path::{Path, PathBuf};

/// What debuggers say, a packet a line. The first byte is the target's: live or a replay.
const CLIENTS: [&str; 6] = [
    "0qSupported:multiprocess+;swbreak+;hwbreak+\nQStartNoAckMode\nqXfer:features:read:target.xml:0,1000\n?\ng\nqfThreadInfo\n",
    "0?\nZ0,100010,1\nvCont;c\nbs\nbc\nz0,100010,1\nc\nbc\nqRcmd,706f736974696f6e\n",
    "1?\nZ2,100000,4\nvCont;s:1\nM100000,2:9090\nG00\nP10=0000000000000000\nvCont;r100000,100040:1\nD\n",
    "0?\nZ1,100010,1;X6,260000300027\nc\nqXfer:threads:read::0,400\nqThreadExtraInfo,1\nHg1\np10\nx100000,20\nm100000,20\n",
    "0?\nqRcmd,676f746f20656e64\nqRcmd,6c6173742d7772697465203078313030303030\nqRcmd,77686e\nvFile:open:2f6b65726e656c,0,0\nvFile:pread:1,10,0\n",
    "0?\nqXfer:memory-map:read::0,400\nqOffsets\nqqemu.PhyMemMode\nQqemu.PhyMemMode:1\nqqemu.sstepbits\nQqemu.sstep=1\nvKill;1\nk\n",
];

/// What viewers say. The first byte is the target's: long pieces, one let in, one not.
const VIEWERS: [&[u8]; 2] = [
    b"\xfe\x00\0\0\0\x20\x18\0\x01\0\xff\0\xff\0\xff\x10\x08\0\0\0\0\x02\0\0\x02\0\0\0\x10\xff\xff\xff\x21",
    b"\x10RFB 003.008\n\x01\x01\x02\0\0\x01\0\0\0\x05\x03\0\0\0\0\0\xff\xff\xff\xff\x04\x01\0\0\0\0\0A\x05\x01\0\x10\0\x10",
];

/// Where in its file a guest's own code begins, about: before it is what all have.
const OWN_CODE: usize = 0x1130;

/// Larger files are nothing for a fuzzer.
const CHECKPOINT_BYTES_MAX: usize = 1 << 20;

/// Files of guests with the three bytes before them that the target wants.
fn checkpoints() -> std::io::Result<Vec<(&'static str, Vec<u8>)>> {
    let folder = tempfile::tempdir()?;
    let mut all = Vec::new();
    for seed in Seed::all(folder.path()) {
        let from = seed.folder.join("in");
        let state = std::fs::read(from.join(seed.name))?;
        let memory = std::fs::read(from.join(Path::new(seed.name).with_extension("vmem")));
        let (apart, first) = match (&memory, u16::try_from(state.len())) {
            (Ok(_), Ok(bytes)) => (0x80, bytes),
            _ => (0, 0),
        };
        let which = apart | u8::from(seed.name.ends_with(".guest"));
        let mut file = vec![which];
        file.extend(first.to_le_bytes());
        file.extend(state);
        // What is cut off is zero.
        let memory = memory.unwrap_or_default();
        let used = memory.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        file.extend(&memory[..used]);
        if file.len() < CHECKPOINT_BYTES_MAX {
            all.push((seed.name, file));
        }
    }
    Ok(all)
}

fn main() -> std::io::Result<()> {
    let folder = PathBuf::from(std::env::args().nth(1).expect("usage: seeds FOLDER"));
    let write = |target: &str, name: &str, bytes: &[u8]| {
        std::fs::create_dir_all(folder.join(target))?;
        std::fs::write(folder.join(target).join(name), bytes)
    };
    let guests = [
        ("hello", dejavm_images::HELLO),
        ("echo", dejavm_images::ECHO),
        ("timer", dejavm_images::TIMER),
    ];
    for (name, guest) in guests {
        // The target puts the file's first 16 bytes there itself.
        write("recording_file", name, &seed_recording(guest)[16..])?;
    }
    for (name, guest) in dejavm_images::ALL {
        // What each guest has of its own, as code, in each mode: what matters is that there is much of it.
        for mode in 0..4u8 {
            let own = guest.iter().copied().skip(OWN_CODE).take(512);
            let code: Vec<u8> = std::iter::once(mode).chain(own).collect();
            write("guest_code", &format!("{name}-{mode}"), &code)?;
            write("translated_code", &format!("{name}-{mode}"), &code)?;
        }
    }
    for (name, file) in checkpoints()? {
        write("checkpoint_file", name, &file)?;
    }
    // Each guest with each kind of dump; what to change in them, fuzzers find.
    for guest in 0..7u8 {
        for kind in 0..3u8 {
            write("windows_guest", &format!("guest-{guest}-{kind}"), &[guest, kind])?;
        }
    }
    for device in devices::ALL {
        for seed in 1..40 {
            let script = (device.random_script)(seed);
            write(&format!("device_{}", device.name), &format!("script-{seed}"), &script)?;
        }
    }
    for (number, client) in VIEWERS.iter().enumerate() {
        write("viewer", &format!("viewer-{number}"), client)?;
    }
    for (number, client) in CLIENTS.iter().enumerate() {
        write("debugger_client", &format!("client-{number}"), client.as_bytes())?;
    }
    Ok(())
}
