//! Label selectors: `a`, `a==b`, `a!=b`, `a in (x, y)`, `a notin (x)`, joined by commas.

use std::collections::BTreeMap;

use waggle_api::error::{ApiError, ErrorCode};

/// Every term must match.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Selector(Vec<Term>);

#[derive(Debug, PartialEq, Eq)]
enum Term {
    Exists(String),
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
}

impl Selector {
    pub(super) fn parse(text: &str) -> Result<Self, ApiError> {
        let terms = split(text).into_iter().map(|t| {
            term(t.trim()).ok_or_else(|| {
                let rule = "must be terms like a, a==b, a!=b, a in (x,y) or a notin (x,y)";
                let message = format!("label: {rule} joined by commas, is {text:?}");
                ApiError::new(ErrorCode::BadRequest, message)
            })
        });
        Ok(Self(terms.collect::<Result<_, _>>()?))
    }

    pub(super) fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|t| match t {
            Term::Exists(k) => labels.contains_key(k),
            Term::In(k, values) => labels.get(k).is_some_and(|v| values.contains(v)),
            Term::NotIn(k, values) => labels.get(k).is_none_or(|v| !values.contains(v)),
        })
    }
}

/// At commas outside of parentheses.
fn split(text: &str) -> Vec<&str> {
    let mut inside = false;
    text.split(move |c| {
        inside = match c {
            '(' => true,
            ')' => false,
            _ => inside,
        };
        c == ',' && !inside
    })
    .collect()
}

fn term(text: &str) -> Option<Term> {
    let word = |s: &str| {
        let s = s.trim();
        let plain = |c: char| !c.is_whitespace() && !"()=!,".contains(c);
        (!s.is_empty() && s.chars().all(plain)).then(|| s.to_owned())
    };
    if let Some((k, v)) = text.split_once("!=") {
        return Some(Term::NotIn(word(k)?, vec![word(v)?]));
    }
    if let Some((k, v)) = text.split_once("==") {
        return Some(Term::In(word(k)?, vec![word(v)?]));
    }
    let Some((head, list)) = text.split_once('(') else {
        return word(text).map(Term::Exists);
    };
    let values = list.trim().strip_suffix(')')?.split(',');
    let values = values.map(word).collect::<Option<Vec<_>>>()?;
    let mut head = head.split_whitespace();
    let (key, op) = (word(head.next()?)?, head.next()?);
    match (op, head.next()) {
        ("in", None) => Some(Term::In(key, values)),
        ("notin", None) => Some(Term::NotIn(key, values)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn selectors_select() {
        let labels: BTreeMap<String, String> = [("team", "web"), ("env", "prod")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into();
        for (text, want) in [
            ("team", true),
            ("owner", false),
            ("team==web", true),
            ("team == db", false),
            ("team!=db", true),
            ("owner!=x", true),
            ("team in (db, web)", true),
            ("team notin (db, web)", false),
            ("team==web,env in (dev,prod)", true),
            ("team==web,owner", false),
        ] {
            let s = Selector::parse(text).unwrap();
            assert_eq!(s.matches(&labels), want, "{text}");
        }
        for bad in ["", "a==", "a b", "a in x", "a in (x", "a like (x)", ","] {
            assert!(Selector::parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_survived(s in "[a-c ()=!,in]{0,12}") {
            let _ = Selector::parse(&s);
        }
    }
}
