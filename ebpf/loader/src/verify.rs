//! Every program given to the verifier, attached to nothing: what a kernel says to all of them at once.

use aya::programs::{Program, ProgramError};
use aya::{Btf, EbpfLoader, VerifierLogLevel};

use crate::{LoadError, object, tracing};

/// Instructions that the kernel's verifier looks at before it gives up (`BPF_COMPLEXITY_LIMIT_INSNS`).
pub const VERIFIER_LIMIT: u32 = 1_000_000;

/// A program that the verifier let pass.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Verified {
    /// Its object.
    pub object: &'static str,
    /// Its name.
    pub program: String,
    /// Instructions that the verifier looked at, each as often as it did; the limit is [`VERIFIER_LIMIT`].
    pub instructions: u32,
}

/// Loads every program of every object, with maps of their own, and lets go of them again. Tells of each program at once: it has
/// passed, or was refused ([`LoadError::Verifier`]).
///
/// # Errors
/// [`LoadError::BuiltWithoutEbpf`]; [`LoadError::Object`], [`LoadError::Btf`].
pub fn verify(mut tell: impl FnMut(Result<Verified, LoadError>)) -> Result<(), LoadError> {
    let objects = [
        ("sockets", object::object()?),
        ("edge", object::edge()?),
        ("dsr", object::dsr()?),
        ("packet", object::packet()?),
        ("overlay", object::overlay()?),
        ("observe", object::observe()?),
        ("requests", object::requests()?),
        ("inject", object::inject()?),
    ];
    let btf = Btf::from_sys_fs().map_err(|source| LoadError::Btf {
        source: Box::new(source),
    })?;
    for (name, bytes) in objects {
        verify_object(name, bytes, &btf, &mut tell)?;
    }
    Ok(())
}

fn verify_object(
    object: &'static str,
    bytes: &[u8],
    btf: &Btf,
    tell: &mut impl FnMut(Result<Verified, LoadError>),
) -> Result<(), LoadError> {
    let mut ebpf = EbpfLoader::new()
        .btf(None)
        .allow_unsupported_maps()
        // The reason of a refusal, not the way to it: that is megabytes, and a try for each size of buffer.
        .verifier_log_level(VerifierLogLevel::STATS)
        .load(bytes)
        .map_err(|source| LoadError::Object {
            source: Box::new(source),
        })?;
    for (name, program) in ebpf.programs_mut() {
        tell(match instructions(name, program, btf) {
            Ok(instructions) => Ok(Verified {
                object,
                program: name.to_owned(),
                instructions,
            }),
            Err(source) => Err(LoadError::Verifier {
                object,
                program: name.to_owned(),
                source: Box::new(source),
            }),
        });
    }
    Ok(())
}

fn instructions(name: &str, program: &mut Program, btf: &Btf) -> Result<u32, ProgramError> {
    let info = match program {
        Program::CgroupSkb(p) => {
            p.load()?;
            p.info()
        }
        Program::CgroupSockAddr(p) => {
            p.load()?;
            p.info()
        }
        Program::CgroupSock(p) => {
            p.load()?;
            p.info()
        }
        Program::SockOps(p) => {
            p.load()?;
            p.info()
        }
        Program::SkMsg(p) => {
            p.load()?;
            p.info()
        }
        Program::Xdp(p) => {
            p.load()?;
            p.info()
        }
        Program::SchedClassifier(p) => {
            p.load()?;
            p.info()
        }
        Program::BtfTracePoint(p) => {
            p.load(tracing::tracepoint(name).unwrap_or(name), btf)?;
            p.info()
        }
        _ => return Err(ProgramError::UnexpectedProgramType),
    }?;
    // Unknown before kernel 5.16 only.
    Ok(info.verified_instruction_count().unwrap_or(0))
}
