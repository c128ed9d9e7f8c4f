//! A node's public key for WireGuard.

use std::{fmt, str::FromStr};

use crate::FieldError;

/// Bytes of a key (Curve25519).
pub const WIREGUARD_KEY_LEN: usize = 32;
const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// A public key: 32 bytes, written as wg(8) does, in base64.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WireguardKey([u8; WIREGUARD_KEY_LEN]);

impl WireguardKey {
    /// `None` for 32 zeros, which nobody can have as a key.
    pub fn new(bytes: [u8; WIREGUARD_KEY_LEN]) -> Option<Self> {
        (bytes != [0; WIREGUARD_KEY_LEN]).then_some(Self(bytes))
    }

    /// Its bytes.
    pub const fn bytes(&self) -> &[u8; WIREGUARD_KEY_LEN] {
        &self.0
    }
}

impl fmt::Display for WireguardKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for three in self.0.chunks(3) {
            let byte = |i: usize| u32::from(three.get(i).copied().unwrap_or(0));
            let word = byte(0) << 16 | byte(1) << 8 | byte(2);
            for i in 0..4 {
                let digit = if i <= three.len() {
                    DIGITS[(word >> (18 - 6 * i) & 63) as usize]
                } else {
                    b'='
                };
                write!(f, "{}", char::from(digit))?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for WireguardKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WireguardKey({self})")
    }
}

impl FromStr for WireguardKey {
    type Err = FieldError;

    fn from_str(text: &str) -> Result<Self, FieldError> {
        let bad = || {
            FieldError::new(
                "wireguard",
                "must be a public key of WireGuard: 44 characters of base64, not all zero",
            )
        };
        let digits = text
            .strip_suffix('=')
            .filter(|digits| digits.len() == 43)
            .ok_or_else(bad)?;
        let mut bits = 0_u32;
        let mut n_bits = 0;
        let mut bytes = Vec::with_capacity(WIREGUARD_KEY_LEN);
        for digit in digits.bytes() {
            let value = DIGITS.iter().position(|d| *d == digit).ok_or_else(bad)?;
            bits = bits << 6 | u32::try_from(value).map_err(|_| bad())?;
            n_bits += 6;
            if n_bits >= 8 {
                n_bits -= 8;
                bytes.push((bits >> n_bits & 0xff) as u8);
            }
        }
        // Bits beyond the last byte: another text for the same key.
        if bits & ((1 << n_bits) - 1) != 0 {
            return Err(bad());
        }
        let bytes = bytes.try_into().map_err(|_| bad())?;
        Self::new(bytes).ok_or_else(bad)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn keys_are_written_as_wg_does() {
        // RFC 7748 section 6.1: Alice's public key.
        let hex = "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a";
        let mut bytes = [0; 32];
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap();
        }
        let key = WireguardKey::new(bytes).unwrap();
        let text = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";
        assert_eq!(key.to_string(), text);
        assert_eq!(text.parse::<WireguardKey>().unwrap(), key);
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let zero = format!("{}=", "A".repeat(43));
        let tail = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmp=";
        for bad in ["", "hSDw", &"A".repeat(44), &zero, tail, &"!".repeat(44)] {
            let error = bad.parse::<WireguardKey>().unwrap_err();
            assert_eq!(error.field, "wireguard", "{bad}");
        }
        assert_eq!(WireguardKey::new([0; 32]), None);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(bytes in any::<[u8; 32]>()) {
            if let Some(key) = WireguardKey::new(bytes) {
                prop_assert_eq!(key.to_string().parse::<WireguardKey>().unwrap(), key);
            }
        }
    }
}
