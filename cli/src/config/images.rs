//! Where images come from, and how many stay.

use std::path::{Path, PathBuf};

use waggle_agent::images::ImageSettings;

use crate::{
    args::RunArgs,
    commands::image::bytes,
    error::{CliError, usage},
    times,
};

/// `--registries` and its siblings.
pub(super) fn settings(args: &RunArgs) -> Result<ImageSettings, CliError> {
    let mut out = ImageSettings::default();
    for text in &args.registries {
        registry("registries", text)?;
        out.registries.push(text.trim_end_matches('/').to_owned());
    }
    for text in &args.registry_mirror {
        let (of, mirror) = text
            .split_once('=')
            .ok_or_else(|| usage(format!("registry-mirror: must be HOST=MIRROR, is {text:?}")))?;
        host("registry-mirror", of)?;
        registry("registry-mirror", mirror)?;
        let mirrors = out.mirrors.entry(of.to_owned()).or_default();
        mirrors.push(mirror.to_owned());
    }
    for text in &args.registry_plain_http {
        host("registry-plain-http", text)?;
        out.plain_http.insert(text.clone());
    }
    for text in &args.registry_auth {
        let (name, file) = text.split_once('=').unwrap_or(("", text));
        let file = PathBuf::from(file);
        readable("registry-auth", &file)?;
        if out.auth.insert(name.to_owned(), file).is_some() {
            return Err(usage(format!(
                "registry-auth: must be one file for each name, {name:?} has two"
            )));
        }
    }
    if let Some(file) = &args.registry_tls_roots {
        readable("registry-tls-roots", file)?;
        out.tls_roots = Some(file.clone());
    }
    if let Some(text) = &args.image_store_size {
        out.store_bytes = bytes("image-store-size", text)?;
    }
    if let Some(text) = &args.image_max_age {
        out.max_age = times::duration("image-max-age", text, times::YEAR)?;
    }
    Ok(out)
}

/// `HOST[:PORT][/PREFIX]`.
fn registry(field: &str, text: &str) -> Result<(), CliError> {
    let (at, prefix) = text.split_once('/').unwrap_or((text, ""));
    host(field, at)?;
    let good = |c: char| c.is_ascii_alphanumeric() || "/-._".contains(c);
    if !prefix.chars().all(good) || prefix.split('/').any(|p| p == "..") {
        return Err(usage(format!(
            "{field}: must be HOST[:PORT][/PREFIX], is {text:?}"
        )));
    }
    Ok(())
}

/// `HOST[:PORT]`, without a scheme.
fn host(field: &str, text: &str) -> Result<(), CliError> {
    let good = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
    let port = match text.rsplit_once(':') {
        Some((_, port)) if !text.ends_with(']') => port.parse::<u16>().is_ok(),
        _ => true,
    };
    if text.is_empty() || !port || !text.chars().all(good) {
        return Err(usage(format!(
            "{field}: must be HOST[:PORT] without a scheme, is {text:?}"
        )));
    }
    Ok(())
}

/// Said at the start, not when the first task is launched.
fn readable(field: &str, file: &Path) -> Result<(), CliError> {
    std::fs::File::open(file)
        .map(drop)
        .map_err(|e| usage(format!("{field} {}: {e}", file.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(items: &[&str]) -> Vec<String> {
        items.iter().map(|&s| s.to_owned()).collect()
    }

    #[test]
    fn flags_become_settings() {
        let args = RunArgs {
            registries: list(&["docker.io", "corp:5000/team/"]),
            registry_mirror: list(&["docker.io=10.0.0.5:5000/hub", "docker.io=mirror"]),
            registry_plain_http: list(&["127.0.0.1:5000"]),
            registry_auth: list(&["team=/dev/null", "/dev/null"]),
            image_store_size: Some("5GiB".to_owned()),
            image_max_age: Some("2d".to_owned()),
            ..RunArgs::default()
        };
        let s = settings(&args).unwrap();
        assert_eq!(s.registries, ["docker.io", "corp:5000/team"]);
        assert_eq!(s.mirrors["docker.io"], ["10.0.0.5:5000/hub", "mirror"]);
        assert_eq!(s.auth.keys().collect::<Vec<_>>(), ["", "team"]);
        assert_eq!(s.store_bytes, 5 << 30);
        assert_eq!(s.max_age.as_secs(), 2 * 86_400);
    }

    #[test]
    fn bad_flags_are_refused_with_field_and_rule() {
        let refused = |args: RunArgs| {
            let e = settings(&args).unwrap_err();
            assert_eq!(e.exit_code(), 2);
            e.to_string()
        };
        let args = || RunArgs::default();
        let e = refused(RunArgs {
            registries: list(&["https://docker.io"]),
            ..args()
        });
        assert!(e.starts_with("registries: must be HOST[:PORT]"), "{e}");
        let e = refused(RunArgs {
            registry_mirror: list(&["mirror"]),
            ..args()
        });
        assert!(e.starts_with("registry-mirror: must be HOST=MIRROR"), "{e}");
        let e = refused(RunArgs {
            registry_auth: list(&["/no/such"]),
            ..args()
        });
        assert!(e.starts_with("registry-auth /no/such: "), "{e}");
        let e = refused(RunArgs {
            registry_auth: list(&["a=/dev/null", "a=/dev/null"]),
            ..args()
        });
        assert!(e.contains("one file for each name"), "{e}");
        let e = refused(RunArgs {
            image_store_size: Some("lots".into()),
            ..args()
        });
        assert!(e.starts_with("image-store-size: must be"), "{e}");
    }
}
