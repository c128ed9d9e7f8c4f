//! Reading JSON by hand, so that every error names field, rule and what was found.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use waggle_types::{FieldError, Millis};

/// More errors than this in one definition help nobody.
const MAX_ERRORS: usize = 20;

/// Longest field or rule in an answer, in bytes.
const MAX_QUOTED: usize = 300;

/// Longest duration in a definition: 31.7 years keeps milliseconds exact in a JSON number.
const MAX_SECONDS: f64 = 1e9;

/// Errors found so far.
#[derive(Debug, Default)]
pub(crate) struct Errors(Vec<FieldError>);

impl Errors {
    pub(crate) fn add(&mut self, field: impl Into<String>, rule: impl Into<String>) {
        self.push(FieldError::new(field, rule));
    }

    /// What was found is quoted, but not at any length: an answer is not larger for a larger request.
    pub(crate) fn push(&mut self, error: FieldError) {
        if self.0.len() < MAX_ERRORS {
            let FieldError { field, rule } = error;
            self.0.push(FieldError::new(clip(field), clip(rule)));
        }
    }

    /// How many so far, to see whether a reader has complained.
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn as_slice(&self) -> &[FieldError] {
        &self.0
    }
}

fn clip(mut text: String) -> String {
    if text.len() > MAX_QUOTED {
        text.truncate(text.floor_char_boundary(MAX_QUOTED));
        text.push_str("...");
    }
    text
}

/// A JSON object at a path; `null` reads as absent, as Marathon does.
#[derive(Debug, Clone)]
pub(crate) struct Obj<'a> {
    map: &'a Map<String, Value>,
    path: String,
}

