//! Who subscribes, in Mesos's words.

use std::{collections::BTreeMap, sync::Arc};

use waggle_types::{
    About, AttributeConstraint, Capabilities, FrameworkId, FrameworkInfo, MAX_ROLES, Millis,
    OfferConstraints, Predicate, Resources, RoleSubscription, ScalarKind, Selector, check_kind,
    mangle_label,
};

use super::resources::{self, Format};
use crate::{
    convert::{ConvertError, MAX_CONSTRAINTS},
    proto::mesos::{self as pb, constraint_selector::PseudoattributeType, framework_capability},
};

/// Longest text about a framework, in bytes.
const MAX_TEXT: usize = 1024;
/// Most labels of a framework.
const MAX_LABELS: usize = 256;
/// Longest failover time-out that is kept as it is; a longer one becomes this.
const MAX_FAILOVER_SECS: f64 = 30.0 * 86_400.0;

/// What a framework said it can do, where it decides how it is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dialect {
    /// `PARTITION_AWARE`: it knows more states than `TASK_LOST`.
    pub partition_aware: bool,
    /// `TASK_KILLING_STATE`.
    pub task_killing: bool,
    /// How it reads reservations.
    pub format: Format,
}

impl Dialect {
    /// Of operators, who know all states.
    pub const OPERATOR: Self = Self {
        partition_aware: true,
        task_killing: true,
        format: Format::Role,
    };

    /// As the framework's capabilities say.
    pub fn of(info: &pb::FrameworkInfo) -> Self {
        use framework_capability::Type;
        let has = |t: Type| info.capabilities.iter().any(|c| c.r#type() == t);
        Self {
            partition_aware: has(Type::PartitionAware),
            task_killing: has(Type::TaskKillingState),
            format: if has(Type::ReservationRefinement) {
                Format::Stack
            } else {
                Format::Role
            },
        }
    }
}

fn wrong(field: &str, rule: impl Into<String>) -> ConvertError {
    ConvertError::new(field, rule)
}

/// Reads a subscription; `framework_id` is the call's own.
pub fn subscription(
    framework_id: Option<&pb::FrameworkId>,
    s: &pb::Subscribe,
) -> Result<FrameworkInfo, ConvertError> {
    let info = s
        .framework_info
        .as_ref()
        .ok_or_else(|| wrong("framework_info", "is missing"))?;
    let within = |e: ConvertError| e.within("framework_info");
    let out = FrameworkInfo {
        id: id(framework_id, info)?,
        name: dns_name(info.name.as_deref().unwrap_or_default()),
        roles: roles(info, s)?,
        capabilities: capabilities(info),
        failover_timeout: failover(info).map_err(within)?,
        about: Arc::new(about(info).map_err(within)?),
    };
    out.check().map_err(|e| wrong(&e.field, e.rule))?;
    Ok(out)
}

fn id(
    of_call: Option<&pb::FrameworkId>,
    info: &pb::FrameworkInfo,
) -> Result<Option<FrameworkId>, ConvertError> {
    let filled = |id: Option<&pb::FrameworkId>| {
        let value = id.map(|id| id.value.clone());
        value.filter(|v| !v.is_empty())
    };
    let (call, inner) = (filled(of_call), filled(info.id.as_ref()));
    if call != inner {
        let rule = "must be equal to framework_info.id";
        return Err(wrong("framework_id", rule));
    }
    inner
        .map(|id| FrameworkId::new(id).map_err(|e| wrong("framework_info.id", e.to_string())))
        .transpose()
}

/// The name as a DNS label: Mesos takes any text. One that has no letter is `framework`.
fn dns_name(name: &str) -> String {
    let spaced: String = name
        .chars()
        .map(|c| if c.is_whitespace() { '-' } else { c })
        .collect();
    let label = mangle_label(&spaced);
    match label.as_str() {
        "" => "framework".to_owned(),
        // The master has one of its own.
        "marathon" => "marathon-mesos".to_owned(),
        _ => label,
    }
}

fn capabilities(info: &pb::FrameworkInfo) -> Capabilities {
    use framework_capability::Type;
    let has = |t: Type| info.capabilities.iter().any(|c| c.r#type() == t);
    Capabilities {
        gpus: has(Type::GpuResources),
        region_aware: has(Type::RegionAware),
        revocable: has(Type::RevocableResources),
    }
}

fn failover(info: &pb::FrameworkInfo) -> Result<Millis, ConvertError> {
    let secs = info.failover_timeout();
    if !secs.is_finite() || secs < 0.0 {
        let rule = format!("must be a number of seconds, not negative, is {secs}");
        return Err(wrong("failover_timeout", rule));
    }
    Ok(millis(secs.min(MAX_FAILOVER_SECS)))
}

/// Seconds that are between 0 and some years.
pub(super) fn millis(secs: f64) -> Millis {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to 0..10^12 just before"
    )]
    Millis((secs.clamp(0.0, 1e9) * 1000.0).round() as u64)
}

