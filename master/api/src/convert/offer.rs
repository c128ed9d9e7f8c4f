//! Offers and inverse offers.

use waggle_types::{
    AgentId, FrameworkId, InverseOffer, Millis, Offer, OfferId, Resources, Unavailability,
    UnixMillis,
};

use super::reservation::{domain, parts};
use super::{ConvertError, id, ip, required};
use crate::proto::framework as pb;

/// An offer as its framework reads it; whose it is, the stream says.
pub fn offer(o: pb::Offer, framework_id: &FrameworkId) -> Result<Offer, ConvertError> {
    let resources: Resources = required("resources", o.resources)?
        .try_into()
        .map_err(|e: ConvertError| e.within("resources"))?;
    Ok(Offer {
        offer_id: id("offer_id", o.offer_id, OfferId::new)?,
        framework_id: framework_id.clone(),
        role: o.role,
        agent_id: id("agent_id", o.agent_id, AgentId::new)?,
        hostname: o.hostname,
        ip: ip("ip", &o.ip)?,
        parts: parts(o.parts, &resources)?,
        resources,
        domain: domain(o.domain)?,
        unavailability: o.unavailability.map(Into::into),
        attributes: o.attributes,
        at: UnixMillis(o.at_ms),
    })
}

impl From<&Offer> for pb::Offer {
    fn from(o: &Offer) -> Self {
        Self {
            offer_id: o.offer_id.to_string(),
            role: o.role.clone(),
            agent_id: o.agent_id.to_string(),
            hostname: o.hostname.clone(),
            ip: o.ip.to_string(),
            resources: Some((&o.resources).into()),
            attributes: o.attributes.clone(),
            at_ms: o.at.0,
            parts: o.parts.iter().map(Into::into).collect(),
            domain: o.domain.as_ref().map(Into::into),
            unavailability: o.unavailability.as_ref().map(Into::into),
        }
    }
}

impl From<pb::Unavailability> for Unavailability {
    fn from(u: pb::Unavailability) -> Self {
        Self {
            start: UnixMillis(u.start_ms),
            duration: u.duration_ms.map(Millis),
        }
    }
}

impl From<&Unavailability> for pb::Unavailability {
    fn from(u: &Unavailability) -> Self {
        Self {
            start_ms: u.start.0,
            duration_ms: u.duration.map(|d| d.0),
        }
    }
}

/// An inverse offer as its framework reads it.
pub fn inverse_offer(
    o: pb::InverseOffer,
    framework_id: &FrameworkId,
) -> Result<InverseOffer, ConvertError> {
    Ok(InverseOffer {
        offer_id: id("offer_id", o.offer_id, OfferId::new)?,
        framework_id: framework_id.clone(),
        agent_id: id("agent_id", o.agent_id, AgentId::new)?,
        unavailability: required("unavailability", o.unavailability)?.into(),
        resources: required("resources", o.resources)?
            .try_into()
            .map_err(|e: ConvertError| e.within("resources"))?,
    })
}

impl From<&InverseOffer> for pb::InverseOffer {
    fn from(o: &InverseOffer) -> Self {
        Self {
            offer_id: o.offer_id.to_string(),
            agent_id: o.agent_id.to_string(),
            unavailability: Some((&o.unavailability).into()),
            resources: Some((&o.resources).into()),
        }
    }
}
