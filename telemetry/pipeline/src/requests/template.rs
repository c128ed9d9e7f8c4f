//! Templates guessed from paths: `/cart/17/items` is `/cart/{id}/items`.
//!
//! A guess it is, so it is no `http.route`: the semantic conventions want that from the server's framework only. A segment that looks
//! made by a machine is `{id}`; what looks like a word stays. Words that are ids (names of people) are bounded by number: of what a
//! service shows so many templates are told apart, the rest is `{other}`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Segments of a template.
const MAX_SEGMENTS: usize = 8;
const MAX_WORD: usize = 40;

/// What stands for a template that is one too many.
pub(super) const OTHER: &str = "{other}";

/// Makes a template of a path.
pub(super) fn of(path: &str) -> String {
    let Some(rest) = path.strip_prefix('/') else {
        // `*`, an authority.
        return if path == "*" {
            "*".to_owned()
        } else {
            OTHER.to_owned()
        };
    };
    let mut out = String::with_capacity(path.len());
    for (n, segment) in rest.split('/').enumerate() {
        out.push('/');
        if n >= MAX_SEGMENTS {
            out.push_str("{rest}");
            break;
        }
        if is_word(segment) {
            out.push_str(segment);
        } else {
            out.push_str("{id}");
        }
    }
    out
}

/// Whether a segment is a word of the program's, not a value: by its looks.
fn is_word(segment: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~:".contains(&b);
    if segment.len() > MAX_WORD || !segment.bytes().all(is_plain) {
        return false;
    }
    let parts = || {
        segment
            .split(['-', '_', '.', '~', ':'])
            .filter(|p| !p.is_empty())
    };
    let is_version = |p: &str| {
        let digits = p.strip_prefix('v').unwrap_or_default();
        !digits.is_empty() && digits.len() <= 3 && digits.bytes().all(|b| b.is_ascii_digit())
    };
    parts().all(|p| is_version(p) || is_part_of_word(p))
}

fn is_part_of_word(part: &str) -> bool {
    let n_digits = part.bytes().filter(u8::is_ascii_digit).count();
    let n_upper = part.bytes().filter(u8::is_ascii_uppercase).count();
    let is_hex = part.bytes().all(|b| b.is_ascii_hexdigit());
    // A number; hex digits as in a hash; letters in no order, as in base64.
    let is_number = n_digits == part.len();
    let is_hash = is_hex && part.len() >= 8 || n_digits > 0 && is_hex && part.len() >= 4;
    let is_mixed = n_digits >= 3 || n_digits > 0 && n_upper > 0 && part.len() >= 8;
    !(is_number || is_hash || is_mixed || part.len() > 24)
}

/// The templates that each service has shown.
#[derive(Debug, Default)]
pub(super) struct Templates {
    services: BTreeMap<Arc<str>, BTreeSet<Arc<str>>>,
}

impl Templates {
    /// A path's template, or `None` if it is one too many for that service.
    pub(super) fn of(&mut self, service: &Arc<str>, path: &str, most: usize) -> Option<Arc<str>> {
        self.bounded(service, of(path), most)
    }

    /// The same with what needs no template.
    pub(super) fn bounded(
        &mut self,
        service: &Arc<str>,
        template: String,
        most: usize,
    ) -> Option<Arc<str>> {
        let known = self.services.entry(Arc::clone(service)).or_default();
        if let Some(found) = known.get(template.as_str()) {
            return Some(Arc::clone(found));
        }
        if known.len() >= most {
            return None;
        }
        let template: Arc<str> = template.into();
        known.insert(Arc::clone(&template));
        Some(template)
    }

    pub(super) fn keep(&mut self, is_there: impl Fn(&Arc<str>) -> bool) {
        self.services.retain(|s, _| is_there(s));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn values_go_and_words_stay() {
        for (path, want) in [
            ("/", "/"),
            ("/cart/17/items", "/cart/{id}/items"),
            ("/v2/apps", "/v2/apps"),
            ("/api/v1.2/users/", "/api/{id}/users/"),
            ("/u/3f2504e0-4f89-11d3-9a0c-0305e82c3301", "/u/{id}"),
            ("/blobs/sha256:9f86d081884c7d65", "/blobs/{id}"),
            ("/deadbeef/feed", "/{id}/feed"),
            ("/o/5f2b1c", "/o/{id}"),
            ("/order-10023", "/{id}"),
            ("/oauth2/token", "/oauth2/token"),
            ("/static/app.min.js", "/static/app.min.js"),
            ("/static/app.3f2a9c1b.js", "/static/{id}"),
            ("/t/eyJhbGciOiJIUzI1NiJ9", "/t/{id}"),
            ("/a%20b/x@y.org", "/{id}/{id}"),
            ("/a/b/c/d/e/f/g/h/i/j", "/a/b/c/d/e/f/g/h/{rest}"),
            ("/healthz", "/healthz"),
            ("*", "*"),
            ("example.org:443", "{other}"),
        ] {
            assert_eq!(of(path), want);
        }
    }

    #[test]
    fn a_service_has_so_many() {
        let mut all = Templates::default();
        let shop: Arc<str> = "shop".into();
        let shown: Vec<_> = ["/a", "/b", "/c", "/a"]
            .map(|p| all.of(&shop, p, 2).map(|t| t.to_string()))
            .into();
        let a = Some("/a".to_owned());
        assert_eq!(shown, [a.clone(), Some("/b".to_owned()), None, a]);
        assert!(all.of(&"other".into(), "/c", 2).is_some());
    }

    proptest! {
        #[test]
        fn any_path_has_a_short_one(path: String) {
            let template = of(&path);
            prop_assert!(template.len() <= (MAX_WORD + 1) * MAX_SEGMENTS + 7);
            prop_assert!(!template.contains('?'));
        }
    }
}
