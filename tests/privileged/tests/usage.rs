//! Exit codes of the binary for what a person can get wrong. Needs no root.

use std::process::Command;

use waggle_tests_privileged::waggle;

#[test]
fn usage_errors_exit_2_and_name_the_argument() {
    let Ok(program) = waggle() else {
        eprintln!("SKIP: the waggle binary is not built (cargo build)");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let damaged = dir.path().join("damaged.toml");
    std::fs::write(&damaged, "name = [").unwrap();
    let unknown_key = dir.path().join("unknown.toml");
    std::fs::write(&unknown_key, "colour = \"red\"\n").unwrap();
    let path = |p: &std::path::Path| p.display().to_string();
    let cases: Vec<(Vec<String>, &str)> = vec![
        (
            vec!["node".to_owned(), "--no-such-flag".to_owned()],
            "--no-such-flag",
        ),
        (
            vec![
                "node".to_owned(),
                "--config".to_owned(),
                "/nonexistent.toml".to_owned(),
            ],
            "nonexistent",
        ),
        (
            vec!["node".to_owned(), "--config".to_owned(), path(&damaged)],
            "damaged.toml",
        ),
        (
            vec!["node".to_owned(), "--config".to_owned(), path(&unknown_key)],
            "colour",
        ),
        (
            vec!["node".to_owned(), "--ip".to_owned(), "999.1.1.1".to_owned()],
            "ip",
        ),
    ];
    for (args, named) in cases {
        let out = Command::new(&program).args(&args).output().unwrap();
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(2), "{args:?}: {text}");
        assert!(
            text.contains(named),
            "{args:?} does not name {named}: {text}"
        );
    }
}
