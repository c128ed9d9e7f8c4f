//! `waggle dns query|zone|trace`.

mod query;
mod show;

use std::net::IpAddr;

use crate::{
    args::{DnsSub, RecordType},
    error::CliError,
};

/// Runs `waggle dns ...`.
pub async fn run(command: DnsSub) -> Result<(), CliError> {
    match command {
        DnsSub::Query {
            name,
            record_type,
            type_flag,
            server,
            json,
        } => {
            let (name, record_type) = asked(&name, record_type.or(type_flag));
            query::run(&name, record_type, &server, json).await
        }
        DnsSub::Zone { name, api } => show::zone(name.as_deref(), &api).await,
        DnsSub::Trace {
            name,
            record_type,
            api,
        } => {
            let (name, record_type) = asked(&name, record_type);
            show::trace(&name, record_type, &api).await
        }
    }
}

/// What is meant: an address stands for its reverse name.
fn asked(name: &str, record_type: Option<RecordType>) -> (String, RecordType) {
    match (name.parse::<IpAddr>(), record_type) {
        (Ok(ip), None | Some(RecordType::Ptr)) => {
            let name = waggle_agent::dns::reverse_name(ip).to_string();
            (name, RecordType::Ptr)
        }
        (_, given) => (name.to_owned(), given.unwrap_or(RecordType::A)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_asked_for_its_name() {
        let of = |name, t| {
            let (name, t) = asked(name, t);
            (name, t.name())
        };
        assert_eq!(
            of("11.0.0.1", None),
            ("1.0.0.11.in-addr.arpa.".to_owned(), "PTR")
        );
        assert_eq!(of("leader.mesos", None), ("leader.mesos".to_owned(), "A"));
        // Odd, but what was asked for.
        assert_eq!(of("11.0.0.1", Some(RecordType::A)).0, "11.0.0.1");
    }
}
