//! Secrets of a definition: `secrets` names where they are, `env` and `container.volumes` what becomes of them.

use std::collections::BTreeMap;

use serde_json::Value;
use waggle_types::{SecretFile, Secrets};

use crate::read::{Errors, Obj, kind};

/// Most secrets of one service.
const MAX_SECRETS: usize = 64;
/// Longest source.
const MAX_SOURCE: usize = 255;

/// Reads `secrets`; `env` and `files` are who refers to them.
pub(super) fn secrets(
    obj: &Obj<'_>,
    env: BTreeMap<String, String>,
    files: Vec<(String, SecretFile)>,
    errs: &mut Errors,
) -> Secrets {
    let sources = sources(obj, errs);
    unknown(&obj.path("env"), &env, &sources, errs);
    let each = files.into_iter().map(|(at, file)| {
        if !sources.contains_key(&file.secret) {
            errs.add(at, lacks(&file.secret));
        }
        file
    });
    Secrets {
        files: each.collect(),
        sources,
        env,
    }
}

/// Complains of variables of `env`, at `at`, that are to be secrets nobody names.
pub(super) fn unknown(
    at: &str,
    env: &BTreeMap<String, String>,
    sources: &BTreeMap<String, String>,
    errs: &mut Errors,
) {
    for (key, name) in env.iter().filter(|(_, n)| !sources.contains_key(*n)) {
        errs.add(format!("{at}.{key}.secret"), lacks(name));
    }
}

/// What is said of a name that is none of the secrets.
pub(super) fn lacks(name: &str) -> String {
    format!("must be one of secrets, is {name:?}")
}

/// `secrets`: where each is found.
pub(super) fn sources(obj: &Obj<'_>, errs: &mut Errors) -> BTreeMap<String, String> {
    let mut sources = BTreeMap::new();
    if let Some(all) = obj.object("secrets", errs) {
        for (name, v) in all.entries() {
            if sources.len() == MAX_SECRETS {
                errs.add("secrets", format!("must be at most {MAX_SECRETS}"));
                break;
            }
            let Some(one) = Obj::of(all.path(name), v, errs) else {
                continue;
            };
            one.only(&["source"], errs);
            let before = errs.count();
            match one.string("source", errs) {
                Some(source) if is_source(&source) => {
                    sources.insert(name.clone(), source);
                }
                Some(source) => {
                    let rule = format!(
                        "must be a path of at most {MAX_SOURCE} letters, digits, ., - and _ without .., is {source:?}"
                    );
                    errs.add(one.path("source"), rule);
                }
                None if errs.count() == before => errs.add(one.path("source"), "must be set"),
                None => {}
            }
        }
    }
    sources
}

fn is_source(s: &str) -> bool {
    let fine = |b: u8| b.is_ascii_alphanumeric() || b"._-/".contains(&b);
    let mut parts = s.split('/').filter(|p| !p.is_empty()).peekable();
    parts.peek().is_some()
        && s.len() <= MAX_SOURCE
        && s.bytes().all(fine)
        && parts.all(|p| !p.starts_with('.'))
}

/// The environment at `key`: text, or `{"secret": name}`; the second answer says which secret becomes which variable.
pub(super) fn env(
    obj: &Obj<'_>,
    key: &str,
    errs: &mut Errors,
) -> (BTreeMap<String, String>, BTreeMap<String, String>) {
    let (mut plain, mut secret) = (BTreeMap::new(), BTreeMap::new());
    let Some(env) = obj.object(key, errs) else {
        return (plain, secret);
    };
    for (k, v) in env.entries() {
        match v {
            _ if k.is_empty() || k.contains('\0') => {
                errs.add(env.path(k), "key must not be empty or hold a NUL character");
            }
            Value::String(s) if s.contains('\0') => {
                errs.add(env.path(k), "must not hold a NUL character");
            }
            Value::String(s) => {
                plain.insert(k.clone(), s.clone());
            }
            Value::Object(_) => {
                let Some(one) = Obj::of(env.path(k), v, errs) else {
                    continue;
                };
                one.only(&["secret"], errs);
                let before = errs.count();
                match one.string("secret", errs) {
                    Some(name) => {
                        secret.insert(k.clone(), name);
                    }
                    None if errs.count() == before => errs.add(one.path("secret"), "must be set"),
                    None => {}
                }
            }
            other => errs.add(env.path(k), format!("must be a string, is {}", kind(other))),
        }
    }
    (plain, secret)
}
