//! Level 1's reasons in the words of the API.

use waggle_allocator::Rejection;
use waggle_types::{CallRejection, RejectReason};

use super::frameworks::no;

/// What level 1 refused, about `object` unless the reason names something better.
pub(super) fn level_1_says(object: &(impl ToString + ?Sized), reason: &Rejection) -> CallRejection {
    let about = |code, what: &dyn ToString| no(code, &what.to_string(), reason.to_string());
    let object = object.to_string();
    match reason {
        Rejection::UnknownAgent(id) => about(RejectReason::UnknownAgent, id),
        Rejection::UnknownFramework(id) => about(RejectReason::UnknownFramework, id),
        Rejection::StaleOffer(id) => about(RejectReason::StaleOffer, id),
        Rejection::ForeignOffer { offer_id, .. } => about(RejectReason::ForeignOffer, offer_id),
        Rejection::DuplicateOffer(id) => about(RejectReason::DuplicateOffer, id),
        Rejection::NoOffers => about(RejectReason::NoOffers, &"offer_ids"),
        Rejection::MixedAgents { .. } => about(RejectReason::MixedAgents, &"offer_ids"),
        Rejection::MixedRoles => about(RejectReason::MixedRoles, &"offer_ids"),
        Rejection::Overuse { .. } => about(RejectReason::Overuse, &object),
        Rejection::Negative(_) | Rejection::BadParts(_) => about(RejectReason::Invalid, &object),
        Rejection::NotUsed { agent_id, .. } | Rejection::UsedExceedsTotal { agent_id, .. } => {
            about(RejectReason::NotFree, agent_id)
        }
        Rejection::ZeroWeight(_) => about(RejectReason::Invalid, &"weight"),
        Rejection::UnknownKind { role, .. } | Rejection::BadQuota { role, .. } => {
            about(RejectReason::BadQuota, role)
        }
        Rejection::DefaultRole(_) => about(RejectReason::Invalid, &"role"),
        Rejection::NotInRole { role, .. } => about(RejectReason::NotInRole, role),
        Rejection::RoleCount { .. } => about(RejectReason::Invalid, &"roles"),
        Rejection::Field(e) => e.clone().into(),
        Rejection::OverLimit { role, .. } => about(RejectReason::OverLimit, role),
        Rejection::BadReservation(_) => about(RejectReason::BadReservation, &object),
        Rejection::NotFree { .. } => about(RejectReason::NotFree, &object),
        Rejection::BadVolume { volume_id, .. } => about(RejectReason::Invalid, volume_id),
        Rejection::DuplicateVolume { volume_id, .. } => {
            about(RejectReason::DuplicateVolume, volume_id)
        }
        Rejection::UnknownVolume { volume_id, .. } => about(RejectReason::NotFree, volume_id),
        Rejection::VolumeInUse { volume_id, .. } | Rejection::HasVolume { volume_id, .. } => {
            about(RejectReason::VolumeInUse, volume_id)
        }
        Rejection::NoInverseOffer { agent_id, .. } => about(RejectReason::NoInverseOffer, agent_id),
        Rejection::Full { .. } => about(RejectReason::TooMany, &object),
    }
}
