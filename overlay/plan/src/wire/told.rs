//! Which addresses an answer tells, and for how long.

use std::net::IpAddr;

use super::{HEADER, name_end, plain_name_end, u16_at, u32_at};

/// More addresses than these of one answer are not looked at.
const MAX: usize = 64;

/// The addresses in an answer's answer section, whoever's they are (a name may be another's alias), with their time to live in
/// seconds. Of bytes that are no answer, as many as can be read.
pub fn told(message: &[u8]) -> Vec<(IpAddr, u32)> {
    let mut found = Vec::new();
    let (Some(questions), Some(answers)) = (u16_at(message, 4), u16_at(message, 6)) else {
        return found;
    };
    if questions != 1 {
        return found;
    }
    let Some(mut at) = plain_name_end(message, HEADER).map(|end| end + 4) else {
        return found;
    };
    for _ in 0..answers {
        let Some(fixed) = name_end(message, at) else {
            break;
        };
        let (Some(rtype), Some(class), Some(ttl), Some(length)) = (
            u16_at(message, fixed),
            u16_at(message, fixed + 2),
            u32_at(message, fixed + 4),
            u16_at(message, fixed + 8),
        ) else {
            break;
        };
        let begin = fixed + 10;
        let Some(data) = message.get(begin..begin + usize::from(length)) else {
            break;
        };
        let ip = match (class, rtype) {
            (1, 1) => <[u8; 4]>::try_from(data).ok().map(IpAddr::from),
            (1, 28) => <[u8; 16]>::try_from(data).ok().map(IpAddr::from),
            _ => None,
        };
        found.extend(ip.map(|ip| (ip, ttl)));
        if found.len() >= MAX {
            break;
        }
        at = begin + data.len();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `api.example.com CNAME a.example.com; a.example.com A, AAAA`, names compressed.
    fn answer() -> Vec<u8> {
        let mut m = vec![0, 7, 0x81, 0x80, 0, 1, 0, 3, 0, 0, 0, 0];
        m.extend(b"\x03api\x07example\x03com\0\0\x01\0\x01");
        m.extend(b"\xc0\x0c\0\x05\0\x01\0\0\0\x3c\0\x04\x01a\xc0\x10");
        m.extend(b"\xc0\x2d\0\x01\0\x01\0\0\0\x1e\0\x04\xcb\0\x71\x05");
        m.extend(b"\xc0\x2d\0\x1c\0\x01\0\0\0\x0a\0\x10");
        m.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]);
        m
    }

    #[test]
    fn addresses_of_an_answer() {
        let all = told(&answer());
        let wanted = [("203.0.113.5", 30), ("2001:db8::9", 10)];
        let wanted = wanted.map(|(ip, ttl)| (ip.parse().unwrap(), ttl));
        assert_eq!(all, wanted);
    }

    #[test]
    fn what_is_cut_off_tells_what_is_there() {
        let whole = answer();
        for end in 0..whole.len() {
            assert!(told(&whole[..end]).len() < 2, "{end}");
        }
        for at in 0..whole.len() {
            let mut broken = whole.clone();
            broken[at] ^= 0xff;
            told(&broken);
        }
    }
}
