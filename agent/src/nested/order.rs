//! What a call asks to run: from Mesos's messages to what the shim of a command takes. Pure.

use waggle_api::{
    exec::{ExecRequest, Winsize},
    mesos::resources,
    proto::mesos::{self as pb, container_info, environment_variable},
};
use waggle_types::{Ceiling, Milli, ScalarKind};

use super::id::Id;

/// What is said of a container that can't be made here (Mesos's sentence).
pub const NOT_SUPPORTED: &str = "The provided ContainerInfo is not supported";

/// How long a container lives, and what it gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// With a sandbox of its own, until it ends or its parent does.
    Plain,
    /// In its parent's sandbox, and as long as the connection that asked for it.
    Session,
}

/// What a standalone container may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Uses {
    /// CPUs: a share.
    pub cpus: Option<Milli>,
    /// A ceiling.
    pub cpus_limit: Ceiling,
    /// MiB.
    pub mem: Option<Milli>,
    /// A ceiling, if it is not `mem`.
    pub mem_limit: Ceiling,
}

/// A container to launch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Its name.
    pub id: Id,
    /// How it lives.
    pub class: Class,
    /// What it runs.
    pub request: ExecRequest,
    /// Whose it is to be.
    pub user: Option<String>,
    /// What it may use, for one that has no parent.
    pub uses: Uses,
}

/// Of `LAUNCH_NESTED_CONTAINER` and `LAUNCH_NESTED_CONTAINER_SESSION`, whose bodies are in `field`.
pub fn nested(
    field: &str,
    call: Option<pb::LaunchNestedContainer>,
    class: Class,
) -> Result<Wanted, String> {
    let call = call.ok_or_else(|| format!("Expecting '{field}' to be present"))?;
    let id = with_parent(field, call.container_id.as_ref())?;
    wanted(field, id, class, call.command, call.container.as_ref())
}

/// Of `LAUNCH_CONTAINER`.
pub fn any(call: Option<pb::LaunchContainer>) -> Result<Wanted, String> {
    let call = call.ok_or("Expecting 'launch_container' to be present")?;
    let invalid = |e| format!("'launch_container.container_id' is invalid: {e}");
    let id = Id::read(call.container_id.as_ref()).map_err(invalid)?;
    id.check_new().map_err(invalid)?;
    if id.is_nested() && !(call.resources.is_empty() && call.limits.is_empty()) {
        let why = "Resources may not be specified when using `launch_container` to launch nested containers";
        return Err(why.to_owned());
    }
    let uses = uses(&call)?;
    let container = call.container.as_ref();
    let mut wanted = wanted(
        "launch_container",
        id,
        Class::Plain,
        call.command,
        container,
    )?;
    wanted.uses = uses;
    Ok(wanted)
}

/// The id in a call's body, of a container that has a parent.
pub fn with_parent(field: &str, id: Option<&pb::ContainerId>) -> Result<Id, String> {
    let invalid = |e| format!("'{field}.container_id' is invalid: {e}");
    let id = Id::read(id).map_err(invalid)?;
    if id.is_nested() {
        Ok(id)
    } else {
        Err(format!(
            "Expecting '{field}.container_id.parent' to be present"
        ))
    }
}

fn wanted(
    field: &str,
    id: Id,
    class: Class,
    command: Option<pb::CommandInfo>,
    container: Option<&pb::ContainerInfo>,
) -> Result<Wanted, String> {
    let invalid = |e| format!("'{field}.command' is invalid: {e}");
    let command = command.ok_or_else(|| format!("Expecting '{field}.command' to be present"))?;
    let tty = terminal(container, class)?;
    if !command.uris.is_empty() {
        // A task's are fetched before it starts; here nobody would see that, or wait for it.
        return Err(invalid(
            "'uris' are not fetched for nested and standalone containers".to_owned(),
        ));
    }
    let env = variables(command.environment.as_ref()).map_err(invalid)?;
    let request = ExecRequest {
        argv: argv(&command).map_err(invalid)?,
        env,
        work_dir: None,
        stdin: class == Class::Session || tty.is_some(),
        tty,
    };
    request.check().map_err(|e| invalid(e.to_string()))?;
    Ok(Wanted {
        id,
        class,
        request,
        user: command.user.filter(|u| !u.is_empty()),
        uses: Uses::default(),
    })
}

