//! The Huffman code of RFC 7541, appendix B.

/// Bits of each symbol's code. The code is canonical (codes of one length are consecutive, by symbol), so these say all; the last is EOS.
#[rustfmt::skip]
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5,
    6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5,
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23,
    23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20,
    22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22,
    22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26,
    27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25,
    25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];

const LONGEST: usize = 30;
const EOS: u16 = 256;

/// Symbols by code, and where each length's codes begin.
struct Code {
    symbols: [u16; 257],
    /// The first code of a length, and its symbol's place.
    first: [(u32, u16); LONGEST + 1],
    count: [u16; LONGEST + 1],
}

static CODE: Code = code();

const fn code() -> Code {
    let mut out = Code {
        symbols: [0; 257],
        first: [(0, 0); LONGEST + 1],
        count: [0; LONGEST + 1],
    };
    let (mut bits, mut next, mut place) = (1, 0_u32, 0_u16);
    while bits <= LONGEST {
        next <<= 1;
        out.first[bits] = (next, place);
        let mut symbol = 0_u16;
        while symbol < 257 {
            if LENGTHS[symbol as usize] as usize == bits {
                out.symbols[place as usize] = symbol;
                place += 1;
                next += 1;
                out.count[bits] += 1;
            }
            symbol += 1;
        }
        bits += 1;
    }
    out
}

/// Decodes a string; of the text no more than `keep` bytes are kept, and all are counted. `None`: it is no such code.
pub(super) fn decode(bytes: &[u8], keep: usize) -> Option<(Vec<u8>, usize)> {
    let (mut out, mut total) = (Vec::new(), 0);
    let (mut so_far, mut n_bits) = (0_u32, 0_usize);
    for byte in bytes {
        for bit in (0..8).rev() {
            so_far = so_far << 1 | u32::from(byte >> bit & 1);
            n_bits += 1;
            let (first, place) = *CODE.first.get(n_bits)?;
            let of_length = CODE.count.get(n_bits).copied().unwrap_or(0);
            // Codes of one length are consecutive, and shorter than what longer ones begin with.
            if let Some(nth) = so_far.checked_sub(first)
                && nth < u32::from(of_length)
            {
                let at = usize::from(place) + nth as usize;
                let symbol = *CODE.symbols.get(at)?;
                if symbol == EOS {
                    return None;
                }
                if out.len() < keep {
                    out.push(u8::try_from(symbol).ok()?);
                }
                total += 1;
                (so_far, n_bits) = (0, 0);
            }
        }
    }
    // The rest is the beginning of EOS: ones, fewer than eight.
    let is_padding = n_bits < 8 && so_far == (1 << n_bits) - 1;
    is_padding.then_some((out, total))
}

/// The other way round, for tests.
#[cfg(test)]
pub(super) fn encode(bytes: &[u8]) -> Vec<u8> {
    let (mut out, mut acc, mut n) = (Vec::new(), 0_u64, 0);
    for b in bytes {
        let bits = LENGTHS[usize::from(*b)];
        let place = CODE.symbols.iter().position(|s| *s == u16::from(*b));
        let (first, at) = CODE.first[usize::from(bits)];
        let code = u64::from(first) + place.unwrap() as u64 - u64::from(at);
        acc = acc << bits | code;
        n += u32::from(bits);
        while n >= 8 {
            n -= 8;
            out.push((acc >> n & 0xff) as u8);
        }
    }
    if n > 0 {
        out.push((acc << (8 - n) & 0xff) as u8 | ((1 << (8 - n)) - 1));
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn as_the_rfc_has_it() {
        // Appendix C.4.1, C.6.1.
        let host = [
            0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff,
        ];
        let text = b"www.example.com".to_vec();
        assert_eq!(decode(&host, 99), Some((text, 15)));
        assert_eq!(decode(&[0x64, 0x02], 99), Some((b"302".to_vec(), 3)));
        assert_eq!(decode(&host, 3), Some((b"www".to_vec(), 15)));
        // EOS itself, padding of eight bits, padding of zeros.
        assert_eq!(decode(&[0xff, 0xff, 0xff, 0xff], 9), None);
        assert_eq!(decode(&[0x64, 0x02, 0xff], 9), None);
        assert_eq!(decode(&[0x1c << 2], 9), None);
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(text: Vec<u8>) {
            let n = text.len();
            prop_assert_eq!(decode(&encode(&text), n), Some((text, n)));
        }

        #[test]
        fn any_bytes_are_survived(bytes: Vec<u8>) {
            if let Some((text, n)) = decode(&bytes, 10) {
                prop_assert!(text.len() <= 10 && text.len() <= n && n <= bytes.len() * 8 / 5);
            }
        }
    }
}