fn about(info: &pb::FrameworkInfo) -> Result<About, ConvertError> {
    let text = |field: &str, t: &Option<String>| {
        let t = t.clone().unwrap_or_default();
        if t.len() > MAX_TEXT || t.contains('\0') {
            let rule = format!(
                "must be at most {MAX_TEXT} bytes without NUL, is {}",
                t.len()
            );
            return Err(wrong(field, rule));
        }
        Ok(t)
    };
    if info.name.is_none() {
        return Err(wrong("name", "is missing"));
    }
    let user = text("user", &info.user)?;
    let labels = resources::labels(info.labels.as_ref());
    if labels.len() > MAX_LABELS {
        let rule = format!("must be at most {MAX_LABELS}, is {}", labels.len());
        return Err(wrong("labels", rule));
    }
    for (k, v) in &labels {
        text("labels", &Some(k.clone()))?;
        text("labels", &Some(v.clone()))?;
    }
    let named = |c: &pb::FrameworkCapability| {
        let t = c.r#type();
        (t != framework_capability::Type::Unknown).then(|| t.as_str_name().to_owned())
    };
    Ok(About {
        title: text("name", &info.name)?,
        user,
        principal: text("principal", &info.principal)?,
        hostname: text("hostname", &info.hostname)?,
        webui_url: text("webui_url", &info.webui_url)?,
        checkpoint: info.checkpoint(),
        labels,
        capabilities: info.capabilities.iter().filter_map(named).collect(),
    })
}

