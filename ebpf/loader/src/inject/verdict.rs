//! What the self-test has found, and what follows from it.

use std::fmt;

/// How a call went in the self-test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// As it does without us.
    Right,
    /// Otherwise; how.
    Wrong(String),
    /// This kernel does not have it, with or without us; why.
    Missing(String),
}

impl Finding {
    fn why(&self) -> Option<&str> {
        match self {
            Self::Wrong(how) => Some(how),
            Self::Right | Self::Missing(_) => None,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Right => f.write_str("right"),
            Self::Wrong(how) => write!(f, "wrong: {how}"),
            Self::Missing(why) => write!(f, "not there: {why}"),
        }
    }
}

/// All that the self-test has found, on sockets of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Findings {
    /// A request with a long body arrives with the header, and nothing else is changed.
    pub transfer: Finding,
    /// `ioctl(FIONREAD)` of a member says how much there is to read.
    pub fionread: Finding,
    /// So it does once it is a member no more.
    pub fionread_after: Finding,
    /// An edge-triggered epoll wakes for each thing that a member may do.
    pub epoll: Finding,
    /// So it does once it is a member no more.
    pub epoll_after: Finding,
    /// io_uring's `SEND_ZC` sends.
    pub send_zc: Finding,
}

/// What its owner puts up with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Terms {
    /// That io_uring's `SEND_ZC` is refused (`EOPNOTSUPP`) on connections that get a header. Linux 6.18 does so.
    pub without_send_zc: bool,
}

/// For how long a connection is a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stay {
    /// For all of its requests.
    Whole,
    /// Until its first request has arrived: members are answered wrongly here.
    First,
}

/// Why no header is put in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What went wrong, in one word.
    pub what: &'static str,
    /// How.
    pub how: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.how)
    }
}

impl Findings {
    /// Whether headers are put in here, and for how long a connection is a member.
    ///
    /// # Errors
    /// [`Refusal`] where that would change what a task sees.
    pub fn verdict(&self, terms: Terms) -> Result<Stay, Refusal> {
        let refuse = |what, finding: &Finding| match finding.why() {
            Some(how) => Err(Refusal {
                what,
                how: how.to_owned(),
            }),
            None => Ok(()),
        };
        if let Finding::Missing(why) = &self.transfer {
            return Err(Refusal {
                what: "transfer",
                how: why.clone(),
            });
        }
        refuse("transfer", &self.transfer)?;
        refuse("epoll", &self.epoll)?;
        refuse("epoll", &self.epoll_after)?;
        refuse("fionread", &self.fionread_after)?;
        if !terms.without_send_zc {
            refuse("send_zc", &self.send_zc)?;
        }
        Ok(match self.fionread {
            Finding::Right => Stay::Whole,
            Finding::Wrong(_) | Finding::Missing(_) => Stay::First,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_right() -> Findings {
        Findings {
            transfer: Finding::Right,
            fionread: Finding::Right,
            fionread_after: Finding::Right,
            epoll: Finding::Right,
            epoll_after: Finding::Right,
            send_zc: Finding::Right,
        }
    }

    fn wrong() -> Finding {
        Finding::Wrong("so".to_owned())
    }

    fn what(findings: &Findings, without_send_zc: bool) -> Result<Stay, &'static str> {
        let terms = Terms { without_send_zc };
        findings.verdict(terms).map_err(|refusal| refusal.what)
    }

    #[test]
    fn where_all_is_right_connections_stay() {
        assert_eq!(what(&all_right(), false), Ok(Stay::Whole));
        let old = Findings {
            send_zc: Finding::Missing("no io_uring".to_owned()),
            ..all_right()
        };
        assert_eq!(what(&old, false), Ok(Stay::Whole));
    }

    #[test]
    fn members_that_are_answered_wrongly_leave_after_the_first_request() {
        let found = Findings {
            fionread: wrong(),
            ..all_right()
        };
        assert_eq!(what(&found, false), Ok(Stay::First));
        let found = Findings {
            fionread_after: wrong(),
            ..found
        };
        assert_eq!(what(&found, true), Err("fionread"));
    }

    #[test]
    fn what_a_task_would_see_is_refused() {
        for (want, found) in [
            (
                "transfer",
                Findings {
                    transfer: wrong(),
                    ..all_right()
                },
            ),
            (
                "epoll",
                Findings {
                    epoll: wrong(),
                    ..all_right()
                },
            ),
            (
                "epoll",
                Findings {
                    epoll_after: wrong(),
                    ..all_right()
                },
            ),
        ] {
            assert_eq!(what(&found, true), Err(want));
        }
        let untested = Findings {
            transfer: Finding::Missing("no loopback".to_owned()),
            ..all_right()
        };
        assert_eq!(what(&untested, true), Err("transfer"));
    }

    #[test]
    fn zero_copy_is_given_up_only_by_who_says_so() {
        let found = Findings {
            send_zc: wrong(),
            ..all_right()
        };
        assert_eq!(what(&found, false), Err("send_zc"));
        assert_eq!(what(&found, true), Ok(Stay::Whole));
    }
}
