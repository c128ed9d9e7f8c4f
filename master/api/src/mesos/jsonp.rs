//! `?jsonp=callback`: JSON as a call of a function, which pages of other origins can load (libprocess, `http::OK`).

/// Longest name of a function.
const MAX_NAME: usize = 128;
/// What such an answer is.
pub const JAVASCRIPT: &str = "text/javascript";

/// The function that is called with the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Callback(String);

/// No name of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("jsonp: must be the name of a function of at most {MAX_NAME} letters, digits, _, $ and .")]
pub struct NoCallback;

impl Callback {
    /// Of a name such as `app.show_1`. Mesos writes back whatever it is given, and with that scripts of others; here it
    /// must be a name.
    pub fn new(name: &str) -> Result<Self, NoCallback> {
        let letter = |b: u8| b.is_ascii_alphabetic() || b == b'_' || b == b'$';
        let part = |p: &str| {
            let mut bytes = p.bytes();
            bytes.next().is_some_and(letter) && bytes.all(|b| letter(b) || b.is_ascii_digit())
        };
        if name.len() <= MAX_NAME && name.split('.').all(part) {
            Ok(Self(name.to_owned()))
        } else {
            Err(NoCallback)
        }
    }

    /// What stands before the JSON and behind it.
    pub fn around(&self) -> (String, &'static str) {
        (format!("{}(", self.0), ");")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_are_called() {
        for fine in ["cb", "angular.callbacks._0", "$", "_a1"] {
            let (before, behind) = Callback::new(fine).unwrap().around();
            assert_eq!(format!("{before}1{behind}"), format!("{fine}(1);"));
        }
        let long = "a".repeat(MAX_NAME + 1);
        for bad in [
            "",
            "1a",
            "a.",
            ".a",
            "a()",
            "alert(1)//",
            "a b",
            "a[0]",
            "ä",
            &long,
        ] {
            assert_eq!(Callback::new(bad), Err(NoCallback), "{bad}");
        }
    }
}
