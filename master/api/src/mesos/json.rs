//! Mesos's JSON of protobuf messages (stout's `json.hpp`, `protobuf.hpp`): names as in the `.proto`, enums by
//! name, bytes in base64, what is not set left out.
//!
//! Readers are as lenient as Mesos: keys that are not known are skipped, `null` is as if it were not there, a
//! whole number may be written `2.0`, an enum's name that is not known leaves the field unset.

use std::{collections::BTreeMap, marker::PhantomData};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{DeserializeOwned, Error as _},
};
use serde_json::{Number, Value};

/// Most JSON objects in one call. Each becomes a message of some hundred bytes, whatever little is in it.
pub const MAX_OBJECTS: usize = 100_000;

/// Why a body is no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct JsonError(String);

/// Reads a message.
pub fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, JsonError> {
    let objects = body.split(|b| *b == b'{').count() - 1;
    if objects > MAX_OBJECTS {
        return Err(JsonError(format!(
            "must hold at most {MAX_OBJECTS} objects, holds {objects}"
        )));
    }
    let strict = &mut serde_json::Deserializer::from_slice(body);
    if let Ok(message) = serde_path_to_error::deserialize(&mut *strict)
        && strict.end().is_ok()
    {
        return Ok(message);
    }
    let mut value: Value = serde_json::from_slice(body).map_err(|e| JsonError(e.to_string()))?;
    soften(&mut value);
    serde_path_to_error::deserialize(value).map_err(|e| {
        let (path, rule) = (e.path().to_string(), e.into_inner().to_string());
        JsonError(match path.as_str() {
            "." => rule,
            path => format!("{path}: {rule}"),
        })
    })
}

/// Writes a message.
pub fn write(message: &impl Serialize) -> Vec<u8> {
    // Messages have string keys only, so this can't fail.
    serde_json::to_vec(message).unwrap_or_default()
}

/// Takes nulls away and makes whole numbers of what is written `2.0`.
fn soften(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, v| !v.is_null());
            map.values_mut().for_each(soften);
        }
        Value::Array(items) => {
            items.retain(|v| !v.is_null());
            items.iter_mut().for_each(soften);
        }
        Value::Number(n) => {
            #[allow(
                clippy::cast_possible_truncation,
                reason = "whole and within 2^53, where doubles are exact"
            )]
            let whole = n
                .as_f64()
                .filter(|f| n.is_f64() && f.fract() == 0.0 && f.abs() < 9e15)
                .map(|f| f as i64);
            if let Some(whole) = whole {
                *value = Value::Number(Number::from(whole));
            }
        }
        _ => {}
    }
}

/// Whether a field is left out.
pub trait Unset {
    /// Optional fields that are not set, empty lists and maps; never what a message always has.
    fn is_unset(&self) -> bool;
}

impl<T> Unset for Option<T> {
    fn is_unset(&self) -> bool {
        self.is_none()
    }
}

impl<T> Unset for Vec<T> {
    fn is_unset(&self) -> bool {
        self.is_empty()
    }
}

impl<K, V> Unset for BTreeMap<K, V> {
    fn is_unset(&self) -> bool {
        self.is_empty()
    }
}

macro_rules! always_set {
    ($($t:ty),*) => {
        $(impl Unset for $t {
            fn is_unset(&self) -> bool {
                false
            }
        })*
    };
}

always_set!(String, bool, i32, u32, i64, u64, f64);

/// An enum with Mesos's names.
pub trait Named: TryFrom<i32> + Into<i32> + Copy {
    /// As in the `.proto`.
    fn name(self) -> &'static str;
    /// The value with a name.
    fn named(name: &str) -> Option<Self>;
}

/// How an enum's field is read and written.
pub struct Enum<E>(PhantomData<E>);

/// Fields that hold enums as numbers.
pub trait EnumField: Sized {
    /// Writes names; numbers without a name stay numbers.
    fn write<E: Named, S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error>;
    /// Reads names.
    fn read<'de, E: Named, D: Deserializer<'de>>(d: D) -> Result<Self, D::Error>;
}

#[derive(Serialize)]
#[serde(untagged)]
enum NameOrNumber {
    Name(&'static str),
    Number(i32),
}

impl NameOrNumber {
    fn of<E: Named>(number: i32) -> Self {
        E::try_from(number).map_or(Self::Number(number), |e| Self::Name(e.name()))
    }
}

impl EnumField for Option<i32> {
    fn write<E: Named, S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        self.map(NameOrNumber::of::<E>).serialize(s)
    }

    fn read<'de, E: Named, D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let name = String::deserialize(d)?;
        Ok(E::named(&name).map(Into::into))
    }
}

impl EnumField for Vec<i32> {
    fn write<E: Named, S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(self.iter().map(|n| NameOrNumber::of::<E>(*n)))
    }

    fn read<'de, E: Named, D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let names: Vec<String> = Vec::deserialize(d)?;
        let known = names.iter().filter_map(|n| E::named(n));
        Ok(known.map(Into::into).collect())
    }
}

impl<E: Named> Enum<E> {
    /// For `#[serde(with)]`.
    pub fn serialize<F: EnumField, S: Serializer>(field: &F, s: S) -> Result<S::Ok, S::Error> {
        field.write::<E, S>(s)
    }

    /// For `#[serde(with)]`.
    pub fn deserialize<'de, F: EnumField, D: Deserializer<'de>>(d: D) -> Result<F, D::Error> {
        F::read::<E, D>(d)
    }
}

/// How bytes are read and written.
pub struct Base64;

/// Fields that hold bytes.
pub trait BytesField: Sized {
    /// The bytes, if any.
    fn bytes(&self) -> Option<&[u8]>;
    /// A field of these bytes.
    fn of(bytes: Vec<u8>) -> Self;
}

impl BytesField for Vec<u8> {
    fn bytes(&self) -> Option<&[u8]> {
        Some(self)
    }

    fn of(bytes: Vec<u8>) -> Self {
        bytes
    }
}

impl BytesField for Option<Vec<u8>> {
    fn bytes(&self) -> Option<&[u8]> {
        self.as_deref()
    }

    fn of(bytes: Vec<u8>) -> Self {
        Some(bytes)
    }
}

impl Base64 {
    /// For `#[serde(with)]`.
    pub fn serialize<F: BytesField, S: Serializer>(field: &F, s: S) -> Result<S::Ok, S::Error> {
        field.bytes().map(|b| STANDARD.encode(b)).serialize(s)
    }

    /// For `#[serde(with)]`.
    pub fn deserialize<'de, F: BytesField, D: Deserializer<'de>>(d: D) -> Result<F, D::Error> {
        let text = String::deserialize(d)?;
        let bytes = STANDARD.decode(text.as_bytes());
        bytes
            .map(F::of)
            .map_err(|e| D::Error::custom(format!("must be base64: {e}")))
    }
}
