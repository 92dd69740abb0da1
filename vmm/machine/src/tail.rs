//! What came later than a format: a last field that is not in the file where it says nothing new.
//!
//! `#[serde(with = "dejavm_machine::tail")]` on the last field of what is encoded as a whole. A value that is the default leaves no
//! byte, so what was possible before is encoded as it was before; any other stands behind a byte 1. Reading finds either.

use serde::de::{DeserializeOwned, Deserializer, Error, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeTuple, Serializer};
use std::fmt;
use std::marker::PhantomData;

/// Before a value that is there.
const PRESENT: u8 = 1;

/// Writes a last field.
pub fn serialize<T, S>(value: &T, serializer: S) -> Result<S::Ok, S::Error>
where
    T: Serialize + Default + PartialEq,
    S: Serializer,
{
    if *value == T::default() {
        return serializer.serialize_tuple(0)?.end();
    }
    let mut tail = serializer.serialize_tuple(2)?;
    tail.serialize_element(&PRESENT)?;
    tail.serialize_element(value)?;
    tail.end()
}

/// Reads a last field.
pub fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: DeserializeOwned + Default,
    D: Deserializer<'de>,
{
    struct Tail<T>(PhantomData<T>);
    impl<'de, T: DeserializeOwned + Default> Visitor<'de> for Tail<T> {
        type Value = T;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("nothing, or 1 and a value")
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<T, A::Error> {
            // A byte is missing only where the file ends.
            match seq.next_element::<u8>() {
                Err(_) | Ok(None) => Ok(T::default()),
                Ok(Some(PRESENT)) => {
                    seq.next_element()?.ok_or_else(|| A::Error::custom("its value is missing"))
                }
                Ok(Some(other)) => {
                    Err(A::Error::custom(format!("{other} is no mark of a last field")))
                }
            }
        }
    }
    deserializer.deserialize_tuple(2, Tail(PhantomData))
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Before {
        a: u32,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct After {
        a: u32,
        #[serde(with = "super")]
        more: Vec<u16>,
    }

    fn encode<T: Serialize>(value: &T) -> Vec<u8> {
        bincode::serde::encode_to_vec(value, bincode::config::standard()).unwrap()
    }

    fn decode(bytes: &[u8]) -> Option<(After, usize)> {
        bincode::serde::decode_from_slice(bytes, bincode::config::standard()).ok()
    }

    #[test]
    fn a_default_is_not_in_the_file_and_another_value_is() {
        let old = encode(&Before { a: 7 });
        let none = After { a: 7, more: Vec::new() };
        assert_eq!(encode(&none), old);
        assert_eq!(decode(&old), Some((none, old.len())));
        let some = After { a: 7, more: vec![5, 6] };
        let new = encode(&some);
        assert_eq!(new, [&old[..], &[1, 2, 5, 6]].concat());
        assert_eq!(decode(&new), Some((some, new.len())));
    }

    #[test]
    fn what_is_cut_off_or_marked_otherwise_is_refused() {
        let new = encode(&After { a: 7, more: vec![5, 6] });
        for cut in 2..new.len() {
            assert_eq!(decode(&new[..cut]), None, "{cut}");
        }
        assert_eq!(decode(&[7, 2, 0]), None);
    }
}
