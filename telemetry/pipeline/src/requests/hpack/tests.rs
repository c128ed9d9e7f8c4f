use proptest::{collection::vec, prelude::*};

use super::*;

fn field(name: Name, value: &str) -> Field {
    let value = (name != Name::Other).then(|| value.to_owned());
    Field {
        name: Some(name),
        value,
    }
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    let pairs = digits.chunks(2).map(|p| std::str::from_utf8(p).unwrap());
    pairs.map(|p| u8::from_str_radix(p, 16).unwrap()).collect()
}

/// RFC 7541, C.4: three requests on one connection, with Huffman codes.
const REQUESTS: [&str; 3] = [
    "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
    "8286 84be 5886 a8eb 1064 9cbf",
    "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
];

fn request(n: usize) -> Vec<Field> {
    let (scheme, path) = [("http", "/"), ("http", "/"), ("https", "/index.html")][n];
    let mut out = vec![
        field(Name::Method, "GET"),
        field(Name::Scheme, scheme),
        field(Name::Path, path),
        field(Name::Authority, "www.example.com"),
    ];
    // cache-control, custom-key
    out.extend((n > 0).then(|| field(Name::Other, "")));
    out
}

#[test]
fn requests_as_the_rfc_has_them() {
    let mut decoder = Decoder::new();
    for (n, block) in REQUESTS.iter().enumerate() {
        assert_eq!(decoder.decode(&hex(block)), Ok(request(n)));
    }
    assert!(decoder.is_whole());
}

/// RFC 7541, C.6: responses whose table of 256 bytes evicts.
#[test]
fn responses_with_evictions_as_the_rfc_has_them() {
    let mut decoder = Decoder::new();
    decoder.table.resize(256);
    let blocks = [
        "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6
         2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
        "4883 640e ffc1 c0bf",
        "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab
         77ad 94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f
         9587 3160 65c0 03ed 4ee5 b106 3d50 07",
    ];
    for (block, status) in blocks.iter().zip(["302", "307", "200"]) {
        let fields = decoder.decode(&hex(block)).unwrap();
        assert_eq!(fields[0], field(Name::Status, status));
        assert!(fields[1..].iter().all(|f| f.name == Some(Name::Other)));
    }
    assert_eq!(decoder.table.size(), 215);
}

#[test]
fn who_comes_late_knows_what_is_new_and_that_the_rest_is_unknown() {
    let mut late = Decoder::late();
    let unknown = Field {
        name: None,
        value: None,
    };
    // The second block: authority is in a table that nobody saw.
    let mut want = request(1);
    want[3] = unknown;
    assert_eq!(late.decode(&hex(REQUESTS[1])), Ok(want));
    // In the third the table's newest, cache-control, is known and is not authority, which is one further.
    let mut want = request(2);
    want[3] = Field {
        name: None,
        value: None,
    };
    assert_eq!(late.decode(&hex(REQUESTS[2])), Ok(want));
    assert!(!late.is_whole());
    // An empty table is known to everybody.
    assert_eq!(late.decode(&[0x20]), Ok(vec![]));
    assert!(late.is_whole());
}

#[test]
fn what_was_missed_is_not_guessed() {
    let mut decoder = Decoder::new();
    decoder.decode(&hex(REQUESTS[0])).unwrap();
    decoder.lost();
    let fields = decoder.decode(&hex(REQUESTS[2])).unwrap();
    assert_eq!(fields[3].value, None);
    assert_eq!(fields[2], field(Name::Path, "/index.html"));
}

