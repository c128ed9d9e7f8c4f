//! Where telemetry goes, and where it waits.

use std::path::{Path, PathBuf};

use waggle_agent::telemetry::{BUDGET, Destination, Protocol, SpoolConfig, pipeline::Cost};
use waggle_agent::{FlowLogConfig, TraceInject, TraceRequests};

use super::positive;
use crate::{
    args::RunArgs,
    error::{CliError, usage},
};

/// Most endpoints: each has its own queues and its own part of the spool.
const MAX_DESTINATIONS: usize = 8;

/// The endpoints: those that are given, else the one that OpenTelemetry's own variables name.
pub fn destinations(
    given: &[String],
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Vec<Destination>, CliError> {
    if given.len() > MAX_DESTINATIONS {
        let n = given.len();
        return Err(usage(format!(
            "otlp: must be at most {MAX_DESTINATIONS} endpoints, are {n}"
        )));
    }
    if given.is_empty() {
        return Ok(of_variables(variable)?.into_iter().collect());
    }
    given.iter().map(|text| destination(text)).collect()
}

fn destination(text: &str) -> Result<Destination, CliError> {
    let mut parts = text.split(';');
    let mut out = Destination::new(url("otlp", parts.next().unwrap_or_default())?);
    let (mut certificate, mut key) = (None, None);
    for part in parts {
        match part.split_once('=') {
            Some(("protocol", p)) => out.protocol = protocol("otlp", p)?,
            Some(("header", h)) => match h.split_once(':') {
                Some((name, value)) if !name.is_empty() => out
                    .headers
                    .push((name.to_owned(), value.trim_start().to_owned())),
                _ => return Err(usage("otlp: header must be NAME:VALUE")),
            },
            Some(("ca", f)) if !f.is_empty() => out.ca = Some(f.into()),
            Some(("cert", f)) if !f.is_empty() => certificate = Some(f.into()),
            Some(("key", f)) if !f.is_empty() => key = Some(f.into()),
            _ => {
                // Not the whole of it: a header may be secret.
                let name = part.split(['=', ':']).next().unwrap_or_default();
                return Err(usage(format!(
                    "otlp: options must be protocol=, header=, ca=, cert= and key=, one is {name:.40?}"
                )));
            }
        }
    }
    out.identity = pair("otlp: cert and key", certificate, key)?;
    Ok(out)
}

fn of_variables(
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Option<Destination>, CliError> {
    let of = |name: &str| {
        let name = format!("OTEL_EXPORTER_OTLP_{name}");
        let value = variable(&name).filter(|v| !v.is_empty());
        (name, value)
    };
    let (name, Some(endpoint)) = of("ENDPOINT") else {
        return Ok(None);
    };
    let mut out = Destination::new(url(&name, &endpoint)?);
    if let (name, Some(p)) = of("PROTOCOL") {
        out.protocol = protocol(&name, &p)?;
    }
    if let (name, Some(headers)) = of("HEADERS") {
        for header in headers.split(',').filter(|h| !h.trim().is_empty()) {
            let Some((key, value)) = header.split_once('=') else {
                return Err(usage(format!("{name}: must be NAME=VALUE,NAME=VALUE")));
            };
            let (key, value) = (key.trim(), value.trim());
            out.headers.push((key.to_owned(), unescaped(value)));
        }
    }
    out.ca = of("CERTIFICATE").1.map(PathBuf::from);
    let own = [of("CLIENT_CERTIFICATE").1, of("CLIENT_KEY").1].map(|f| f.map(PathBuf::from));
    let [certificate, key] = own;
    out.identity = pair(
        "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and OTEL_EXPORTER_OTLP_CLIENT_KEY",
        certificate,
        key,
    )?;
    Ok(Some(out))
}

fn url(field: &str, text: &str) -> Result<String, CliError> {
    if text.starts_with("http://") || text.starts_with("https://") {
        return Ok(text.to_owned());
    }
    Err(usage(format!(
        "{field}: must be of the form http://host:port or https://host:port, is {text:.100?}"
    )))
}

fn protocol(field: &str, text: &str) -> Result<Protocol, CliError> {
    match text {
        "grpc" => Ok(Protocol::Grpc),
        "http/protobuf" => Ok(Protocol::Http),
        "http/json" => Ok(Protocol::HttpJson),
        other => Err(usage(format!(
            "{field}: protocol must be grpc, http/protobuf or http/json, is {other:.40?}"
        ))),
    }
}

fn pair(
    fields: &str,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
) -> Result<Option<(PathBuf, PathBuf)>, CliError> {
    match (certificate, key) {
        (Some(c), Some(k)) => Ok(Some((c, k))),
        (None, None) => Ok(None),
        _ => Err(usage(format!("{fields} must be given together"))),
    }
}

/// `%20` is a blank; what is no escape stays as it is.
fn unescaped(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&b, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|d| std::str::from_utf8(d).ok());
        let byte = digits.and_then(|d| u8::from_str_radix(d, 16).ok());
        if let Some(byte) = byte.filter(|_| b == b'%') {
            out.push(byte);
            rest = after.get(2..).unwrap_or_default();
        } else {
            out.push(b);
            rest = after;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Where tasks' telemetry is taken: a port, or `none`.
pub fn task_port(flag: &str, given: Option<&str>, default: u16) -> Result<Option<u16>, CliError> {
    match given {
        None => Ok(Some(default)),
        Some("none") => Ok(None),
        Some(text) => match text.parse() {
            Ok(port) if port > 0 => Ok(Some(port)),
            _ => Err(usage(format!(
                "{flag}: must be a port or none, is {text:.40?}"
            ))),
        },
    }
}

/// Which connections a node remembers.
pub fn flows(args: &RunArgs) -> Result<FlowLogConfig, CliError> {
    let mut flows = FlowLogConfig::default();
    if let Some(mib) = args.flow_log_size {
        if mib > 1 << 20 {
            return Err(usage(format!(
                "flow-log-size: must be 0 to 1048576 MiB, is {mib}"
            )));
        }
        flows.max_bytes = mib << 20;
    }
    if let Some(age) = args.flow_log_age.as_deref() {
        flows.max_age = positive("flow-log-age", age)?;
    }
    Ok(flows)
}

/// Whose requests become spans.
pub fn trace_requests(args: &RunArgs) -> Result<TraceRequests, CliError> {
    match args.trace_requests.as_deref() {
        None => Ok(TraceRequests::default()),
        Some("off") => Ok(TraceRequests::Off),
        Some("labelled") => Ok(TraceRequests::Labelled),
        Some("all") => Ok(TraceRequests::All),
        Some(text) => Err(usage(format!(
            "trace-requests: must be off, labelled or all, is {text:.40?}"
        ))),
    }
}

/// Whether a `traceparent` may be put into requests, which is done only to those that are traced.
pub fn trace_inject(args: &RunArgs) -> Result<TraceInject, CliError> {
    let inject = match args.trace_inject.as_deref() {
        None | Some("off") => return Ok(TraceInject::Off),
        Some("labelled") => TraceInject::Labelled,
        Some("labelled-without-send-zc") => TraceInject::WithoutSendZc,
        Some(text) => {
            return Err(usage(format!(
                "trace-inject: must be off, labelled or labelled-without-send-zc, is {text:.40?}"
            )));
        }
    };
    if trace_requests(args)? == TraceRequests::Off {
        return Err(usage(
            "trace-inject: must be off where trace-requests is".to_owned(),
        ));
    }
    Ok(inject)
}

/// What telemetry may cost.
pub fn budget(args: &RunArgs) -> Result<Cost, CliError> {
    let cpus = args.telemetry_cpu.unwrap_or(BUDGET.cpus);
    if !(0.01..=1024.0).contains(&cpus) {
        return Err(usage(format!(
            "telemetry-cpu: must be 0.01 to 1024 CPUs, is {cpus}"
        )));
    }
    let mib = args.telemetry_memory.unwrap_or(BUDGET.memory >> 20);
    if !(8..=1 << 20).contains(&mib) {
        return Err(usage(format!(
            "telemetry-memory: must be 8 to 1048576 MiB, is {mib}"
        )));
    }
    Ok(Cost {
        cpus,
        memory: mib << 20,
    })
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
    fn endpoints_are_read_with_what_they_want() {
        let given = [
            "http://a:4317".to_owned(),
            "https://b;protocol=http/protobuf;header=x-key: s;header=y:a:b;ca=/c;cert=/d;key=/e"
                .to_owned(),
        ];
        let none = |_: &str| None;
        let read = destinations(&given, none).unwrap();
        assert_eq!(read[0], Destination::new("http://a:4317"));
        let pair = |k: &str, v: &str| (k.to_owned(), v.to_owned());
        let want = Destination {
            url: "https://b".into(),
            protocol: Protocol::Http,
            headers: vec![pair("x-key", "s"), pair("y", "a:b")],
            ca: Some("/c".into()),
            identity: Some(("/d".into(), "/e".into())),
        };
        assert_eq!(read[1], want);
        assert_eq!(destinations(&[], none).unwrap(), []);
        for (bad, said) in [
            ("a:1", "http://host:port"),
            ("http://a;protocol=json", "protocol must be"),
            ("http://a;header=x", "header must be"),
            ("http://a;cert=/x", "given together"),
            ("http://a;x=1", "options must be"),
        ] {
            let error = destinations(&[bad.to_owned()], none).unwrap_err();
            assert!(error.to_string().contains(said), "{error}");
        }
        assert!(destinations(&vec!["http://a".to_owned(); 9], none).is_err());
    }

    #[test]
    fn headers_are_put_only_into_requests_that_are_traced() {
        let args = |requests: Option<&str>, inject: &str| RunArgs {
            trace_requests: requests.map(str::to_owned),
            trace_inject: Some(inject.to_owned()),
            ..RunArgs::default()
        };
        let all = [
            ("off", TraceInject::Off),
            ("labelled", TraceInject::Labelled),
            ("labelled-without-send-zc", TraceInject::WithoutSendZc),
        ];
        for (text, want) in all {
            assert_eq!(trace_inject(&args(None, text)).unwrap(), want);
        }
        assert_eq!(trace_inject(&RunArgs::default()).unwrap(), TraceInject::Off);
        let off = Some("off");
        assert_eq!(trace_inject(&args(off, "off")).unwrap(), TraceInject::Off);
        for (bad, said) in [
            (args(None, "all"), "trace-inject: must be off, labelled or"),
            (args(off, "labelled"), "off where trace-requests is"),
        ] {
            let error = trace_inject(&bad).unwrap_err();
            assert!(error.to_string().contains(said), "{error}");
        }
    }

    #[test]
    fn the_variables_of_opentelemetry_are_known() {
        let set = |name: &str| {
            let value = match name {
                "OTEL_EXPORTER_OTLP_ENDPOINT" => "https://a:4318",
                "OTEL_EXPORTER_OTLP_PROTOCOL" => "http/protobuf",
                "OTEL_EXPORTER_OTLP_HEADERS" => "authorization=Basic%20eA==, x=1",
                "OTEL_EXPORTER_OTLP_CERTIFICATE" => "/ca",
                _ => return None,
            };
            Some(value.to_owned())
        };
        let read = destinations(&[], set).unwrap();
        let header = ("authorization".to_owned(), "Basic eA==".to_owned());
        assert_eq!(read[0].headers[0], header);
        assert_eq!((read.len(), read[0].headers.len()), (1, 2));
        assert_eq!(read[0].ca, Some("/ca".into()));
        let flag = destinations(&["http://b".to_owned()], set).unwrap();
        assert_eq!(flag, [Destination::new("http://b")]);
    }

    #[test]
    fn what_it_may_cost_is_within_reason() {
        let mut args = RunArgs::default();
        let cost = budget(&args).unwrap();
        assert_eq!((cost.cpus, cost.memory), (1.0, 128 << 20));
        args.telemetry_cpu = Some(0.0);
        let said = budget(&args).unwrap_err().to_string();
        assert!(said.starts_with("telemetry-cpu"), "{said}");
        (args.telemetry_cpu, args.telemetry_memory) = (Some(0.5), Some(1));
        let said = budget(&args).unwrap_err().to_string();
        assert!(said.starts_with("telemetry-memory"), "{said}");
    }

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
