//! What loading programs into the kernel took and came to: a span for each object, a trace of its own.

use waggle_telemetry::{SpanKind, Telemetry};

use crate::clock;

/// The kernel's answers are as long as its verifier's log.
const MAX_REFUSED: usize = 1000;

/// An object whose programs are being loaded and attached.
#[derive(Debug)]
pub struct Attaching {
    telemetry: Telemetry,
    object: &'static str,
    began_ns: u64,
}

impl Attaching {
    /// It begins now.
    pub fn begin(telemetry: &Telemetry, object: &'static str) -> Self {
        Self {
            telemetry: telemetry.clone(),
            object,
            began_ns: clock::now_ns(),
        }
    }

    /// It is over: these run, and what the kernel refused, with its answers.
    pub fn end<'a>(self, programs: impl IntoIterator<Item = &'a str>, refused: &[String]) {
        let programs: Vec<&str> = programs.into_iter().collect();
        let span = self.telemetry.span("programs.attach");
        let span = span.kind(SpanKind::Internal).start_ns(self.began_ns);
        let mut span = span.begin();
        span.set("waggle.ebpf.object", self.object);
        span.set("waggle.ebpf.programs", programs.join(", "));
        span.set("waggle.kernel", self.telemetry.kernel());
        if !refused.is_empty() {
            let why: String = refused.join("; ").chars().take(MAX_REFUSED).collect();
            span.error("refused", &why);
            span.set("waggle.ebpf.refused", why);
        }
        span.end();
        let took = clock::now_ns().saturating_sub(self.began_ns) as f64 / 1e9;
        tracing::debug!(
            object = self.object,
            took,
            n = programs.len(),
            "programs are attached"
        );
    }
}

#[cfg(test)]
mod tests {
    use waggle_telemetry::names;

    use super::*;

    #[test]
    fn what_runs_and_what_was_refused_is_said() {
        let telemetry = Telemetry::disabled().component("waggle-agent");
        let refused = ["tp_btf/x: no such type".to_owned(), "y".repeat(5000)];
        Attaching::begin(&telemetry, "observe").end(["run_delay", "drops"], &refused);
        let key = "waggle.ebpf.object";
        let trace = telemetry.recent_trace_of(key, "observe").unwrap();
        let (spans, _) = telemetry.recent_spans(&trace);
        let [span] = <[_; 1]>::try_from(spans).unwrap();
        assert_eq!(span.name, "programs.attach");
        assert_eq!(span.attributes["waggle.ebpf.programs"], "run_delay, drops");
        assert_eq!(span.attributes[names::ERROR_TYPE], "refused");
        let why = span.error.unwrap();
        assert!(why.starts_with("tp_btf/x: no such type; yyy") && why.len() == MAX_REFUSED);
    }
}