#[test]
fn bombs_are_bounded_and_hold_no_secrets() {
    let mut decoder = Decoder::new();
    // A size that no table has, then many large values.
    let mut block = vec![0x3f, 0xe1, 0xff, 0xff, 0x03];
    for _ in 0..100 {
        block.extend([0x44, 0x7f, 0x81, 0x7d]);
        block.extend(vec![b'/'; 127 + 1 + (0x7d << 7)]);
    }
    decoder.decode(&block).unwrap();
    assert!(decoder.bytes() <= 2 * MAX_TABLE && !decoder.is_whole());
    // References to one large entry.
    let many = vec![0xbe; MAX_FIELDS + 1];
    assert_eq!(decoder.decode(&many), Err(BadBlock));
    assert_eq!(decoder.bytes(), 0);
    let cookie = [0x60, 0x03, b'a', b'=', b'1'];
    assert_eq!(decoder.decode(&cookie).unwrap()[0].value, None);
    assert!(!format!("{decoder:?}").contains("a=1"));
    for bad in [
        &[0x80][..],
        &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        &[0x40, 5],
    ] {
        assert_eq!(Decoder::new().decode(bad), Err(BadBlock), "{bad:?}");
    }
    assert_eq!(Decoder::new().decode(&[0xbe]), Err(BadBlock));
}

/// An encoder that knows its own table, in plain words: what it refers to is what it said.
#[derive(Debug, Clone)]
enum Step {
    /// Says a path, and has it remembered.
    Say(String),
    /// Refers to one that is in the table, counted from the newest.
    Refer(usize),
    /// Changes the size.
    Resize(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        "[ -~]{0,80}".prop_map(Step::Say),
        (0_usize..64).prop_map(Step::Refer),
        (0_usize..600).prop_map(Step::Resize),
    ]
}

fn byte(n: usize) -> u8 {
    u8::try_from(n).unwrap()
}

fn put_integer(out: &mut Vec<u8>, first: u8, bits: u32, value: usize) {
    let mask = (1 << bits) - 1;
    if value < mask {
        out.push(first | byte(value));
        return;
    }
    out.push(first | byte(mask));
    let mut rest = value - mask;
    while rest >= 0x80 {
        out.push(byte(rest & 0x7f) | 0x80);
        rest >>= 7;
    }
    out.push(byte(rest));
}

proptest! {
    #[test]
    fn any_bytes_are_survived(blocks: Vec<Vec<u8>>, is_late: bool) {
        let mut decoder = if is_late { Decoder::late() } else { Decoder::new() };
        for block in &blocks {
            let _ = decoder.decode(block);
            prop_assert!(decoder.bytes() <= 4 * MAX_TABLE);
        }
    }

    /// Whatever a decoder says is what the encoder meant, also when it came late or missed a block.
    #[test]
    fn known_means_right(steps in vec((step(), prop::bool::weighted(0.1)), 1..80), comes_late in 0_usize..20) {
        let mut table: Vec<String> = Vec::new();
        let mut max = 4096;
        let size = |t: &[String]| t.iter().map(|s| 32 + 5 + s.len()).sum::<usize>();
        let mut decoder = if comes_late == 0 { Decoder::new() } else { Decoder::late() };
        for (n, (step, is_missed)) in steps.into_iter().enumerate() {
            let mut block = Vec::new();
            let mut meant = None;
            match step {
                Step::Say(text) => {
                    put_integer(&mut block, 0x40, 6, 4);
                    let coded = huffman::encode(text.as_bytes());
                    put_integer(&mut block, 0x80, 7, coded.len());
                    block.extend(coded);
                    meant = Some(text.clone());
                    table.insert(0, text);
                }
                Step::Refer(i) => {
                    if let Some(text) = table.get(i) {
                        put_integer(&mut block, 0x80, 7, 62 + i);
                        meant = Some(text.clone());
                    }
                }
                Step::Resize(to) => {
                    put_integer(&mut block, 0x20, 5, to);
                    max = to;
                }
            }
            while size(&table) > max {
                table.pop();
            }
            if n < comes_late {
                continue;
            }
            if is_missed {
                decoder.lost();
                continue;
            }
            let fields = decoder.decode(&block).unwrap();
            prop_assert_eq!(fields.len(), usize::from(meant.is_some()));
            for f in fields {
                prop_assert!(f.value.is_none() || f.value == meant);
                prop_assert!(!decoder.is_whole() || f.value == meant);
            }
        }
    }
}
