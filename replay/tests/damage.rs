//! Damaged, truncated, mutated and random files: a clear error or a shorter replay, never a panic.

mod toy;

use dejavm_replay::{CutShort, FileError, ReadError, ReplayError, Summary};
use std::io::Cursor;
use toy::{Mistake, Random, debugged, recording, replay};

/// What the format says of a frame; declared again here, from the specification.
const FILE_HEADER: usize = 16;
const FRAME: usize = 24;

/// Offsets of the frames of an intact file.
fn frames(file: &[u8]) -> Vec<usize> {
    let mut at = FILE_HEADER;
    let mut found = Vec::new();
    while at < file.len() {
        found.push(at);
        assert_eq!(&file[at..at + 4], b"DVck");
        at += FRAME + u32::from_le_bytes(file[at + 8..at + 12].try_into().unwrap()) as usize;
    }
    found
}

/// Makes the checksums of the chunk at `at` right again.
fn repair(file: &mut [u8], at: usize) {
    let stored = u32::from_le_bytes(file[at + 8..at + 12].try_into().unwrap()) as usize;
    if let Some(payload) = file.get(at + FRAME..(at + FRAME).saturating_add(stored)) {
        let crc = crc32c::crc32c(payload);
        file[at + 16..at + 20].copy_from_slice(&crc.to_le_bytes());
    }
    let crc = crc32c::crc32c(&file[at..at + 20]);
    file[at + 20..at + 24].copy_from_slice(&crc.to_le_bytes());
}

/// Every file must be survived by both readers. Errors must be sentences.
fn survive(file: &[u8]) -> Result<dejavm_replay::Replayed, ReplayError> {
    if let Err(error) = Summary::read(Cursor::new(file)) {
        assert!(error.to_string().len() > 10);
    }
    let result = replay(file, Mistake::default());
    if let Err(error) = &result {
        assert!(error.to_string().len() > 10);
    }
    result.map(|(replayed, _, _)| replayed)
}

#[test]
fn a_file_cut_at_any_byte_replays_to_its_last_chunk_or_says_what_is_missing() {
    let (file, recorded, _) = recording(21, 4000);
    let frames = frames(&file);
    let log = file.len() - recorded.log_bytes as usize;
    let mut last = None;
    for cut in 0..file.len() {
        match survive(&file[..cut]) {
            Ok(replayed) => {
                // No byte more can mean an earlier end.
                assert!(last <= Some(replayed.at), "cut at {cut}");
                last = Some(replayed.at);
                if replayed.ending.is_none() {
                    let offset = cut as u64;
                    assert_eq!(replayed.cut_short, Some(CutShort::Ends { offset }), "cut at {cut}");
                }
            }
            Err(ReplayError::Read(ReadError::File(error))) => {
                assert!(cut < log, "cut at {cut}: {error}");
                match error {
                    FileError::NotARecording => assert!(cut < FILE_HEADER),
                    FileError::Truncated { offset, end } => {
                        assert!(frames.contains(&(offset as usize)), "cut at {cut}: {error}");
                        assert_eq!(end, cut as u64);
                    }
                    error => panic!("cut at {cut}: {error}"),
                }
            }
            Err(error) => panic!("cut at {cut}: {error}"),
        }
    }
    assert_eq!(last, Some(recorded.at), "only the index was missing at last");
}

#[test]
fn a_flipped_bit_anywhere_is_found() {
    let (file, recorded, _) = recording(21, 4000);
    let frames = frames(&file);
    let index = *frames.last().unwrap();
    for byte in 0..file.len() {
        let mut damaged = file.clone();
        damaged[byte] ^= 1 << (byte % 8);
        match survive(&damaged) {
            Ok(replayed) if byte >= index => assert_eq!(replayed.ending, Some(recorded.ending)),
            Ok(replayed) => {
                assert_eq!(replayed.ending, None, "byte {byte}");
                let Some(CutShort::Damaged(error)) = replayed.cut_short else {
                    panic!("byte {byte}: {:?}", replayed.cut_short);
                };
                let chunk = *frames.iter().rfind(|&&at| at <= byte).unwrap();
                assert!(error.to_string().contains(&format!("offset {chunk}")), "{byte}: {error}");
            }
            Err(ReplayError::Read(ReadError::File(_))) => assert!(byte < index),
            Err(error) => panic!("byte {byte}: {error}"),
        }
    }
}