/// `a string`, `a number`..: how errors name what was found.
pub(crate) fn kind(v: &Value) -> &'static str {
    match v {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn wrong(errs: &mut Errors, field: String, want: &str, v: &Value) {
    errs.add(field, format!("must be {want}, is {}", kind(v)));
}

impl<'a> Obj<'a> {
    /// The outermost object.
    pub(crate) fn root(map: &'a Map<String, Value>) -> Self {
        Self {
            map,
            path: String::new(),
        }
    }

    /// Any value that must be an object.
    pub(crate) fn of(path: String, v: &'a Value, errs: &mut Errors) -> Option<Self> {
        if let Value::Object(map) = v {
            Some(Self { map, path })
        } else {
            wrong(errs, path, "an object", v);
            None
        }
    }

    /// The path of a key.
    pub(crate) fn path(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    /// Every key and value.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&'a String, &'a Value)> + use<'a> {
        self.map.iter()
    }

    /// Complains of every key but these.
    pub(crate) fn only(&self, keys: &[&str], errs: &mut Errors) {
        for key in self.map.keys().filter(|k| !keys.contains(&k.as_str())) {
            let rule = match keys {
                [] => "is not known, nothing is to be said here".to_owned(),
                keys => format!("is not known, must be one of {}", keys.join(", ")),
            };
            errs.add(self.path(key), rule);
        }
    }

    /// The value of a key that must be there.
    pub(crate) fn required(&self, key: &str, errs: &mut Errors) -> Option<&'a Value> {
        let found = self.get(key);
        if found.is_none() {
            errs.add(self.path(key), "is required");
        }
        found
    }

    pub(crate) fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    pub(crate) fn string(&self, key: &str, errs: &mut Errors) -> Option<String> {
        match self.get(key)? {
            Value::String(s) if s.contains('\0') => {
                errs.add(self.path(key), "must not hold a NUL character");
                None
            }
            Value::String(s) => Some(s.clone()),
            v => {
                wrong(errs, self.path(key), "a string", v);
                None
            }
        }
    }

    pub(crate) fn boolean(&self, key: &str, errs: &mut Errors) -> Option<bool> {
        match self.get(key)? {
            Value::Bool(b) => Some(*b),
            v => {
                wrong(errs, self.path(key), "true or false", v);
                None
            }
        }
    }

    /// A whole number (`2.0` counts) within bounds.
    pub(crate) fn integer(&self, key: &str, min: u32, max: u32, errs: &mut Errors) -> Option<u32> {
        integer(&self.path(key), self.get(key)?, min, max, errs)
    }

    /// A number that is not negative and at most `max`.
    pub(crate) fn number(&self, key: &str, max: f64, errs: &mut Errors) -> Option<f64> {
        let v = self.get(key)?;
        let Some(n) = v.as_f64().filter(|_| v.is_number()) else {
            wrong(errs, self.path(key), "a number", v);
            return None;
        };
        if n < 0.0 {
            errs.add(self.path(key), format!("must not be negative, is {v}"));
            None
        } else if n > max {
            errs.add(self.path(key), format!("must be at most {max}, is {v}"));
            None
        } else {
            Some(n)
        }
    }

    /// Seconds, with milliseconds as decimals.
    pub(crate) fn seconds(&self, key: &str, errs: &mut Errors) -> Option<Millis> {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 0 and 10^12 by the check in number()"
        )]
        self.number(key, MAX_SECONDS, errs)
            .map(|s| Millis((s * 1000.0).round() as u64))
    }

    pub(crate) fn list(&self, key: &str, errs: &mut Errors) -> Option<&'a [Value]> {
        match self.get(key)? {
            Value::Array(items) => Some(items),
            v => {
                wrong(errs, self.path(key), "a list", v);
                None
            }
        }
    }

    pub(crate) fn object(&self, key: &str, errs: &mut Errors) -> Option<Obj<'a>> {
        Obj::of(self.path(key), self.get(key)?, errs)
    }

    pub(crate) fn strings(&self, key: &str, errs: &mut Errors) -> Option<Vec<String>> {
        let items = self.list(key, errs)?;
        strings(&self.path(key), items, errs)
    }

    /// An object whose values are strings.
    pub(crate) fn string_map(
        &self,
        key: &str,
        errs: &mut Errors,
    ) -> Option<BTreeMap<String, String>> {
        let obj = self.object(key, errs)?;
        let mut out = BTreeMap::new();
        for (k, v) in obj.map {
            match v {
                _ if k.is_empty() || k.contains('\0') => {
                    errs.add(obj.path(k), "key must not be empty or hold a NUL character");
                }
                Value::String(s) if s.contains('\0') => {
                    errs.add(obj.path(k), "must not hold a NUL character");
                }
                Value::String(s) => {
                    out.insert(k.clone(), s.clone());
                }
                other => wrong(errs, obj.path(k), "a string", other),
            }
        }
        Some(out)
    }

    /// Refuses a key that is set to anything but an empty value.
    pub(crate) fn not_yet(&self, key: &str, errs: &mut Errors) {
        let empty = match self.get(key) {
            None => true,
            Some(Value::Array(a)) => a.is_empty(),
            Some(Value::Object(o)) => o.is_empty(),
            Some(Value::String(s)) => s.is_empty(),
            Some(_) => false,
        };
        if !empty {
            errs.add(self.path(key), "is not supported yet");
        }
    }
}

/// A whole number (`2.0` counts) within bounds.
pub(crate) fn integer(path: &str, v: &Value, min: u32, max: u32, errs: &mut Errors) -> Option<u32> {
    if !v.is_number() {
        wrong(errs, path.to_owned(), "a whole number", v);
        return None;
    }
    let n = v.as_f64().filter(|n| n.fract() == 0.0);
    match n {
        Some(n) if (f64::from(min)..=f64::from(max)).contains(&n) =>
        {
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "whole and within u32 bounds"
            )]
            Some(n as u32)
        }
        Some(n) if n < 0.0 && min == 0 && max > 65_535 => {
            errs.add(path, format!("must not be negative, is {v}"));
            None
        }
        Some(_) => {
            errs.add(path, format!("must be between {min} and {max}, is {v}"));
            None
        }
        None => {
            errs.add(path, format!("must be a whole number, is {v}"));
            None
        }
    }
}

pub(crate) fn strings(path: &str, items: &[Value], errs: &mut Errors) -> Option<Vec<String>> {
    let mut out = Vec::with_capacity(items.len());
    for (i, v) in items.iter().enumerate() {
        match v {
            Value::String(s) if s.contains('\0') => {
                errs.add(format!("{path}[{i}]"), "must not hold a NUL character");
            }
            Value::String(s) => out.push(s.clone()),
            v => wrong(errs, format!("{path}[{i}]"), "a string", v),
        }
    }
    (out.len() == items.len()).then_some(out)
}
