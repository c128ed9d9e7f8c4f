//! Mesos's JSON of protobuf messages (stout's `json.hpp`, `protobuf.hpp`): names as in the `.proto`, enums by
//! name, bytes in base64, what is not set left out.
//!
//! Readers are as lenient as Mesos: keys that are not known are skipped, `null` is as if it were not there, a
//! whole number may be written `2.0`, an enum's name that is not known leaves the field unset, one message may stand
//! where a list of them is expected, and a message of one `value` where bytes are.

use std::{collections::BTreeMap, fmt, marker::PhantomData};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{
        DeserializeOwned, MapAccess, SeqAccess, Visitor,
        value::{MapAccessDeserializer, SeqAccessDeserializer},
    },
};
use serde_json::{Number, Value};

/// Most JSON objects, and most lists, in one call. Each becomes a message of some hundred bytes, whatever little is
/// in it.
pub const MAX_OBJECTS: usize = 100_000;
/// Most items of lists and objects in one call, all together.
pub const MAX_ITEMS: usize = 500_000;
/// How deep lists and objects may be in each other.
pub const MAX_DEPTH: usize = 100;

/// Why a body is no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct JsonError(String);

/// Whether a body is bounded in depth and in what is in it, so that it can be read; not whether it is JSON.
pub fn check(body: &[u8]) -> Result<(), JsonError> {
    let (mut objects, mut lists, mut commas) = (0usize, 0usize, 0usize);
    let (mut depth, mut deepest) = (0usize, 0usize);
    let (mut in_text, mut escaped) = (false, false);
    for b in body {
        match b {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            _ if in_text => {}
            b'{' | b'[' => {
                objects += usize::from(*b == b'{');
                lists += usize::from(*b == b'[');
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b',' => commas += 1,
            _ => {}
        }
    }
    for (what, n, max) in [
        ("objects", objects, MAX_OBJECTS),
        ("lists", lists, MAX_OBJECTS),
        ("items", commas, MAX_ITEMS),
        ("levels", deepest, MAX_DEPTH),
    ] {
        if n > max {
            let rule = format!("must hold at most {max} {what}, holds {n}");
            return Err(JsonError(rule));
        }
    }
    Ok(())
}

/// Reads any JSON, within the same bounds.
pub fn value(body: &[u8]) -> Result<Value, JsonError> {
    check(body)?;
    serde_json::from_slice(body).map_err(|e| JsonError(e.to_string()))
}

/// Reads a message.
pub fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, JsonError> {
    check(body)?;
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

/// A list of messages, for `#[serde(deserialize_with)]`. Mesos adds what stands there without a list around it
/// (stout's `protobuf.hpp`), which clients rely on: task_processing writes `network_infos` so.
pub fn one_or_many<'de, T, D>(d: D) -> Result<Vec<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    d.deserialize_any(OneOrMany(PhantomData))
}

struct OneOrMany<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for OneOrMany<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of objects")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, one: A) -> Result<Self::Value, A::Error> {
        T::deserialize(MapAccessDeserializer::new(one)).map(|one| vec![one])
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
        d.deserialize_any(BytesText).map(F::of)
    }
}

/// Text, or a message that holds nothing else: pymesos acknowledges an operation's status with the whole status, whose
/// uuid is a message where the call has bytes.
struct BytesText;

