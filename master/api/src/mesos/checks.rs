//! Checks of tasks as Mesos's frameworks ask for them: `HealthCheck`, which is judged, and `CheckInfo`, whose answers are
//! only told.

use waggle_types::{CheckPurpose, Command, HealthCheck, HealthProbe, Millis};

use super::{framework::millis, task::command, task::environment};
use crate::{
    convert::ConvertError,
    proto::mesos::{self as pb, check_info, health_check},
};

/// Mesos waits without end where the time-out is zero; a check that hangs keeps its place among those under way, so
/// there is an end.
const LONGEST: Millis = Millis::from_secs(3600);
/// Shortest interval.
const SHORTEST: Millis = Millis(100);

/// The checks of a task: at most one of each kind.
pub fn of(t: &pb::TaskInfo) -> Result<Vec<HealthCheck>, ConvertError> {
    let health = t.health_check.as_ref().map(|h| {
        let read = health(h);
        read.map_err(|e| e.within("health_check"))
    });
    let told = t.check.as_ref().map(|c| {
        let read = told(c);
        read.map_err(|e| e.within("check"))
    });
    health.into_iter().chain(told).collect()
}

fn health(h: &pb::HealthCheck) -> Result<HealthCheck, ConvertError> {
    // Before the type was there, the field that is set said it.
    let kind = match h.r#type() {
        health_check::Type::Unknown if h.command.is_some() => health_check::Type::Command,
        health_check::Type::Unknown if h.http.is_some() => health_check::Type::Http,
        health_check::Type::Unknown if h.tcp.is_some() => health_check::Type::Tcp,
        kind => kind,
    };
    let probe = match kind {
        health_check::Type::Command => by_command(h.command.as_ref(), "command")?,
        health_check::Type::Http => {
            let http = some(h.http.as_ref(), "http")?;
            let scheme = http.scheme.as_deref().unwrap_or("http");
            if !["http", "https"].contains(&scheme) {
                let rule = format!("must be http or https, is {scheme:.80?}");
                return Err(ConvertError::new("http.scheme", rule));
            }
            let statuses = http.statuses.iter().map(|s| u16::try_from(*s));
            let statuses = statuses.collect::<Result<_, _>>();
            let statuses =
                statuses.map_err(|_| ConvertError::new("http.statuses", "must be below 65536"))?;
            by_http(http.port, http.path.as_deref(), scheme == "https", statuses)?
        }
        health_check::Type::Tcp => by_tcp(some(h.tcp.as_ref(), "tcp")?.port)?,
        health_check::Type::Unknown => return Err(no_kind()),
    };
    Ok(HealthCheck {
        name: None,
        purpose: CheckPurpose::Health,
        probe,
        delay: secs("delay_seconds", h.delay_seconds())?,
        grace_period: secs("grace_period_seconds", h.grace_period_seconds())?,
        interval: secs("interval_seconds", h.interval_seconds())?.max(SHORTEST),
        timeout: timeout(h.timeout_seconds())?,
        max_consecutive_failures: h.consecutive_failures(),
        keep_response: false,
    })
}

fn told(c: &pb::CheckInfo) -> Result<HealthCheck, ConvertError> {
    let probe = match c.r#type() {
        check_info::Type::Command => {
            let outer = some(c.command.as_ref(), "command")?;
            by_command(outer.command.as_ref(), "command.command")?
        }
        check_info::Type::Http => {
            let http = some(c.http.as_ref(), "http")?;
            by_http(http.port, http.path.as_deref(), false, Vec::new())?
        }
        check_info::Type::Tcp => by_tcp(some(c.tcp.as_ref(), "tcp")?.port)?,
        check_info::Type::Unknown => return Err(no_kind()),
    };
    Ok(HealthCheck {
        name: None,
        purpose: CheckPurpose::Report,
        probe,
        delay: secs("delay_seconds", c.delay_seconds())?,
        grace_period: Millis(0),
        interval: secs("interval_seconds", c.interval_seconds())?.max(SHORTEST),
        timeout: timeout(c.timeout_seconds())?,
        max_consecutive_failures: 0,
        keep_response: false,
    })
}

fn some<'a, T>(given: Option<&'a T>, field: &str) -> Result<&'a T, ConvertError> {
    given.ok_or_else(|| ConvertError::new(field, "is missing"))
}

fn no_kind() -> ConvertError {
    ConvertError::new("type", "must be COMMAND, HTTP or TCP")
}

fn by_http(
    port: Option<u32>,
    path: Option<&str>,
    tls: bool,
    statuses: Vec<u16>,
) -> Result<HealthProbe, ConvertError> {
    let path = path.filter(|p| !p.is_empty()).unwrap_or("/");
    let fit = |c: char| c.is_ascii_graphic();
    if !path.starts_with('/') || !path.chars().all(fit) {
        let rule = format!("must be an absolute path as in a URL, is {path:.80?}");
        return Err(ConvertError::new("http.path", rule));
    }
    Ok(HealthProbe::Http {
        tls,
        statuses,
        path: path.to_owned(),
        port_index: 0,
        port: Some(number("http.port", port)?),
    })
}