/// The terminal that it gets; what else a `ContainerInfo` can ask for is the parent's, and can't be another's.
fn terminal(
    container: Option<&pb::ContainerInfo>,
    class: Class,
) -> Result<Option<Winsize>, String> {
    let Some(c) = container else { return Ok(None) };
    let image = c.docker.is_some() || c.mesos.as_ref().is_some_and(|m| m.image.is_some());
    let linux = c.linux_info.as_ref();
    let cgroups_apart = linux.is_some_and(|l| l.share_cgroups == Some(false));
    if class == Class::Session && cgroups_apart {
        let why = "Nested container sessions must share cgroups with their parent container";
        return Err(why.to_owned());
    }
    let other = linux.is_some_and(|l| {
        let only_shared = pb::LinuxInfo {
            share_cgroups: l.share_cgroups,
            ..pb::LinuxInfo::default()
        };
        *l != only_shared
    });
    let is_mesos = c.r#type == Some(container_info::Type::Mesos.into());
    if !is_mesos
        || image
        || other
        || cgroups_apart
        || !c.volumes.is_empty()
        || !c.network_infos.is_empty()
        || c.hostname.is_some()
        || c.rlimit_info.is_some()
    {
        return Err(NOT_SUPPORTED.to_owned());
    }
    Ok(c.tty_info.as_ref().map(size))
}

/// A terminal's size; the usual one where none is said.
pub fn size(tty: &pb::TtyInfo) -> Winsize {
    let size = tty.window_size.as_ref();
    size.map_or_else(Winsize::default, |s| Winsize {
        rows: u16::try_from(s.rows).unwrap_or(u16::MAX),
        cols: u16::try_from(s.columns).unwrap_or(u16::MAX),
    })
}

/// A shell's text, or a program whose `arguments` begin with its own name.
fn argv(c: &pb::CommandInfo) -> Result<Vec<String>, String> {
    let value = c.value.clone().filter(|v| !v.is_empty());
    let value = value.ok_or("Expecting 'value' to be present")?;
    Ok(if c.shell() {
        vec!["/bin/sh".to_owned(), "-c".to_owned(), value]
    } else {
        let rest = c.arguments.iter().skip(1).cloned();
        std::iter::once(value).chain(rest).collect()
    })
}

fn variables(
    env: Option<&pb::Environment>,
) -> Result<std::collections::BTreeMap<String, String>, String> {
    let all = env.map_or(&[][..], |e| &e.variables);
    let one = |v: &pb::EnvironmentVariable| {
        if v.r#type() == environment_variable::Type::Secret || v.secret.is_some() {
            return Err(format!(
                "Environment variable '{}' of type 'SECRET' is not supported",
                v.name
            ));
        }
        let value = v.value.clone().ok_or_else(|| {
            format!(
                "Environment variable '{}' of type 'VALUE' must have a value set",
                v.name
            )
        })?;
        Ok((v.name.clone(), value))
    };
    all.iter().map(one).collect()
}

