//! How many instructions each kernel's verifier looks at, kept in a file: a program that grows is seen before a kernel refuses it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, bail};

/// What the kernel allows, and the part of it that a program may take here.
const ALLOWED: u32 = 1_000_000 / 2;
/// A program may have so many parts in a hundred more than the file says before it must be looked at: compilers differ.
const GROWTH: u64 = 10;

/// Counts by kernel, then by program.
pub type Counts = BTreeMap<String, BTreeMap<String, u32>>;

/// Compares what machines printed with the file, or writes the file when the environment has `UPDATE_GOLDEN=1`. What is
/// not as it must be.
pub fn check(
    path: &Path,
    found: &BTreeMap<String, Vec<(String, u32)>>,
) -> anyhow::Result<Vec<String>> {
    let found: Counts = found
        .iter()
        .map(|(kernel, counts)| (kernel.clone(), counts.iter().cloned().collect()))
        .collect();
    let known = if path.exists() {
        let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        parse(&text).with_context(|| path.display().to_string())?
    } else {
        Counts::new()
    };
    if std::env::var_os("UPDATE_GOLDEN").is_some_and(|value| value == "1") {
        let mut all = known;
        all.extend(found.clone());
        fs::write(path, render(&all)).with_context(|| format!("write {}", path.display()))?;
        eprintln!("wrote {}", path.display());
        return Ok(too_many(&found));
    }
    let mut failures = too_many(&found);
    failures.extend(compare(&known, &found));
    Ok(failures)
}

fn too_many(found: &Counts) -> Vec<String> {
    each(found)
        .filter(|(.., count)| *count > ALLOWED)
        .map(|(kernel, program, count)| {
            format!("{kernel}: {program}: {count} instructions verified, {ALLOWED} are allowed")
        })
        .collect()
}

fn compare(known: &Counts, found: &Counts) -> Vec<String> {
    const HINT: &str = "UPDATE_GOLDEN=1 writes the file anew";
    let mut failures = Vec::new();
    for (kernel, program, count) in each(found) {
        match known.get(kernel).and_then(|programs| programs.get(program)) {
            None => failures.push(format!(
                "{kernel}: {program}: {count} instructions verified, and the golden file has none; {HINT}"
            )),
            Some(before) if u64::from(count) * 100 > u64::from(*before) * (100 + GROWTH) => {
                failures.push(format!(
                    "{kernel}: {program}: {count} instructions verified, {before} before; {HINT}"
                ));
            }
            Some(_) => {}
        }
    }
    for (kernel, program, _) in each(known) {
        if let Some(programs) = found.get(kernel)
            && !programs.contains_key(program)
        {
            failures.push(format!("{kernel}: {program} was not loaded; {HINT}"));
        }
    }
    failures
}

fn each(counts: &Counts) -> impl Iterator<Item = (&String, &String, u32)> {
    counts.iter().flat_map(|(kernel, programs)| {
        programs
            .iter()
            .map(move |(program, count)| (kernel, program, *count))
    })
}

fn render(counts: &Counts) -> String {
    let mut text = "# Instructions that a kernel's verifier looked at, of 1000000: kernel, object/program, count.\n\
                    # Written by `UPDATE_GOLDEN=1 cargo xtask test vm`.\n"
        .to_owned();
    for (kernel, program, count) in each(counts) {
        text.push_str(&format!("{kernel} {program} {count}\n"));
    }
    text
}

fn parse(text: &str) -> anyhow::Result<Counts> {
    let mut counts = Counts::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [kernel, program, count] = words[..] else {
            bail!("not a kernel, a program and a count: {line:?}");
        };
        let count = count.parse().with_context(|| line.to_owned())?;
        counts
            .entry(kernel.to_owned())
            .or_default()
            .insert(program.to_owned(), count);
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(of: &[(&str, u32)]) -> Counts {
        let programs = of.iter().map(|(name, n)| ((*name).to_owned(), *n));
        BTreeMap::from([("6.1".to_owned(), programs.collect())])
    }

    #[test]
    fn the_file_is_read_as_it_is_written() {
        let some = counts(&[("edge/edge", 5000), ("packet/packet_in", 70_000)]);
        assert_eq!(parse(&render(&some)).unwrap(), some);
        assert!(parse("6.1 edge\n").is_err());
        assert!(parse("6.1 edge many\n").is_err());
    }

    #[test]
    fn growth_new_programs_and_lost_ones_are_seen() {
        let known = counts(&[("a/a", 1000), ("b/b", 1000)]);
        let within = counts(&[("a/a", 1100), ("b/b", 10)]);
        assert_eq!(compare(&known, &within), Vec::<String>::new());
        let changed = counts(&[("a/a", 1101), ("c/c", 1)]);
        assert_eq!(
            compare(&known, &changed),
            [
                "6.1: a/a: 1101 instructions verified, 1000 before; UPDATE_GOLDEN=1 writes the file anew",
                "6.1: c/c: 1 instructions verified, and the golden file has none; UPDATE_GOLDEN=1 writes the file anew",
                "6.1: b/b was not loaded; UPDATE_GOLDEN=1 writes the file anew",
            ]
        );
        // A kernel that was not booted says nothing.
        assert_eq!(compare(&known, &Counts::new()), Vec::<String>::new());
        assert_eq!(too_many(&counts(&[("a/a", 500_001)])).len(), 1);
        assert_eq!(too_many(&counts(&[("a/a", 500_000)])).len(), 0);
    }
}