fn by_tcp(port: Option<u32>) -> Result<HealthProbe, ConvertError> {
    Ok(HealthProbe::Tcp {
        port_index: 0,
        port: Some(number("tcp.port", port)?),
    })
}

fn number(field: &str, port: Option<u32>) -> Result<u16, ConvertError> {
    let port = port.and_then(|p| u16::try_from(p).ok());
    port.filter(|p| *p > 0)
        .ok_or_else(|| ConvertError::new(field, "must be between 1 and 65535"))
}

/// A command with its variables as text for a shell.
fn by_command(c: Option<&pb::CommandInfo>, field: &str) -> Result<HealthProbe, ConvertError> {
    let c = some(c, field)?;
    let quoted = |a: &str| format!("'{}'", a.replace('\'', r"'\''"));
    let shell = match command(c, None, false)? {
        Command::Shell(text) => text,
        Command::Executor => String::new(),
        Command::Argv(all) | Command::Image(all) => {
            let all = all.iter().map(|a| quoted(a));
            all.collect::<Vec<_>>().join(" ")
        }
    };
    let variables = environment(c)?;
    if variables.is_empty() {
        return Ok(HealthProbe::Command { shell });
    }
    // By `env`, since names need not be the shell's.
    let variables = variables.iter().map(|(k, v)| quoted(&format!("{k}={v}")));
    let variables = variables.collect::<Vec<_>>().join(" ");
    let shell = format!("exec env {variables} /bin/sh -c {}", quoted(&shell));
    Ok(HealthProbe::Command { shell })
}

fn secs(field: &str, s: f64) -> Result<Millis, ConvertError> {
    if s.is_finite() && s >= 0.0 {
        return Ok(millis(s));
    }
    let rule = format!("must not be negative, is {s}");
    Err(ConvertError::new(field, rule))
}

fn timeout(s: f64) -> Result<Millis, ConvertError> {
    let given = secs("timeout_seconds", s)?;
    Ok(if given.0 == 0 {
        LONGEST
    } else {
        given.min(LONGEST)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesos::json;

    fn read(text: &str) -> Result<Vec<HealthCheck>, ConvertError> {
        of(&json::read(format!("{{{text}}}").as_bytes()).unwrap())
    }

    #[test]
    fn a_check_has_mesoss_defaults_and_judges_nothing() {
        let all = read(
            r#""check":{"type":"COMMAND","command":{"command":{"value":"test -e $F",
            "environment":{"variables":[{"name":"F","value":"it's"}]}}}},
            "health_check":{"type":"TCP","tcp":{"port":80},"timeout_seconds":0}"#,
        )
        .unwrap();
        let [health, told] = all.as_slice() else {
            panic!("{all:?}");
        };
        assert_eq!(health.purpose, CheckPurpose::Health);
        assert_eq!(health.timeout, LONGEST, "zero means without end");
        assert_eq!(told.purpose, CheckPurpose::Report);
        let times = (told.delay, told.interval, told.timeout);
        let s = Millis::from_secs;
        assert_eq!(times, (s(15), s(10), s(20)));
        let want = r"exec env 'F=it'\''s' /bin/sh -c 'test -e $F'";
        assert!(
            matches!(&told.probe, HealthProbe::Command { shell } if shell == want),
            "{:?}",
            told.probe
        );
    }

    #[test]
    fn http_and_tcp_name_their_ports() {
        let http = r#""check":{"type":"HTTP","http":{"port":8080,"path":"/x?y"},"delay_seconds":0,
            "interval_seconds":0.5,"timeout_seconds":1}"#;
        let all = read(http).unwrap();
        let path = "/x?y".to_owned();
        let want = HealthProbe::Http {
            tls: false,
            statuses: Vec::new(),
            path,
            port_index: 0,
            port: Some(8080),
        };
        assert_eq!(all[0].probe, want);
        let times = (all[0].delay, all[0].interval, all[0].timeout);
        assert_eq!(times, (Millis(0), Millis(500), Millis(1000)));
        for (text, field) in [
            (r#""check":{}"#, "check.type"),
            (r#""check":{"type":"UNKNOWN"}"#, "check.type"),
            (r#""check":{"type":"COMMAND"}"#, "check.command"),
            (
                r#""check":{"type":"COMMAND","command":{}}"#,
                "check.command.command",
            ),
            (r#""check":{"type":"HTTP","http":{}}"#, "check.http.port"),
            (
                r#""check":{"type":"HTTP","http":{"port":1,"path":"x"}}"#,
                "check.http.path",
            ),
            (
                r#""check":{"type":"HTTP","http":{"port":1,"path":"/a b"}}"#,
                "check.http.path",
            ),
            (
                r#""check":{"type":"TCP","tcp":{"port":70000}}"#,
                "check.tcp.port",
            ),
            (
                r#""check":{"type":"TCP","tcp":{"port":1},"delay_seconds":-1}"#,
                "check.delay_seconds",
            ),
            (
                r#""health_check":{"type":"HTTP","http":{"port":1,"scheme":"ftp"}}"#,
                "health_check.http.scheme",
            ),
        ] {
            assert_eq!(read(text).unwrap_err().field, field, "{text}");
        }
    }
}
