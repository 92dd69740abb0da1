//! The syntax of `.vmx` files: `key = "value"` in lines, `#` begins a comment, `|22` in a value is the byte 0x22.

use std::collections::BTreeMap;

/// What the bytes of a file mean as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    Utf8,
    Windows1252,
}

/// The characters 0x80 to 0x9f of windows-1252; where it has none, the control characters of ISO 8859-1.
const WINDOWS_1252: [char; 32] = [
    '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8d}', 'Ž', '\u{8f}',
    '\u{90}', '‘', '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9d}', 'ž', 'Ÿ',
];

impl Encoding {
    /// As `.encoding` names it.
    fn named(name: &str) -> Option<Encoding> {
        match name.to_ascii_lowercase().as_str() {
            "utf-8" | "utf8" | "us-ascii" | "ascii" => Some(Encoding::Utf8),
            "windows-1252" | "cp1252" | "iso-8859-1" | "latin1" => Some(Encoding::Windows1252),
            _ => None,
        }
    }

    fn decode(self, bytes: &[u8]) -> Option<String> {
        match self {
            Encoding::Utf8 => String::from_utf8(bytes.to_vec()).ok(),
            Encoding::Windows1252 => {
                let character = |byte: &u8| match *byte {
                    byte @ 0x80..=0x9f => WINDOWS_1252[usize::from(byte - 0x80)],
                    byte => char::from(byte),
                };
                Some(bytes.iter().map(character).collect())
            }
        }
    }
}

/// A line's key and value, as bytes.
fn entry(line: &[u8]) -> Option<(&[u8], Vec<u8>)> {
    let equals = line.iter().position(|byte| *byte == b'=')?;
    let (key, value) = (line[..equals].trim_ascii(), line[equals + 1..].trim_ascii());
    if key.is_empty() {
        return None;
    }
    let value = match value.strip_prefix(b"\"") {
        // What follows the closing quote is a comment.
        Some(quoted) => quoted.split(|byte| *byte == b'"').next().unwrap_or_default(),
        None => value.split(|byte| *byte == b'#').next().unwrap_or_default().trim_ascii(),
    };
    Some((key, unescaped(value)))
}

/// A value with `|` and two hexadecimal digits made the byte that they are.
fn unescaped(value: &[u8]) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        let escaped = match (first, behind) {
            (b'|', [high, low, ..]) => digit(*high).zip(digit(*low)),
            _ => None,
        };
        match escaped {
            Some((high, low)) => {
                bytes.push(high << 4 | low);
                rest = &behind[2..];
            }
            None => bytes.push(*first),
        }
    }
    bytes
}

/// Takes a file apart. Keys become small letters: case does not matter in them. Of a key that is there twice the last counts.
pub fn parse(file: &[u8]) -> Result<BTreeMap<String, String>, String> {
    let file = file.strip_prefix(b"\xef\xbb\xbf").unwrap_or(file);
    let mut entries = Vec::new();
    for (number, line) in (1..).zip(file.split(|byte| *byte == b'\n')) {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let Some((key, value)) = entry(line) else {
            return Err(format!("line {number} is not of the form key = \"value\""));
        };
        entries.push((number, key.to_ascii_lowercase(), value));
    }
    let named = entries.iter().rfind(|(_, key, _)| key == b".encoding");
    let encoding = match named {
        Some((_, _, name)) => Encoding::named(&String::from_utf8_lossy(name)),
        // Older files do not say.
        None if entries.iter().all(|(_, _, value)| str::from_utf8(value).is_ok()) => {
            Some(Encoding::Utf8)
        }
        None => Some(Encoding::Windows1252),
    };
    let mut values = BTreeMap::new();
    for (number, key, value) in &entries {
        let text = |bytes: &[u8]| match encoding {
            _ if bytes.is_ascii() => Encoding::Utf8.decode(bytes),
            Some(encoding) => encoding.decode(bytes),
            None => None,
        };
        let (Some(key), Some(value)) = (text(key), text(value)) else {
            return Err(match named {
                Some((_, _, name)) if encoding.is_none() => format!(
                    "line {number} has letters of the encoding {:?}, which is not known here: save the file as UTF-8",
                    String::from_utf8_lossy(name)
                ),
                _ => format!("line {number} is not UTF-8, as the file says it is"),
            });
        };
        values.insert(key, value);
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(file: &[u8], key: &str) -> Option<String> {
        parse(file).unwrap().remove(key)
    }

    #[test]
    fn lines_comments_quotes_and_escapes() {
        let file = b"\xef\xbb\xbf#!/usr/bin/vmware\r\n\r\n  displayName = \"a |22b|22 |7c |zz\" # it\r\nMemSize=256 # MB\n\
                     empty = \"\"\nmemsize = \"512\"\n";
        assert_eq!(value(file, "displayname").unwrap(), "a \"b\" | |zz");
        assert_eq!(value(file, "memsize").unwrap(), "512", "the last one counts");
        assert_eq!(value(file, "empty").unwrap(), "");
        assert_eq!(
            parse(b"a = \"1\"\nnonsense\n").unwrap_err(),
            "line 2 is not of the form key = \"value\""
        );
        assert!(parse(b" = \"1\"").is_err());
    }

    #[test]
    fn letters_are_those_of_the_encoding() {
        let name = |file: &[u8]| value(file, "displayname").unwrap();
        assert_eq!(name(b".encoding = \"windows-1252\"\ndisplayName = \"\x80 \xfc\""), "€ ü");
        assert_eq!(name("displayName = \"ü\"\n.encoding = \"UTF-8\"".as_bytes()), "ü");
        assert_eq!(name(b".encoding = \"UTF-8\"\ndisplayName = \"|C3|BC\""), "ü");
        assert_eq!(name(b"displayName = \"\xfc\""), "ü", "older files do not say");
        assert_eq!(name(b".encoding = \"GBK\"\ndisplayName = \"plain\""), "plain");
        let refusal = |file: &[u8]| parse(file).unwrap_err();
        assert!(refusal(b".encoding = \"GBK\"\nx = \"\xb0\xa1\"").contains("encoding \"GBK\""));
        assert!(refusal(b".encoding = \"UTF-8\"\nx = \"\xfc\"").starts_with("line 2 is not UTF-8"));
    }
}
