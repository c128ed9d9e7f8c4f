//! Credentials for registries, from Docker's `config.json`. Pure.

use std::{collections::BTreeMap, fmt};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;

/// A user and a password; never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user.
    pub user: String,
    /// The password, or a token in its place.
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({:?})", self.user)
    }
}

/// Credentials that can't be read. No text of the file is in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// Not Docker's format.
    #[error("is not a docker config.json: line {line}, column {column}")]
    Unreadable {
        /// Where.
        line: usize,
        /// Where.
        column: usize,
    },
    /// An entry breaks a rule.
    #[error("auths[{registry:?}]: {rule}")]
    Entry {
        /// The entry.
        registry: String,
        /// The rule.
        rule: &'static str,
    },
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

/// The credentials that a file has for a registry.
pub fn find(file: &[u8], registry: &str) -> Result<Option<Credentials>, AuthError> {
    let file: File = serde_json::from_slice(file).map_err(|e| AuthError::Unreadable {
        line: e.line(),
        column: e.column(),
    })?;
    let wanted = host(registry);
    for (key, entry) in &file.auths {
        if host(key) == wanted {
            return credentials(key, entry).map(Some);
        }
    }
    Ok(None)
}

fn credentials(registry: &str, entry: &Entry) -> Result<Credentials, AuthError> {
    let bad = |rule| AuthError::Entry {
        registry: registry.to_owned(),
        rule,
    };
    let auth = entry.auth.as_deref().filter(|a| !a.is_empty());
    match (auth, &entry.username, &entry.password) {
        (Some(auth), ..) => {
            let text = STANDARD
                .decode(auth)
                .ok()
                .and_then(|b| String::from_utf8(b).ok())
                .ok_or_else(|| bad("auth must be base64 of USER:PASSWORD"))?;
            let (user, password) = text
                .trim_end_matches('\0')
                .split_once(':')
                .ok_or_else(|| bad("auth must be base64 of USER:PASSWORD"))?;
            Ok(Credentials {
                user: user.to_owned(),
                password: password.to_owned(),
            })
        }
        (None, Some(user), Some(password)) => Ok(Credentials {
            user: user.clone(),
            password: password.clone(),
        }),
        (None, ..) if entry.identitytoken.is_some() => Err(bad(
            "identity tokens are not taken; log in with a password or an access token",
        )),
        _ => Err(bad(
            "must have auth, or username and password; credential helpers are not run",
        )),
    }
}

/// Keys are hosts, or URLs with a path: `https://index.docker.io/v1/`.
fn host(key: &str) -> &str {
    let key = key
        .strip_prefix("https://")
        .or_else(|| key.strip_prefix("http://"))
        .unwrap_or(key);
    match key.split('/').next().unwrap_or(key) {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        host => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"{"auths":{
        "https://index.docker.io/v1/":{"auth":"aHViOnB3"},
        "corp:5000":{"username":"ann","password":"p:w"},
        "broken":{"auth":"!"},
        "helper":{}},
        "credsStore":"secretservice"}"#;

    fn of(registry: &str) -> String {
        match find(FILE.as_bytes(), registry) {
            Ok(Some(c)) => format!("{} {}", c.user, c.password),
            Ok(None) => "none".to_owned(),
            Err(e) => e.to_string(),
        }
    }

    #[test]
    fn entries_are_found_by_host() {
        assert_eq!(of("docker.io"), "hub pw");
        assert_eq!(of("corp:5000"), "ann p:w");
        assert_eq!(of("corp:5001"), "none");
        assert_eq!(
            of("broken"),
            "auths[\"broken\"]: auth must be base64 of USER:PASSWORD"
        );
        assert_eq!(
            of("helper"),
            "auths[\"helper\"]: must have auth, or username and password; credential helpers are not run"
        );
    }

    #[test]
    fn nothing_secret_is_shown() {
        let found = find(FILE.as_bytes(), "corp:5000").unwrap().unwrap();
        assert_eq!(format!("{found:?}"), "Credentials(\"ann\")");
        let e = find(br#"{"auths":{"a":{"auth":secret"#, "a").unwrap_err();
        assert!(!e.to_string().contains("secret"), "{e}");
    }
}
