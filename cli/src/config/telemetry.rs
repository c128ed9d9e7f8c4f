//! Where telemetry goes, and where it waits.

use std::path::{Path, PathBuf};

use waggle_agent::telemetry::SpoolConfig;

use super::positive;
use crate::{
    args::RunArgs,
    error::{CliError, usage},
};

/// The endpoint.
pub fn otlp(url: Option<String>) -> Result<Option<String>, CliError> {
    match url {
        Some(u) if !u.starts_with("http://") => Err(usage(format!(
            "otlp: must be of the form http://host:port, is {u:?}"
        ))),
        other => Ok(other),
    }
}

/// Where telemetry waits: `none`, a directory, or that of the node.
pub fn spool(args: &RunArgs, work_dir: &Path) -> Result<Option<SpoolConfig>, CliError> {
    let dir = match args.otlp_spool.as_deref() {
        Some("none") => return Ok(None),
        Some("") => return Err(usage("otlp-spool: must be a directory or none, is empty")),
        Some(dir) => PathBuf::from(dir),
        None => work_dir.join("telemetry"),
    };
    let mut spool = SpoolConfig::new(dir);
    if let Some(mib) = args.otlp_spool_size {
        if !(1..=1 << 20).contains(&mib) {
            return Err(usage(format!(
                "otlp-spool-size: must be 1 to 1048576 MiB, is {mib}"
            )));
        }
        spool.max_bytes = mib << 20;
    }
    if let Some(age) = args.otlp_spool_age.as_deref() {
        spool.max_age = positive("otlp-spool-age", age)?;
    }
    Ok(Some(spool))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spool_is_beside_what_the_node_keeps() {
        let mut args = RunArgs::default();
        let work = Path::new("/var/lib/waggle");
        let spool = spool(&args, work).unwrap().unwrap();
        assert_eq!(spool.dir, work.join("telemetry"));
        assert_eq!(spool.max_bytes, 256 << 20);
        args.otlp_spool = Some("none".into());
        assert!(super::spool(&args, work).unwrap().is_none());
        for (change, field) in [
            (
                (|a: &mut RunArgs| a.otlp_spool = Some(String::new())) as fn(&mut RunArgs),
                "otlp-spool",
            ),
            (|a| a.otlp_spool_size = Some(0), "otlp-spool-size"),
            (|a| a.otlp_spool_age = Some("1".into()), "otlp-spool-age"),
        ] {
            let mut args = RunArgs::default();
            change(&mut args);
            let said = super::spool(&args, work).unwrap_err().to_string();
            assert!(said.starts_with(field), "{said}");
        }
    }
}
