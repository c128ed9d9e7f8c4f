//! What protobuf takes in memory once it is decoded, counted along its bytes.
//!
//! A message of some megabytes can decode to gigabytes: two bytes say "one more of these", which is some hundred bytes even
//! when it is empty. Whoever decodes what others send counts first.

/// How deep messages may lie in each other; decoders refuse what is deeper.
const MAX_DEPTH: usize = 100;

/// What a message is made of: its size in memory, and which of its fields hold messages.
#[derive(Debug)]
pub struct Shape {
    /// Bytes of the struct, or of a map's entry.
    pub size: usize,
    /// Fields with messages, by number.
    pub fields: &'static [(u32, &'static Shape)],
}

/// The size of a map's entry: trees hold entries in nodes that are half full at least.
pub const fn entry_size<K, V>() -> usize {
    2 * (size_of::<K>() + size_of::<V>())
}

/// What the bytes would take, decoded, up to where they break the format. Stops beyond `max`; what is nested deeper than
/// a decoder follows counts as that much.
pub fn decoded_size(bytes: &[u8], shape: &Shape, max: usize) -> usize {
    size_at(bytes, shape, max, 0)
}

fn size_at(bytes: &[u8], shape: &Shape, max: usize, depth: usize) -> usize {
    if depth > MAX_DEPTH {
        return max.saturating_add(1);
    }
    let mut sum = shape.size;
    let mut at = bytes;
    while sum <= max {
        let Some((field, value)) = next_field(&mut at) else {
            break;
        };
        let nested = shape.fields.iter().find(|(n, _)| *n == field);
        sum = sum.saturating_add(match (value, nested) {
            (Value::Bytes(b), Some((_, nested))) => size_at(b, nested, max - sum, depth + 1),
            (Value::Bytes(b), None) => size_of::<String>() + b.len(),
            (Value::Number, _) => size_of::<u64>(),
        });
    }
    sum
}

enum Value<'a> {
    Number,
    Bytes(&'a [u8]),
}

/// The next field's number and value; `None` at the end or where the format is broken.
fn next_field<'a>(at: &mut &'a [u8]) -> Option<(u32, Value<'a>)> {
    let key = varint(at)?;
    let field = u32::try_from(key >> 3).ok()?;
    let len = match key & 7 {
        0 => {
            varint(at)?;
            return Some((field, Value::Number));
        }
        1 => 8,
        2 => {
            let len = usize::try_from(varint(at)?).ok()?;
            let (value, rest) = at.split_at_checked(len)?;
            *at = rest;
            return Some((field, Value::Bytes(value)));
        }
        // No message that is read here has groups; a decoder skips them without keeping anything.
        3 | 4 => 0,
        5 => 4,
        _ => return None,
    };
    *at = at.get(len..)?;
    Some((field, Value::Number))
}

fn varint(at: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for (i, byte) in at.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            *at = &at[i + 1..];
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    static TREE: Shape = Shape {
        size: 100,
        fields: &[(1, &TREE)],
    };

    #[test]
    fn what_is_empty_counts_and_what_is_deep_ends() {
        assert_eq!(decoded_size(&[10, 0, 10, 0], &TREE, usize::MAX), 300);
        // No more than it takes to see that it is too much.
        let many = [10, 0].repeat(1 << 20);
        let most = 10_000;
        assert!((most..most + 200).contains(&decoded_size(&many, &TREE, most)));
        // Each level holds the next one.
        let mut deep: Vec<u8> = Vec::new();
        for _ in 0..1000 {
            let short = |n: usize| u8::try_from(n).unwrap();
            let mut outer = vec![10, 0x80 | short(deep.len() % 128), short(deep.len() / 128)];
            outer.append(&mut deep);
            deep = outer;
        }
        assert!(decoded_size(&deep, &TREE, 1 << 20) > 1 << 20);
        assert_eq!(decoded_size(&[0xff; 20], &TREE, usize::MAX), 100);
    }
}
