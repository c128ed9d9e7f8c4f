//! Builds the init of containers: a static program without any library, embedded into the agent.

use std::{
    env,
    path::Path,
    process::{Command, ExitCode},
};

fn main() -> ExitCode {
    println!("cargo:rerun-if-changed=init");
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("agent/init: {e}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    let var = |name: &str| env::var(name).map_err(|e| format!("{name}: {e}"));
    let out = Path::new(&var("OUT_DIR")?).join("waggle-init");
    let mut rustc = Command::new(var("RUSTC")?);
    rustc
        .args(["--edition", "2024", "--crate-type", "bin"])
        .args(["--crate-name", "waggle_init"])
        .args(["--target", &var("TARGET")?])
        .args([
            "-C",
            "panic=abort",
            "-C",
            "opt-level=s",
            "-C",
            "strip=symbols",
        ])
        .args([
            "-C",
            "relocation-model=static",
            "-C",
            "force-unwind-tables=no",
        ])
        .args([
            "-C",
            "link-args=-nostdlib -nostartfiles -static -Wl,--build-id=none",
        ])
        .arg("-o")
        .arg(&out)
        .arg("init/main.rs");
    // The linker that cargo was told to use for the target, if any.
    if let Ok(linker) = env::var("RUSTC_LINKER") {
        rustc.args(["-C", &format!("linker={linker}")]);
    }
    // Flags for the whole build (sanitizers, coverage) are for programs with a C library.
    rustc
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    let status = rustc
        .status()
        .map_err(|e| format!("failed to run rustc: {e}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("rustc ended with {status}"))
    }
}
