//! `waggle app validate`: what a master would say of definitions, without one.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use waggle_api::{
    error::ApiError,
    marathon::{ParseMode, app_from_value},
};
use waggle_master::MasterError;
use waggle_types::{ServiceSpec, UnixMillis};

use super::{print, print_json};
use crate::{
    definition,
    error::{CliError, usage},
    times,
};

/// Checks all files with what reads their kind of definition; the first sentence of each error names the file and the
/// field.
pub fn run(files: &[PathBuf], as_json: bool, reader: Reader) -> Result<(), CliError> {
    let mut wrong = Vec::new();
    let mut fine = Vec::new();
    for file in files {
        let shown = file.display();
        let body = definition::read_value(file)?;
        // A list is what PUT /v2/apps takes.
        let apps: Vec<&Value> = match &body {
            Value::Array(all) => all.iter().collect(),
            one => vec![one],
        };
        for app in apps {
            match read(app, reader) {
                Ok(spec) => fine.push((file, spec)),
                Err(all) => wrong.extend(all.into_iter().map(|e| format!("{shown}: {e}"))),
            }
        }
    }
    if !wrong.is_empty() {
        return Err(usage(wrong.join("\n")));
    }
    if as_json {
        let all = fine.iter().map(
            |(file, spec)| json!({ "file": file.display().to_string(), "id": spec.id.as_str() }),
        );
        return print_json(&json!(all.collect::<Vec<_>>()));
    }
    let lines = fine.iter().map(|(file, spec)| line(file, spec));
    print(&lines.collect::<String>())
}

fn line(file: &Path, spec: &ServiceSpec) -> String {
    let plural = if spec.instances == 1 { "" } else { "s" };
    format!(
        "{}: {} is fine: {} instance{plural}\n",
        file.display(),
        spec.id,
        spec.instances
    )
}

/// Reads one kind of definition.
type Reader = fn(&Value, UnixMillis) -> Result<ServiceSpec, ApiError>;

/// Reads apps.
pub fn app(app: &Value, now: UnixMillis) -> Result<ServiceSpec, ApiError> {
    app_from_value(app, ParseMode::Create, now)
}

/// An app's definition as a master would read it, or every rule that it breaks.
pub(super) fn spec(value: &Value) -> Result<ServiceSpec, Vec<String>> {
    read(value, app)
}

fn read(value: &Value, reader: Reader) -> Result<ServiceSpec, Vec<String>> {
    let now = UnixMillis(times::now());
    let spec = reader(value, now).map_err(|e| {
        let mut all = Vec::new();
        for d in &e.details {
            let path = d.path.trim_start_matches('/');
            all.extend(d.errors.iter().map(|rule| {
                if rule.starts_with(path) {
                    rule.clone()
                } else {
                    format!("{path}: {rule}")
                }
            }));
        }
        if all.is_empty() {
            all.push(e.message.clone());
        }
        all
    })?;
    waggle_master::core::check_alone(&spec).map_err(|e| match e {
        MasterError::AllInvalid(all) => all.iter().map(ToString::to_string).collect(),
        one => vec![one.to_string()],
    })?;
    Ok(spec)
}
