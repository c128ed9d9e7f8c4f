//! Why something is refused, by its number on the wire.

use waggle_types::{CallRejection, RejectReason};

use super::ConvertError;
use crate::proto::framework as pb;

const REASONS: [(RejectReason, pb::RejectReason); 35] = {
    use RejectReason as R;
    use pb::RejectReason as W;
    [
        (R::Invalid, W::RejectInvalid),
        (R::UnknownFramework, W::RejectUnknownFramework),
        (R::FrameworkRemoved, W::RejectFrameworkRemoved),
        (R::ReservedFramework, W::RejectReservedFramework),
        (R::NotSubscribed, W::RejectNotSubscribed),
        (R::Replaced, W::RejectReplaced),
        (R::TooMany, W::RejectTooMany),
        (R::StaleOffer, W::RejectStaleOffer),
        (R::ForeignOffer, W::RejectForeignOffer),
        (R::DuplicateOffer, W::RejectDuplicateOffer),
        (R::NoOffers, W::RejectNoOffers),
        (R::MixedAgents, W::RejectMixedAgents),
        (R::Overuse, W::RejectOveruse),
        (R::AgentDisconnected, W::RejectAgentDisconnected),
        (R::DuplicateTask, W::RejectDuplicateTask),
        (R::UnknownTask, W::RejectUnknownTask),
        (R::ForeignTask, W::RejectForeignTask),
        (R::TooSlow, W::RejectTooSlow),
        (R::Refused, W::RejectRefused),
        (R::NotInRole, W::RejectNotInRole),
        (R::MixedRoles, W::RejectMixedRoles),
        (R::BadReservation, W::RejectBadReservation),
        (R::OverLimit, W::RejectOverLimit),
        (R::NotOffered, W::RejectNotOffered),
        (R::NoInverseOffer, W::RejectNoInverseOffer),
        (R::DuplicateVolume, W::RejectDuplicateVolume),
        (R::UnknownAgent, W::RejectUnknownAgent),
        (R::BadQuota, W::RejectBadQuota),
        (R::NotFree, W::RejectNotFree),
        (R::VolumeInUse, W::RejectVolumeInUse),
        (R::UnknownNetwork, W::RejectUnknownNetwork),
        (R::DuplicateNetwork, W::RejectDuplicateNetwork),
        (R::NetworkInUse, W::RejectNetworkInUse),
        (R::UnknownExecutor, W::RejectUnknownExecutor),
        (R::UnknownPolicy, W::RejectUnknownPolicy),
    ]
};

/// A reason from its wire number; what a newer master says is `Refused`.
pub fn reject_reason(value: i32) -> RejectReason {
    let found = REASONS.iter().find(|(_, w)| i32::from(*w) == value);
    found.map_or(RejectReason::Refused, |(r, _)| *r)
}

impl From<RejectReason> for pb::RejectReason {
    fn from(r: RejectReason) -> Self {
        let found = REASONS.iter().find(|(domain, _)| *domain == r);
        found.map_or(Self::RejectRefused, |(_, w)| *w)
    }
}

impl From<&CallRejection> for pb::Rejection {
    fn from(r: &CallRejection) -> Self {
        Self {
            reason: pb::RejectReason::from(r.reason).into(),
            object: r.object.clone(),
            message: r.message.clone(),
        }
    }
}

impl From<pb::Rejection> for CallRejection {
    fn from(r: pb::Rejection) -> Self {
        Self::new(reject_reason(r.reason), r.object, r.message)
    }
}

impl From<ConvertError> for CallRejection {
    fn from(e: ConvertError) -> Self {
        Self::new(e.reason, e.field, e.rule)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_survives_the_wire() {
        for r in RejectReason::ALL {
            let wire = i32::from(pb::RejectReason::from(r));
            assert_ne!(wire, 0);
            assert_eq!(reject_reason(wire), r);
        }
        assert_eq!(reject_reason(4711), RejectReason::Refused);
    }
}
