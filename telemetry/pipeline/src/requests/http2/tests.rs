use super::*;

const ASK: &[u8] = b"\0\0\x03\x01\x05\0\0\0\x01\x82\x86\x84";

fn segment(sequence: u32, bytes: &[u8]) -> Segment<'_> {
    Segment {
        at: 1,
        sequence,
        length: distance(bytes.len()),
        thread: None,
        bytes,
        is_fresh: true,
    }
}

fn n_heads(said: &[Said]) -> usize {
    said.iter()
        .filter(|s| matches!(s, Said::Head { .. }))
        .count()
}

#[test]
fn what_comes_again_is_not_decoded_twice_and_what_is_late_is_noticed() {
    let mut reader = Reader::new(true);
    let mut said = Vec::new();
    reader.push(segment(0, ASK), &mut said);
    reader.push(segment(0, ASK), &mut said);
    assert_eq!((n_heads(&said), reader.trouble()), (1, Trouble::default()));
    // Behind a gap, of which nobody knows whether it matters; then what was in it.
    reader.push(segment(100, ASK), &mut said);
    assert_eq!((n_heads(&said), reader.is_whole()), (2, true));
    reader.push(segment(50, ASK), &mut said);
    assert_eq!((n_heads(&said), reader.is_whole()), (2, false));
    assert_eq!(reader.trouble().missed, 1);
}

#[test]
fn a_frame_that_does_not_go_on_is_lost() {
    let mut reader = Reader::new(true);
    let mut said = Vec::new();
    reader.push(segment(0, &ASK[..10]), &mut said);
    reader.push(segment(50, ASK), &mut said);
    assert_eq!((n_heads(&said), reader.is_whole()), (1, false));
}

#[test]
fn padding_and_priority_are_no_fields() {
    let bytes = b"\0\0\x0b\x01\x2d\0\0\0\x01\x02\0\0\0\0\xff\x82\x86\x84\0\0";
    let mut said = Vec::new();
    Reader::new(true).push(segment(0, bytes), &mut said);
    let [
        Said::Head {
            stream: 1,
            head,
            is_end: true,
        },
    ] = said.as_slice()
    else {
        panic!("{said:?}")
    };
    let line = Line::Request {
        method: Some("GET".to_owned()),
        path: Some("/".to_owned()),
        minor: None,
    };
    assert_eq!((&head.line, head.is_cut), (&line, false));
    // More padding than there is.
    let mut reader = Reader::new(true);
    reader.push(
        segment(0, b"\0\0\x02\x01\x0c\0\0\0\x01\x09\x82"),
        &mut Vec::new(),
    );
    assert_eq!(reader.trouble().bad_blocks, 1);
}

#[test]
fn blocks_are_bounded() {
    let mut reader = Reader::new(true);
    let mut said = Vec::new();
    reader.push(segment(0, b"\xff\xff\xff\x01\x04\0\0\0\x01"), &mut said);
    assert_eq!(reader.trouble().bad_blocks, 1);
    let mut at = 100;
    let frame = [&b"\0\x10\0\x09\0\0\0\0\x01"[..], &[0; 4096]].concat();
    reader.push(segment(at, b"\0\0\0\x01\0\0\0\0\x01"), &mut said);
    at += 9;
    for _ in 0..20 {
        reader.push(segment(at, &frame), &mut said);
        at += distance(frame.len());
        assert!(reader.bytes() <= 3 * MAX_HEAD);
    }
    assert_eq!(n_heads(&said), 0);
    assert!(reader.trouble().bad_blocks >= 1);
}
