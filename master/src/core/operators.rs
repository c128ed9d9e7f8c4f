//! What operators ask of level 1: validated, applied, stored before it is answered; or refused with typed
//! reasons, and nothing of it is done.

use waggle_types::{OperatorCall, RejectReason, UnixMillis};

use super::{
    MasterCore,
    frameworks::{Called, no},
};

impl MasterCore {
    /// One call of an operator.
    pub(super) fn operate(&mut self, call: OperatorCall, now: UnixMillis) -> Called {
        let done = match call {
            OperatorCall::Teardown { framework_id } => {
                if self.frameworks.all.contains_key(&framework_id) {
                    self.remove_framework(&framework_id, now);
                    Ok(())
                } else {
                    let message = "no such framework";
                    let reason = RejectReason::UnknownFramework;
                    Err(vec![no(reason, &framework_id, message)])
                }
            }
            other => {
                let message = "the call is not known to this master";
                Err(vec![no(RejectReason::Refused, other.name(), message)])
            }
        };
        if let Err(all) = &done {
            for r in all {
                self.reject(r.reason.name());
            }
        }
        done
    }
}
