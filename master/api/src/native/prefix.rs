//! Ids by their beginning, as people type them.

/// Ids that are told when a beginning fits several.
const MAX_TOLD: usize = 5;

/// Why a beginning names nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    /// No id begins so.
    #[error("no task's id begins with {0:?}")]
    Nothing(String),
    /// Several do.
    #[error("{given:?} is the beginning of {n} ids: {}", told.join(", "))]
    Several {
        /// What was given.
        given: String,
        /// How many ids begin so.
        n: usize,
        /// Some of them, in order; the last is `...` where there are more.
        told: Vec<String>,
    },
}

/// The id that `text` is, or the only one that begins with it.
pub fn by_prefix<'a>(
    ids: impl IntoIterator<Item = &'a str>,
    text: &str,
) -> Result<&'a str, PrefixError> {
    let mut found: Vec<&str> = Vec::new();
    for id in ids {
        if id == text {
            return Ok(id);
        }
        if !text.is_empty() && id.starts_with(text) {
            found.push(id);
        }
    }
    found.sort_unstable();
    found.dedup();
    match found.as_slice() {
        [] => Err(PrefixError::Nothing(text.chars().take(100).collect())),
        [one] => Ok(one),
        many => {
            let mut told: Vec<String> = many
                .iter()
                .take(MAX_TOLD)
                .map(ToString::to_string)
                .collect();
            if many.len() > MAX_TOLD {
                told.push("...".to_owned());
            }
            Err(PrefixError::Several {
                given: text.to_owned(),
                n: many.len(),
                told,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beginnings_that_one_id_has_are_enough() {
        let ids = ["web.b", "web.a", "web.ab", "db.1"];
        let find = |text| by_prefix(ids, text);
        assert_eq!(find("d"), Ok("db.1"));
        assert_eq!(
            find("web.a"),
            Ok("web.a"),
            "exact, though another begins so"
        );
        assert_eq!(find("web.ab"), Ok("web.ab"));
        assert_eq!(find("x"), Err(PrefixError::Nothing("x".to_owned())));
        assert!(matches!(find(""), Err(PrefixError::Nothing(_))));
        assert_eq!(
            find("web").unwrap_err().to_string(),
            "\"web\" is the beginning of 3 ids: web.a, web.ab, web.b"
        );
        let many: Vec<String> = (0..9).map(|n| format!("t{n}")).collect();
        let told = by_prefix(many.iter().map(String::as_str), "t").unwrap_err();
        assert!(told.to_string().ends_with("9 ids: t0, t1, t2, t3, t4, ..."));
    }
}
