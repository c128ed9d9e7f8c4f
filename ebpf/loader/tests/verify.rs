//! Every program passes this kernel's verifier, far from its limit. What is printed here, `cargo xtask test vm` keeps by kernel.

use waggle_ebpf::{LoadError, VERIFIER_LIMIT, is_built_with_ebpf, verify};
use waggle_tests_support::is_root;

#[test]
fn every_program_passes_with_room_to_grow() -> anyhow::Result<()> {
    if !is_root() {
        eprintln!("SKIP: needs root");
        return Ok(());
    }
    if !is_built_with_ebpf() {
        eprintln!("SKIP: {}", LoadError::BuiltWithoutEbpf);
        return Ok(());
    }
    let (mut all, mut refused) = (Vec::new(), Vec::new());
    verify(|one| match one {
        Ok(one) => {
            println!(
                "VERIFIED {} {} {}",
                one.object, one.program, one.instructions
            );
            all.push(one);
        }
        Err(error) => refused.push(format!("{:#}", anyhow::Error::from(error))),
    })?;
    assert!(refused.is_empty(), "{}", refused.join("\n"));
    assert!(all.len() >= 15, "{}", all.len());
    for one in &all {
        assert!(one.instructions > 0, "{one:?}");
        assert!(one.instructions <= VERIFIER_LIMIT / 2, "{one:?}");
    }
    Ok(())
}
