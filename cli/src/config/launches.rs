//! How services are launched: Marathon's flags.

use std::time::Duration;

use waggle_master::LaunchLimits;
use waggle_types::Millis;

use super::{DAY, positive};
use crate::{
    args::RunArgs,
    error::{CliError, usage},
    times,
};

/// Longest time between two questions for offers: who waits, waits for them.
const LONGEST_PAUSE: Duration = Duration::from_hours(1);

pub(super) fn launches(args: &RunArgs) -> Result<LaunchLimits, CliError> {
    let usual = LaunchLimits::default();
    let at_least_1 = |field: &str, n: Option<u32>| match n {
        Some(0) => Err(usage(format!("{field}: must be at least 1, is 0"))),
        n => Ok(n),
    };
    let time = |field: &str, text: &Option<String>, usual: Millis| match text {
        None => Ok(usual),
        Some(text) => positive(field, text).map(millis),
    };
    let per_offer = at_least_1("max-instances-per-offer", args.max_instances_per_offer)?;
    Ok(LaunchLimits {
        launch_tokens: at_least_1("launch-tokens", args.launch_tokens)?,
        launch_token_refresh: time(
            "launch-token-refresh-interval",
            &args.launch_token_refresh_interval,
            usual.launch_token_refresh,
        )?,
        min_revive_interval: match args.min_revive_offers_interval.as_deref() {
            None | Some("0s" | "0") => Millis(0),
            Some(text) => {
                let field = "min-revive-offers-interval";
                times::duration(field, text, LONGEST_PAUSE).map(millis)?
            }
        },
        max_instances_per_offer: per_offer.unwrap_or(usual.max_instances_per_offer),
        decline_duration: time(
            "decline-offer-duration",
            &args.decline_offer_duration,
            usual.decline_duration,
        )?,
        launch_timeout: time(
            "task-launch-timeout",
            &args.task_launch_timeout,
            usual.launch_timeout,
        )?,
        ..usual
    })
}

/// At most a [`DAY`].
fn millis(time: Duration) -> Millis {
    Millis(u64::try_from(time.min(DAY).as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_takes_the_place_of_the_default() {
        let usual = launches(&RunArgs::default()).unwrap();
        assert_eq!(usual, LaunchLimits::default());
        let args = RunArgs {
            launch_tokens: Some(100),
            min_revive_offers_interval: Some("5s".to_owned()),
            decline_offer_duration: Some("2m".to_owned()),
            ..RunArgs::default()
        };
        let said = launches(&args).unwrap();
        assert_eq!(said.launch_tokens, Some(100));
        assert_eq!(said.min_revive_interval, Millis(5000));
        assert_eq!(said.decline_duration, Millis(120_000));
        let none = RunArgs {
            min_revive_offers_interval: Some("0s".to_owned()),
            ..RunArgs::default()
        };
        assert_eq!(launches(&none).unwrap(), usual);
    }
}