/// CPUs and memory are what a standalone container can be held to; of all else the master would have to know.
fn uses(call: &pb::LaunchContainer) -> Result<Uses, String> {
    let invalid = |e: String| format!("'launch_container.resources' is invalid: {e}");
    let read = resources::read("resources", &call.resources).map_err(|e| invalid(e.to_string()))?;
    for r in &call.resources {
        if r.name != "cpus" && r.name != "mem" {
            return Err(invalid(format!(
                "'{:.100}' can't be given to a standalone container",
                r.name
            )));
        }
    }
    let sum = read.sum().unwrap_or_default();
    let given = |kind| Some(sum.get(kind)).filter(|m: &Milli| m.0 > 0);
    let mut out = Uses {
        cpus: given(ScalarKind::Cpus),
        mem: given(ScalarKind::Mem),
        ..Uses::default()
    };
    for (name, limit) in &call.limits {
        let invalid = |e: &str| Err(format!("'launch_container.limits' is invalid: {e}"));
        let at = if limit.value == f64::INFINITY {
            Ceiling::Unlimited
        } else if limit.value.is_finite() && limit.value > 0.0 {
            // More than can be counted is no ceiling.
            Milli::from_f64(limit.value).map_or(Ceiling::Unlimited, Ceiling::At)
        } else {
            return invalid("limits must be positive");
        };
        match name.as_str() {
            "cpus" => out.cpus_limit = at,
            "mem" => out.mem_limit = at,
            _ => return invalid("only 'cpus' and 'mem' can be limited"),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use waggle_api::mesos::json;

    use super::*;

    fn session(text: &str) -> Result<Wanted, String> {
        let text =
            format!(r#"{{"container_id":{{"value":"c","parent":{{"value":"web.1"}}}},{text}}}"#);
        nested(
            "f",
            Some(json::read(text.as_bytes()).unwrap()),
            Class::Session,
        )
    }

    #[test]
    fn a_session_runs_a_program_with_input() {
        let got = session(
            r#""command":{"value":"ls","shell":false,"arguments":["ls","-l"],
                "environment":{"variables":[{"name":"A","value":"b"}]}}"#,
        )
        .unwrap();
        assert_eq!(got.id.to_string(), "web.1.c");
        assert_eq!(got.request.argv, ["ls", "-l"]);
        assert_eq!(got.request.env["A"], "b");
        assert!(got.request.stdin && got.request.tty.is_none());
        let shell = session(r#""command":{"value":"a | b"}"#).unwrap();
        assert_eq!(shell.request.argv, ["/bin/sh", "-c", "a | b"]);
        let terminal = session(
            r#""command":{"value":"sh"},"container":{"type":"MESOS","tty_info":{"window_size":{"rows":3,"columns":70000}}}"#,
        )
        .unwrap();
        assert_eq!(
            terminal.request.tty,
            Some(Winsize {
                rows: 3,
                cols: u16::MAX
            })
        );
        let usual =
            session(r#""command":{"value":"sh"},"container":{"type":"MESOS","tty_info":{}}"#);
        assert_eq!(usual.unwrap().request.tty, Some(Winsize::default()));
    }

    #[test]
    fn what_can_not_be_is_said() {
        for (text, why) in [
            (r#""container":{"type":"MESOS"}"#, "Expecting 'f.command'"),
            (
                r#""command":{}"#,
                "'f.command' is invalid: Expecting 'value'",
            ),
            (
                r#""command":{"value":"x","uris":[{"value":"http://h/x"}]}"#,
                "'f.command' is invalid: 'uris'",
            ),
            (
                r#""command":{"value":"x","environment":{"variables":[{"name":"A","type":"SECRET","secret":{}}]}}"#,
                "'f.command' is invalid: Environment variable 'A' of type 'SECRET'",
            ),
            (
                r#""command":{"value":"x","environment":{"variables":[{"name":"A"}]}}"#,
                "'f.command' is invalid: Environment variable 'A' of type 'VALUE' must",
            ),
            (
                r#""command":{"value":"x"},"container":{"type":"DOCKER","docker":{"image":"i"}}"#,
                NOT_SUPPORTED,
            ),
            (
                r#""command":{"value":"x"},"container":{"type":"MESOS","mesos":{"image":{"type":"DOCKER"}}}"#,
                NOT_SUPPORTED,
            ),
            (
                r#""command":{"value":"x"},"container":{"type":"MESOS","linux_info":{"share_pid_namespace":false}}"#,
                NOT_SUPPORTED,
            ),
            (
                r#""command":{"value":"x"},"container":{"type":"MESOS","linux_info":{"share_cgroups":false}}"#,
                "Nested container sessions must share cgroups",
            ),
        ] {
            let got = session(text).unwrap_err();
            assert!(got.starts_with(why), "{text}: {got}");
        }
        let shared = r#""command":{"value":"x"},"container":{"type":"MESOS","linux_info":{"share_cgroups":true}}"#;
        assert!(session(shared).is_ok());
        let root =
            json::read(br#"{"container_id":{"value":"c"},"command":{"value":"x"}}"#).unwrap();
        assert_eq!(
            nested("f", Some(root), Class::Plain).unwrap_err(),
            "Expecting 'f.container_id.parent' to be present"
        );
        assert!(nested("f", None, Class::Plain).is_err());
    }

    #[test]
    fn only_standalone_containers_have_resources() {
        let launch = |id: &str, rest: &str| {
            let text = format!(r#"{{"container_id":{id},"command":{{"value":"x"}}{rest}}}"#);
            any(Some(json::read(text.as_bytes()).unwrap()))
        };
        let some = r#","resources":[{"name":"cpus","type":"SCALAR","scalar":{"value":0.5}},
            {"name":"mem","type":"SCALAR","scalar":{"value":64}}],"limits":{"mem":{"value":128}}"#;
        let alone = launch(r#"{"value":"c"}"#, some).unwrap();
        let want = Uses {
            cpus: Some(Milli(500)),
            cpus_limit: Ceiling::Usual,
            mem: Some(Milli::units(64)),
            mem_limit: Ceiling::At(Milli::units(128)),
        };
        assert_eq!((alone.uses, alone.class), (want, Class::Plain));
        assert!(!alone.request.stdin);
        let nested = r#"{"value":"c","parent":{"value":"p"}}"#;
        assert!(launch(nested, "").is_ok());
        for (id, rest) in [
            (nested, some),
            (r#"{"value":"a.b"}"#, ""),
            (
                r#"{"value":"c"}"#,
                r#","resources":[{"name":"disk","type":"SCALAR","scalar":{"value":1}}]"#,
            ),
            (r#"{"value":"c"}"#, r#","limits":{"disk":{"value":1}}"#),
            (r#"{"value":"c"}"#, r#","limits":{"cpus":{"value":-1}}"#),
        ] {
            assert!(launch(id, rest).is_err(), "{id} {rest}");
        }
    }
}
