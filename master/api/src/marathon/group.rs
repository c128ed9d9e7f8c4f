//! Groups as clients write them, and as they are shown.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use waggle_types::{GroupId, GroupUpdate, ServiceId, ServiceVersion, UnixMillis};

use super::{
    parse::{ParseMode, app_from_value},
    pod::pod_from_value,
    types::{App, DeploymentStep},
    version::parse_version,
};
use crate::{
    error::{ApiError, ErrorDetail},
    read::{Errors, Obj, kind},
};

/// Most dependencies of one group.
const MAX_DEPENDENCIES: usize = 256;
/// Largest `scaleBy`.
const MAX_SCALE: f64 = 1000.0;

/// What a body asks of a group.
#[derive(Debug, Clone, PartialEq)]
pub enum GroupBody {
    /// To be so.
    Update(GroupUpdate),
    /// Every app with its instances times this, in millionths.
    ScaleBy {
        /// The group.
        id: GroupId,
        /// The factor.
        millionths: u64,
    },
    /// To be as it was.
    Version {
        /// The group.
        id: GroupId,
        /// Which version.
        version: ServiceVersion,
    },
}

impl GroupBody {
    /// The group that it is about.
    pub fn id(&self) -> &GroupId {
        match self {
            Self::Update(update) => &update.id,
            Self::ScaleBy { id, .. } | Self::Version { id, .. } => id,
        }
    }
}

/// Where a body comes from.
#[derive(Debug, Clone, Copy)]
pub enum GroupMode<'a> {
    /// POST below a group: the body names the group, which may be relative.
    Below(&'a GroupId),
    /// PUT to a group: the body need not name it.
    Of(&'a GroupId),
}

/// A group as `GET` shows it; no `enforceRole`, which marathon-python refuses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// Its id.
    pub id: String,
    /// Apps directly in it.
    pub apps: Vec<App>,
    /// Groups directly in it.
    pub groups: Vec<Group>,
    /// Pods directly in it.
    pub pods: Vec<Value>,
    /// What its apps depend on.
    pub dependencies: Vec<String>,
    /// When it became what it is.
    pub version: String,
}

/// The answer to a dry run: `{"steps": [..]}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlanOnly {
    /// What would be done.
    pub steps: Vec<DeploymentStep>,
}

/// A group as a JSON value. Apps and groups in it may have relative ids; an absolute one must be directly below the group
/// that it is written in. What breaks a rule is named by its place: `groups[0].apps[1].cpus`.
pub fn group_from_value(
    value: &Value,
    mode: GroupMode<'_>,
    now: UnixMillis,
) -> Result<GroupBody, ApiError> {
    let Value::Object(map) = value else {
        let rule = format!("must be an object, is {}", kind(value));
        return Err(ApiError::invalid("group", rule));
    };
    let mut reader = Reader {
        now,
        errors: Vec::new(),
    };
    let body = reader.body(map, mode);
    match body {
        Some(body) if reader.errors.is_empty() => Ok(body),
        _ => Err(ApiError::all_of(reader.errors)),
    }
}

/// A path that may be relative to another one: `../db` is a neighbour of the group or app that says it.
pub(super) fn resolve(text: &str, base: &str) -> Result<String, String> {
    let base = if text.starts_with('/') { "" } else { base };
    let mut path: Vec<&str> = base.split('/').filter(|l| !l.is_empty()).collect();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                path.pop()
                    .ok_or_else(|| format!("must not lead above the root, is {text:?}"))?;
            }
            part => path.push(part),
        }
    }
    Ok(format!("/{}", path.join("/")))
}

struct Reader {
    now: UnixMillis,
    errors: Vec<ErrorDetail>,
}

impl Reader {
    fn add(&mut self, field: String, rule: impl Into<String>) {
        let one = ApiError::invalid(field, rule);
        self.errors.extend(one.details);
    }

    fn take(&mut self, errors: &Errors) {
        if !errors.is_empty() {
            let all = ApiError::all_invalid(errors.as_slice());
            self.errors.extend(all.details);
        }
    }