impl<'de> Visitor<'de> for BytesText {
    type Value = Vec<u8>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("base64")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
        let bytes = STANDARD.decode(text.as_bytes());
        bytes.map_err(|e| E::custom(format!("must be base64: {e}")))
    }

    fn visit_map<A: MapAccess<'de>>(self, message: A) -> Result<Self::Value, A::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Only {
            value: String,
        }
        let Only { value } = Only::deserialize(MapAccessDeserializer::new(message))?;
        self.visit_str(&value)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::proto::mesos as pb;

    #[test]
    fn what_is_deep_or_much_is_refused_before_it_is_read() {
        let said = |body: &str| {
            read::<pb::Call>(body.as_bytes())
                .map(|_| ())
                .map_err(|e| e.0)
        };
        let rule = |what: &str| Err(format!("must hold at most {what}"));
        for body in ["[".repeat(1 << 20), "{\"a\":".repeat(1 << 20)] {
            assert!(said(&body).unwrap_err().starts_with("must hold at most"));
        }
        let nested = |n: usize| format!("{{\"x\":{}{}}}", "[".repeat(n), "]".repeat(n));
        assert_eq!(
            said(&nested(MAX_DEPTH - 1)),
            Ok(()),
            "what is not known is skipped"
        );
        assert_eq!(said(&nested(MAX_DEPTH)), rule("100 levels, holds 101"));
        let many = |item: &str, n: usize| format!("{{\"x\":[{}0]}}", format!("{item},").repeat(n));
        assert_eq!(
            said(&many("[]", MAX_OBJECTS)),
            rule("100000 lists, holds 100001")
        );
        assert_eq!(
            said(&many("{}", MAX_OBJECTS)),
            rule("100000 objects, holds 100001")
        );
        assert_eq!(
            said(&many("0", MAX_ITEMS + 1)),
            rule("500000 items, holds 500001")
        );
        // In text it is text.
        let text = format!("{{\"x\":\"{}\"}}", "{[,\\\"".repeat(MAX_ITEMS + 1));
        assert_eq!(said(&text), Ok(()));
    }

    #[test]
    fn one_message_may_stand_for_a_list_of_them() {
        let given = |infos: &str| {
            let text = format!(r#"{{"type":"MESOS","network_infos":{infos}}}"#);
            let read = read::<pb::ContainerInfo>(text.as_bytes());
            let names = |c: pb::ContainerInfo| {
                let names = c.network_infos.into_iter().map(|n| n.name);
                names.collect::<Vec<_>>()
            };
            read.map(names)
        };
        let dcos = || Some("dcos".to_owned());
        assert_eq!(given(r#"{"name":"dcos"}"#).unwrap(), [dcos()]);
        assert_eq!(given(r#"[{"name":"dcos"}, {}]"#).unwrap(), [dcos(), None]);
        assert_eq!(given("[]").unwrap(), []);
        assert_eq!(given("null").unwrap(), []);
        let why = given("3").unwrap_err().to_string();
        assert!(why.contains("a list of objects"), "{why}");
        let map = read::<pb::OfferConstraints>(br#"{"role_constraints":{"a":{"groups":{}}}}"#);
        assert_eq!(map.unwrap().role_constraints["a"].groups.len(), 1);
    }

    #[test]
    fn bytes_may_come_as_a_message_of_one_value() {
        let uuid = |given: &str| {
            let text = format!(
                r#"{{"acknowledge_operation_status":{{"state":"OPERATION_FINISHED","uuid":{given}}}}}"#
            );
            let read = read::<pb::Call>(text.as_bytes());
            read.map(|c| c.acknowledge_operation_status.unwrap().uuid)
        };
        assert_eq!(uuid(r#""YWI=""#).unwrap(), Some(b"ab".to_vec()));
        assert_eq!(uuid(r#"{"value":"YWI="}"#).unwrap(), Some(b"ab".to_vec()));
        for wrong in [
            "3",
            "{}",
            r#"{"other":"YWI="}"#,
            r#"{"value":3}"#,
            r#"{"value":"YWI=","x":1}"#,
            r#""?""#,
            "[]",
        ] {
            assert!(uuid(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn any_text_of_json_is_read_or_refused(
            parts in prop::collection::vec(
                prop::sample::select(vec![
                    "{", "}", "[", "]", ",", ":", "\"", "\\", "null", "1e999", "-0", "2.0", "\"type\"",
                    "\"ACCEPT\"", "\"accept\"", "\"offer_ids\"", "\"value\"", "\"operations\"", " ", "\u{1f41d}",
                ]),
                0..60,
            ),
        ) {
            let text = parts.concat();
            let strict = serde_json::from_str::<Value>(&text).is_ok();
            prop_assert_eq!(value(text.as_bytes()).is_ok(), strict);
            if let Ok(call) = read::<pb::Call>(text.as_bytes()) {
                prop_assert_eq!(read::<pb::Call>(&write(&call)).unwrap(), call);
            }
        }

        #[test]
        fn any_bytes_are_a_call_or_refused_and_take_what_was_counted(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            key in prop::sample::select(vec![0x0a_u8, 0x1a, 0x22, 0x2a, 0x4a]),
        ) {
            use crate::codec::{MAX_DECODED, Shaped as _, decoded_size};
            use prost::Message as _;
            // As it is, and as a field of a call.
            let len = u8::try_from(bytes.len().min(127)).unwrap();
            let field = [&[key, len], &bytes[..usize::from(len)]].concat();
            for bytes in [&bytes, &field] {
                let _ = read::<pb::Call>(bytes);
                let counted = decoded_size(bytes, pb::Call::shape(), MAX_DECODED);
                prop_assert!(counted <= size_of::<pb::Call>() + 8192 * (bytes.len() + 1));
                if let Ok(call) = pb::Call::decode(bytes.as_slice()) {
                    prop_assert!(call.encoded_len() <= counted.max(bytes.len()) * 4);
                }
            }
        }
    }
}