fn roles(
    info: &pb::FrameworkInfo,
    s: &pb::Subscribe,
) -> Result<Vec<RoleSubscription>, ConvertError> {
    use framework_capability::Type;
    let multi = info
        .capabilities
        .iter()
        .any(|c| c.r#type() == Type::MultiRole);
    let names: Vec<String> = match (multi, info.roles.as_slice()) {
        (true, _) if info.role.is_some() => {
            let rule = "must not be set by a framework with MULTI_ROLE";
            return Err(wrong("framework_info.role", rule));
        }
        // Mesos lets such a framework subscribe and offers nothing; it would never find out why.
        (true, []) => vec!["*".to_owned()],
        (true, roles) => roles.to_vec(),
        (false, []) => vec![info.role().to_owned()],
        (false, _) => {
            let rule = "must not be set by a framework without MULTI_ROLE";
            return Err(wrong("framework_info.roles", rule));
        }
    };
    if names.len() > MAX_ROLES {
        let rule = format!("must be at most {MAX_ROLES}, is {}", names.len());
        return Err(wrong("framework_info.roles", rule));
    }
    let mut constraints = constraints(s.offer_constraints.as_ref())?;
    for (field, role) in s
        .suppressed_roles
        .iter()
        .map(|r| ("suppressed_roles", r))
        .chain(constraints.keys().map(|r| ("offer_constraints", r)))
    {
        if !names.contains(role) {
            let rule = format!("must be roles of the framework, is {role:.80?}");
            return Err(wrong(field, rule));
        }
    }
    let mut out = Vec::new();
    for role in names {
        out.push(RoleSubscription {
            suppressed: s.suppressed_roles.contains(&role),
            constraints: constraints.remove(&role).unwrap_or_default(),
            smallest: smallest(info.offer_filters.get(&role))
                .map_err(|e| e.within("framework_info.offer_filters"))?,
            role,
        });
    }
    Ok(out)
}

/// The smallest bundle of use. Mesos has several alternatives; here it is one, so of several none is.
fn smallest(filters: Option<&pb::OfferFilters>) -> Result<Option<Resources>, ConvertError> {
    let least = filters.and_then(|f| f.min_allocatable_resources.as_ref());
    let [only] = least.map_or(&[][..], |l| l.quantities.as_slice()) else {
        return Ok(None);
    };
    let mut out = Resources::default();
    for (name, scalar) in &only.quantities {
        let q = resources::quantity(name, scalar.value)?;
        if let Some(kind) = ScalarKind::ALL.iter().find(|k| k.name() == name) {
            out.scalars[*kind as usize] = q;
        } else {
            check_kind(name).map_err(|e| wrong(&e.field, e.rule))?;
            out.custom.set_scalar(name.clone(), q);
        }
    }
    Ok((!out.is_empty()).then_some(out))
}

fn constraints(
    all: Option<&pb::OfferConstraints>,
) -> Result<BTreeMap<String, OfferConstraints>, ConvertError> {
    let Some(all) = all else {
        return Ok(BTreeMap::new());
    };
    let groups = all.role_constraints.values().flat_map(|r| &r.groups);
    let n: usize = groups.map(|g| g.attribute_constraints.len().max(1)).sum();
    if n > MAX_CONSTRAINTS {
        let rule = format!("must be at most {MAX_CONSTRAINTS} constraints, is {n}");
        return Err(wrong("offer_constraints", rule));
    }
    let mut out = BTreeMap::new();
    for (role, r) in &all.role_constraints {
        let group = |g: &pb::ConstraintGroup| {
            let all = g.attribute_constraints.iter();
            all.map(constraint).collect::<Result<Vec<_>, _>>()
        };
        let groups: Result<OfferConstraints, _> = r.groups.iter().map(group).collect();
        out.insert(
            role.clone(),
            groups.map_err(|e| e.within("offer_constraints"))?,
        );
    }
    Ok(out)
}

fn constraint(c: &pb::AttributeConstraint) -> Result<AttributeConstraint, ConvertError> {
    let s = c
        .selector
        .as_ref()
        .ok_or_else(|| wrong("selector", "is missing"))?;
    let selector = match (&s.attribute_name, s.pseudoattribute_type()) {
        (Some(name), PseudoattributeType::Unknown) if !name.is_empty() => {
            Selector::Attribute(name.clone())
        }
        (None, PseudoattributeType::Hostname) => Selector::Hostname,
        (None, PseudoattributeType::Region) => Selector::Region,
        (None, PseudoattributeType::Zone) => Selector::Zone,
        _ => {
            let rule = "must be an attribute's name or one of HOSTNAME, REGION, ZONE";
            return Err(wrong("selector", rule));
        }
    };
    let p = c
        .predicate
        .as_ref()
        .ok_or_else(|| wrong("predicate", "is missing"))?;
    let text = |t: &pb::ConstraintText| t.value.clone().unwrap_or_default();
    let regex = |r: &pb::ConstraintRegex| r.regex.clone().unwrap_or_default();
    let given = [
        p.exists.as_ref().map(|_| Predicate::Exists),
        p.not_exists.as_ref().map(|_| Predicate::NotExists),
        p.text_equals
            .as_ref()
            .map(|t| Predicate::TextEquals(text(t))),
        p.text_not_equals
            .as_ref()
            .map(|t| Predicate::TextNotEquals(text(t))),
        p.text_matches
            .as_ref()
            .map(|r| Predicate::TextMatches(regex(r))),
        p.text_not_matches
            .as_ref()
            .map(|r| Predicate::TextNotMatches(regex(r))),
    ];
    let mut given = given.into_iter().flatten();
    match (given.next(), given.next()) {
        (Some(predicate), None) => Ok(AttributeConstraint {
            selector,
            predicate,
        }),
        _ => Err(wrong("predicate", "must be exactly one")),
    }
}

/// What a framework said of itself, with the id that it has.
pub(super) fn with_id(info: &pb::FrameworkInfo, id: &FrameworkId) -> pb::FrameworkInfo {
    pb::FrameworkInfo {
        id: Some(pb::FrameworkId {
            value: id.to_string(),
        }),
        ..info.clone()
    }
}

/// A framework as operators see it.
pub fn framework_info(id: &FrameworkId, info: &FrameworkInfo) -> pb::FrameworkInfo {
    let a = &info.about;
    let filled = |t: &String| (!t.is_empty()).then(|| t.clone());
    let multi = a.capabilities.contains("MULTI_ROLE") || info.roles.len() > 1;
    let names: Vec<String> = info.roles.iter().map(|r| r.role.clone()).collect();
    let capability = |name: &String| pb::FrameworkCapability {
        r#type: framework_capability::Type::from_str_name(name).map(Into::into),
    };
    pb::FrameworkInfo {
        user: Some(a.user.clone()),
        name: Some(a.title_or(&info.name).to_owned()),
        id: Some(pb::FrameworkId {
            value: id.to_string(),
        }),
        failover_timeout: Some(info.failover_timeout.0 as f64 / 1000.0),
        checkpoint: Some(a.checkpoint),
        role: (!multi).then(|| names.first().cloned().unwrap_or_else(|| "*".into())),
        hostname: filled(&a.hostname),
        principal: filled(&a.principal),
        webui_url: filled(&a.webui_url),
        capabilities: a.capabilities.iter().map(capability).collect(),
        labels: resources::to_labels(&a.labels),
        roles: if multi { names } else { Vec::new() },
        offer_filters: BTreeMap::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesos::json;

    fn read(text: &str) -> Result<FrameworkInfo, ConvertError> {
        let call: pb::Call = json::read(text.as_bytes()).unwrap();
        subscription(call.framework_id.as_ref(), call.subscribe.as_ref().unwrap())
    }

    #[test]
    fn a_framework_of_pymesos_is_read() {
        let info = read(
            r#"{"type":"SUBSCRIBE","subscribe":{"framework_info":{"user":"root","name":"Test Python Framework",
            "hostname":"h","capabilities":[{"type":"GPU_RESOURCES"},{"type":"NEWER_THAN_US"}],"failover_timeout":100}}}"#,
        )
        .unwrap();
        assert_eq!(info.name, "test-python-framework");
        assert_eq!(info.about.title, "Test Python Framework");
        assert_eq!(info.failover_timeout, Millis::from_secs(100));
        assert!(info.capabilities.gpus);
        assert_eq!(info.roles, [RoleSubscription::new("*")]);
        let back = framework_info(&FrameworkId::new("f").unwrap(), &info);
        assert_eq!(back.role.as_deref(), Some("*"));
    }

    #[test]
    fn roles_follow_the_capability() {
        let info = read(
            r#"{"subscribe":{"framework_info":{"user":"u","name":"a","roles":["x","y/z"],
            "capabilities":[{"type":"MULTI_ROLE"}]},"suppressed_roles":["x"],
            "offer_constraints":{"role_constraints":{"y/z":{"groups":[{"attribute_constraints":[
            {"selector":{"attribute_name":"rack"},"predicate":{"text_equals":{"value":"a1"}}}]}]}}}}}"#,
        )
        .unwrap();
        assert!(info.roles[0].suppressed && !info.roles[1].suppressed);
        assert_eq!(
            info.roles[1].constraints[0][0],
            AttributeConstraint {
                selector: Selector::Attribute("rack".into()),
                predicate: Predicate::TextEquals("a1".into()),
            }
        );
        let field = |t: &str| read(t).unwrap_err().field;
        assert_eq!(
            field(r#"{"subscribe":{"framework_info":{"user":"u","name":"a","roles":["x"]}}}"#),
            "framework_info.roles"
        );
        assert_eq!(
            field(
                r#"{"subscribe":{"framework_info":{"user":"u","name":"a"},"suppressed_roles":["x"]}}"#
            ),
            "suppressed_roles"
        );
        assert_eq!(field(r#"{"subscribe":{}}"#), "framework_info");
        assert_eq!(
            field(
                r#"{"framework_id":{"value":"f"},"subscribe":{"framework_info":{"user":"u","name":"a"}}}"#
            ),
            "framework_id"
        );
        assert_eq!(
            field(r#"{"subscribe":{"framework_info":{"user":"u"}}}"#),
            "framework_info.name"
        );
    }

    #[test]
    fn any_name_becomes_a_label() {
        for (given, want) in [
            ("Marathon", "marathon-mesos"),
            ("日本", "framework"),
            ("", "framework"),
            ("a.b_c d", "a-b-c-d"),
        ] {
            assert_eq!(dns_name(given), want, "{given}");
        }
    }
}