#[test]
fn random_bytes_are_no_recording() {
    let seed = 77;
    let mut random = Random::new(seed);
    let (file, _, _) = recording(21, 4000);
    for round in 0..3000 {
        let mut bytes: Vec<u8> = (0..random.below(400)).map(|_| random.next() as u8).collect();
        // Some with a true beginning, so that the readers get further.
        if round % 2 == 0 {
            let keep = FILE_HEADER + random.below(600) as usize;
            bytes.splice(0..0, file[..keep].iter().copied());
        }
        let _ = survive(&bytes);
    }
}

#[test]
fn mutated_payloads_with_right_checksums_are_survived() {
    let seed = 4711;
    let mut random = Random::new(seed);
    let mut outcomes = [0u32; 4];
    let files: Vec<Vec<u8>> = (0..4)
        .map(|n| if n % 2 == 0 { recording(30 + n, 3000).0 } else { debugged(30 + n, 3000).0 })
        .collect();
    for round in 0..20_000 {
        let mut file = files[round % files.len()].clone();
        let frames = frames(&file);
        for _ in 0..1 + random.below(3) {
            let at = frames[random.below(frames.len() as u64) as usize];
            let stored = u32::from_le_bytes(file[at + 8..at + 12].try_into().unwrap()) as usize;
            match random.below(8) {
                // Payload bytes.
                0..5 if stored > 0 => {
                    let byte = at + FRAME + random.below(stored as u64) as usize;
                    file[byte] = random.next() as u8;
                    repair(&mut file, at);
                }
                // Another kind, codec, size.
                5 => {
                    file[at + 4] = random.below(12) as u8;
                    repair(&mut file, at);
                }
                6 => {
                    file[at + 6] = random.below(3) as u8;
                    repair(&mut file, at);
                }
                _ => {
                    file[at + 12 + random.below(4) as usize] = random.next() as u8;
                    repair(&mut file, at);
                }
            }
        }
        // And chunks in another order, twice, or not at all.
        if random.below(4) == 0 {
            let from = frames[random.below(frames.len() as u64) as usize];
            let to = frames[random.below(frames.len() as u64) as usize];
            let piece = file[from.min(to)..from.max(to)].to_vec();
            let at = frames[random.below(frames.len() as u64) as usize];
            file.splice(at..at, piece);
        }
        eprintln!("seed {seed}, round {round}");
        outcomes[match survive(&file) {
            Ok(_) => 0,
            Err(ReplayError::Divergence(_)) => 1,
            Err(ReplayError::Read(_)) => 2,
            Err(_) => 3,
        }] += 1;
    }
    // Replayed, diverged, unreadable.
    assert!(outcomes[..3].iter().all(|&count| count > 100), "seed {seed}: {outcomes:?}");
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak_kb: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak_kb < 600 << 10, "hostile files took {peak_kb} KiB");
}

#[test]
fn chunks_that_claim_too_much_are_refused_before_memory_is_asked_for() {
    let (file, _, _) = recording(21, 4000);
    let start = frames(&file)[1];
    for (field, value) in [(8, u32::MAX), (8, (16 << 20) + 1), (12, u32::MAX), (12, (64 << 20) + 1)]
    {
        let mut file = file.clone();
        file[start + field..start + field + 4].copy_from_slice(&value.to_le_bytes());
        repair(&mut file, start);
        match survive(&file) {
            Err(ReplayError::Read(ReadError::File(FileError::Oversized { offset, bytes }))) => {
                assert_eq!((offset, bytes), (start as u64, value));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_newer_file_is_refused_and_an_unknown_kind_is_skipped() {
    let (mut file, recorded, _) = recording(21, 4000);
    let header = frames(&file)[0];
    let chunk = {
        let mut chunk = vec![0; FRAME + 5];
        chunk[..4].copy_from_slice(b"DVck");
        chunk[4..6].copy_from_slice(&99u16.to_le_bytes());
        chunk[8] = 5;
        chunk[12] = 5;
        repair(&mut chunk, 0);
        chunk
    };
    for at in frames(&file)[1..].iter().rev() {
        file.splice(at..at, chunk.iter().copied());
    }
    assert_eq!(header, FILE_HEADER);
    assert_eq!(survive(&file).unwrap().at, recorded.at);

    file[10..12].copy_from_slice(&3u16.to_le_bytes());
    let crc = crc32c::crc32c(&file[..12]);
    file[12..16].copy_from_slice(&crc.to_le_bytes());
    let error = survive(&file).unwrap_err().to_string();
    assert!(error.contains("needs a dejavm that reads format 3"), "{error}");
}
