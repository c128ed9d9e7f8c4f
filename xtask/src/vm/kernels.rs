//! Debian's kernels: pinned, downloaded once, unpacked, never installed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::run::{output, repo, run};

/// A package of a kernel, and its version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    package: String,
    version: String,
}

/// One that is there.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// As it was asked for: the beginning of its version.
    pub asked: String,
    /// As it calls itself.
    pub release: String,
    /// The file to boot.
    pub image: PathBuf,
    /// Its modules' directory, with `modules.dep`.
    pub modules: PathBuf,
}

/// What `tests/vm/kernels.txt` says.
pub fn pins() -> anyhow::Result<BTreeMap<String, Pin>> {
    let path = repo().join("tests/vm/kernels.txt");
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    parse(&text).with_context(|| path.display().to_string())
}

fn parse(text: &str) -> anyhow::Result<BTreeMap<String, Pin>> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [asked, package, version] = words[..] else {
                bail!("not a version, a package and its version: {line:?}");
            };
            let pin = Pin {
                package: package.to_owned(),
                version: version.to_owned(),
            };
            Ok((asked.to_owned(), pin))
        })
        .collect()
}

/// Gets a kernel, from the cache or from Debian's archive.
pub fn fetch(cache: &Path, pins: &BTreeMap<String, Pin>, asked: &str) -> anyhow::Result<Kernel> {
    if let Some(pin) = pins.get(asked) {
        let dir = cache.join(format!("{}_{}", pin.package, pin.version));
        match there(&dir, asked) {
            Ok(Some(kernel)) => return Ok(kernel),
            Ok(None) => {}
            Err(error) => return Err(error),
        }
        match download(&dir, &format!("{}={}", pin.package, pin.version)) {
            Ok(()) => return finish(&dir, asked),
            Err(error) => eprintln!("{error:#}"),
        }
        eprintln!(
            "the pinned kernel {} {} is not to be had; looking for the newest {asked}",
            pin.package, pin.version
        );
    }
    let package = newest(asked)?;
    let dir = cache.join(&package);
    if let Some(kernel) = there(&dir, asked)? {
        eprintln!("taking {package}, which was downloaded before");
        return Ok(kernel);
    }
    eprintln!("taking {package}: pin it in tests/vm/kernels.txt");
    download(&dir, &package).context(
        "a kernel is neither in the cache nor to be had: this needs the network, and Debian's archive with its \
         security updates among the sources of apt",
    )?;
    finish(&dir, asked)
}

/// The newest package for a version, of those that apt knows.
fn newest(asked: &str) -> anyhow::Result<String> {
    let pattern = format!(
        "^linux-image-{}\\..*cloud-amd64$",
        asked.replace('.', "\\.")
    );
    let found = output(Command::new("apt-cache").args(["search", "--names-only", &pattern]))?;
    newest_of(&found).with_context(|| {
        format!("apt knows no cloud kernel {asked}: is Debian's archive among its sources?")
    })
}

fn newest_of(found: &str) -> Option<String> {
    let packages = found.lines().filter_map(|line| line.split(' ').next());
    let numbers = |package: &str| -> Vec<u64> {
        let digits = package.split(|c: char| !c.is_ascii_digit());
        digits.filter_map(|part| part.parse().ok()).collect()
    };
    packages
        .max_by_key(|package| numbers(package))
        .map(str::to_owned)
}

fn download(dir: &Path, package: &str) -> anyhow::Result<()> {
    // Not whole until it has its own name.
    let mut part = dir.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    if part.exists() {
        fs::remove_dir_all(&part).with_context(|| format!("remove {}", part.display()))?;
    }
    fs::create_dir_all(&part).with_context(|| format!("create {}", part.display()))?;
    eprintln!("downloading {package}");
    run(Command::new("apt-get")
        .args(["-q", "download", package])
        .current_dir(&part)
        .stdout(std::io::stderr()))?;
    let archive = files(&part, |name| {
        Path::new(name).extension().is_some_and(|e| e == "deb")
    })?
    .pop()
    .context("apt-get downloaded nothing")?;
    run(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(&part))?;
    fs::remove_file(&archive)?;
    let modules = modules(&part)?;
    let release = name(&modules)?;
    run(Command::new("depmod").arg("-b").arg(&part).arg(&release))?;
    fs::rename(&part, dir).with_context(|| format!("rename {}", part.display()))
}

fn there(dir: &Path, asked: &str) -> anyhow::Result<Option<Kernel>> {
    if dir.exists() {
        finish(dir, asked).map(Some)
    } else {
        Ok(None)
    }
}

fn finish(dir: &Path, asked: &str) -> anyhow::Result<Kernel> {
    let modules = modules(dir)?;
    let release = name(&modules)?;
    let image = dir.join("boot").join(format!("vmlinuz-{release}"));
    Ok(Kernel {
        asked: asked.to_owned(),
        release,
        image,
        modules,
    })
}

fn modules(dir: &Path) -> anyhow::Result<PathBuf> {
    files(&dir.join("lib/modules"), |_| true)?
        .pop()
        .with_context(|| format!("no modules in {}", dir.display()))
}

fn files(dir: &Path, wanted: impl Fn(&str) -> bool) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))? {
        let path = entry?.path();
        if wanted(&name(&path)?) {
            found.push(path);
        }
    }
    Ok(found)
}

fn name(path: &Path) -> anyhow::Result<String> {
    let name = path.file_name().context("a path without a name")?;
    Ok(name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_are_read() {
        let pins = parse("# kernels\n6.1 linux-image-6.1.0-56-cloud-amd64 6.1.192-2\n").unwrap();
        let pin = &pins["6.1"];
        assert_eq!(pin.package, "linux-image-6.1.0-56-cloud-amd64");
        assert_eq!(pin.version, "6.1.192-2");
        assert!(parse("6.1 linux-image\n").is_err());
        assert!(super::pins().unwrap().len() >= 2);
    }

    #[test]
    fn the_newest_is_by_number() {
        let found = "linux-image-6.12.101+deb12-cloud-amd64 - Linux 6.12\n\
                     linux-image-6.12.117+deb12-cloud-amd64 - Linux 6.12\n\
                     linux-image-6.12.99+deb12-cloud-amd64 - Linux 6.12\n";
        let newest = newest_of(found).unwrap();
        assert_eq!(newest, "linux-image-6.12.117+deb12-cloud-amd64");
        assert_eq!(newest_of(""), None);
    }
}