    fn body(&mut self, map: &Map<String, Value>, mode: GroupMode<'_>) -> Option<GroupBody> {
        let mut errors = Errors::default();
        let obj = Obj::root(map);
        let named = obj.string("id", &mut errors);
        let scale = obj.number("scaleBy", MAX_SCALE, &mut errors);
        let version = obj.string("version", &mut errors);
        self.take(&errors);
        let id = match (mode, named) {
            (GroupMode::Of(id), None) => id.clone(),
            (GroupMode::Of(id), Some(named)) => {
                let base = id.parent().unwrap_or_else(GroupId::root);
                let said = self.group_id("id", &named, base.as_str())?;
                let whole = self.group_id("id", &named, "/")?;
                // The root takes what is below it, as Marathon does.
                match [said, whole].into_iter().find(|s| s == id) {
                    Some(id) => id,
                    None if id.is_root() => self.group_id("id", &named, "/")?,
                    None => {
                        let rule = format!("must be that of the path, {id}, is {named:?}");
                        self.add("id".to_owned(), rule);
                        return None;
                    }
                }
            }
            (GroupMode::Below(base), Some(named)) => self.group_id("id", &named, base.as_str())?,
            (GroupMode::Below(_), None) => {
                self.add("id".to_owned(), "is required");
                return None;
            }
        };
        let content = ["apps", "groups", "pods", "dependencies"];
        let says = content.iter().any(|key| obj.get(key).is_some());
        if let Some(scale) = scale {
            if says {
                self.add("scaleBy".to_owned(), "must stand alone");
                return None;
            }
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "between 0 and a thousand millions"
            )]
            let millionths = (scale * 1e6).round() as u64;
            return Some(GroupBody::ScaleBy { id, millionths });
        }
        // Beside anything else it is what a client was shown.
        if let Some(text) = version.filter(|_| !says) {
            let Some(version) = parse_version(&text) else {
                let rule =
                    format!("must be a timestamp such as 2026-11-23T03:47:00.123Z, is {text:?}");
                self.add("version".to_owned(), rule);
                return None;
            };
            return Some(GroupBody::Version { id, version });
        }
        self.update(map, "", id).map(GroupBody::Update)
    }

    fn update(&mut self, map: &Map<String, Value>, path: &str, id: GroupId) -> Option<GroupUpdate> {
        let n_before = self.errors.len();
        let at = |key: &str| format!("{path}{key}");
        let mut list = |key: &str| match map.get(key) {
            None | Some(Value::Null) => None,
            Some(Value::Array(all)) => Some(all),
            Some(other) => {
                let rule = format!("must be a list, is {}", kind(other));
                self.add(at(key), rule);
                None
            }
        };
        let (apps, groups) = (list("apps"), list("groups"));
        let (pods, dependencies) = (list("pods"), list("dependencies"));
        let mut seen = BTreeSet::new();
        let services = apps.map(|apps| {
            let each = apps.iter().enumerate();
            each.filter_map(|(i, app)| {
                let at = format!("{path}apps[{i}]");
                let spec = self.app(app, &at, &id, false)?;
                if !seen.insert(spec.id.to_string()) {
                    self.add(format!("{at}.id"), format!("{} is there twice", spec.id));
                }
                Some(spec)
            })
            .collect()
        });
        let each = pods.into_iter().flatten().enumerate();
        let pods = each.filter_map(|(i, pod)| {
            let at = format!("{path}pods[{i}]");
            let spec = self.app(pod, &at, &id, true)?;
            if !seen.insert(spec.id.to_string()) {
                self.add(format!("{at}.id"), format!("{} is there twice", spec.id));
            }
            Some(spec)
        });
        let pods = pods.collect();
        let groups = groups.map(|groups| {
            let each = groups.iter().enumerate();
            each.filter_map(|(i, group)| {
                let at = format!("{path}groups[{i}]");
                let update = self.child(group, &at, &id)?;
                if !seen.insert(update.id.to_string()) {
                    self.add(format!("{at}.id"), format!("{} is there twice", update.id));
                }
                Some(update)
            })
            .collect()
        });
        let dependencies = dependencies.map(|all| self.dependencies(all, path, &id));
        (self.errors.len() == n_before).then_some(GroupUpdate {
            id,
            services,
            pods,
            groups,
            dependencies,
        })
    }

    /// An app of a group, or a pod.
    fn app(
        &mut self,
        app: &Value,
        at: &str,
        group: &GroupId,
        is_pod: bool,
    ) -> Option<waggle_types::ServiceSpec> {
        let Value::Object(map) = app else {
            let rule = format!("must be an object, is {}", kind(app));
            self.add(at.to_owned(), rule);
            return None;
        };
        let mut map = map.clone();
        if let Some(Value::String(id)) = map.get("id") {
            let whole = match resolve(id, group.as_str()) {
                Ok(whole) => whole,
                Err(rule) => {
                    self.add(format!("{at}.id"), rule);
                    return None;
                }
            };
            let direct = ServiceId::new(&whole).map(|s| GroupId::of(&s));
            if direct.is_ok_and(|g| g != *group) {
                let rule = format!("must be directly below the group {group}, is {id:?}");
                self.add(format!("{at}.id"), rule);
                return None;
            }
            map.insert("id".to_owned(), Value::String(whole));
        }
        let whole = Value::Object(map);
        let read = if is_pod {
            pod_from_value(&whole, None, self.now)
        } else {
            app_from_value(&whole, ParseMode::Create, self.now)
        };
        match read {
            Ok(spec) => Some(spec),
            Err(e) => {
                self.errors.extend(e.within(&format!("{at}.")).details);
                None
            }
        }
    }

    fn child(&mut self, group: &Value, at: &str, parent: &GroupId) -> Option<GroupUpdate> {
        let Value::Object(map) = group else {
            let rule = format!("must be an object, is {}", kind(group));
            self.add(at.to_owned(), rule);
            return None;
        };
        for key in ["scaleBy"] {
            if map.get(key).is_some_and(|v| !v.is_null()) {
                self.add(format!("{at}.{key}"), "is only for the outermost group");
            }
        }
        let Some(Value::String(named)) = map.get("id") else {
            self.add(format!("{at}.id"), "is required");
            return None;
        };
        let id = self.group_id(&format!("{at}.id"), named, parent.as_str())?;
        if id.parent().as_ref() != Some(parent) {
            let rule = format!("must be directly below the group {parent}, is {named:?}");
            self.add(format!("{at}.id"), rule);
            return None;
        }
        self.update(map, &format!("{at}."), id)
    }

    fn dependencies(&mut self, all: &[Value], path: &str, id: &GroupId) -> BTreeSet<ServiceId> {
        let field = format!("{path}dependencies");
        if all.len() > MAX_DEPENDENCIES {
            let rule = format!("must be at most {MAX_DEPENDENCIES}, is {}", all.len());
            self.add(field, rule);
            return BTreeSet::new();
        }
        let mut out = BTreeSet::new();
        for (i, value) in all.iter().enumerate() {
            let at = format!("{field}[{i}]");
            let Value::String(text) = value else {
                let rule = format!("must be a string, is {}", kind(value));
                self.add(at, rule);
                continue;
            };
            let whole = resolve(text, id.as_str());
            let whole = whole.and_then(|w| ServiceId::new(&w).map_err(|e| e.to_string()));
            match whole {
                Ok(on) if on.as_str() == id.as_str() || related(id, on.as_str()) => {
                    let rule = format!(
                        "must not be the group itself, one that it is in or something in it, is {text:?}"
                    );
                    self.add(at, rule);
                }
                Ok(on) => {
                    out.insert(on);
                }
                Err(rule) => self.add(at, rule),
            }
        }
        out
    }

    fn group_id(&mut self, field: &str, text: &str, base: &str) -> Option<GroupId> {
        let whole = resolve(text, base);
        match whole.and_then(|w| GroupId::new(&w).map_err(|e| e.to_string())) {
            Ok(id) => Some(id),
            Err(rule) => {
                self.add(field.to_owned(), rule);
                None
            }
        }
    }
}

/// Whether a path is below the group, or the group below it.
fn related(id: &GroupId, path: &str) -> bool {
    id.holds(path) || GroupId::new(path).is_ok_and(|above| above.holds(id.as_str()))
}
