//! Task ids and other spread, from a seed: no entropy in here.

use waggle_types::{ServiceSpec, TaskId, UnixMillis};

/// SplitMix64 (Steele, Lea, Flood 2014): one step's output for a state.
pub(crate) fn mix(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Counts from a seed; two lives of a master use different seeds, so their ids differ.
#[derive(Debug, Clone)]
pub(crate) struct IdGen {
    seed: u64,
    n: u64,
}

impl IdGen {
    pub fn new(seed: u64) -> Self {
        Self { seed, n: 0 }
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.n += 1;
        mix(mix(self.seed).wrapping_add(self.n))
    }

    /// Which launch of a resident instance the next one is; Marathon counts them, here they differ.
    pub fn next_launch(&mut self) -> u64 {
        self.next() >> 32
    }

    /// A random UUID as text.
    pub fn uuid(&mut self) -> String {
        let (a, b) = (self.next(), self.next());
        // RFC 9562 section 5.4: version 4 and variant bits, the rest is free.
        let a = (a & !0xf000) | 0x4000;
        let b = (b & !(0b11 << 62)) | (0b10 << 62);
        format!(
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            a >> 32,
            (a >> 16) & 0xffff,
            a & 0xffff,
            b >> 48,
            b & 0xffff_ffff_ffff
        )
    }

    /// A new instance in Marathon's form: `/shop/cart` is `shop_cart.instance-<uuid>`. Labels that would make the ids of
    /// its tasks too long for a file name are cut, and where it is a pod there is room left for the names of its
    /// containers; the uuid keeps it unique.
    pub fn instance(&mut self, spec: &ServiceSpec) -> String {
        let longest = if spec.pod.is_some() { 80 } else { 128 };
        let uuid = self.uuid();
        let name: String = spec.id.joined("_").chars().take(longest).collect();
        format!("{name}.instance-{uuid}")
    }
}

/// A task of an instance: `<instance>.<name>.<launch>`; an app's name is `_app`.
pub(crate) fn task_of(instance: &str, name: &str, launch: u64) -> Option<TaskId> {
    TaskId::new(format!("{instance}.{name}.{launch}")).ok()
}

/// Metronome's form of a run's id: when it was made (UTC) and five characters of `random`.
pub(crate) fn run_stamp(now: UnixMillis, random: u64) -> String {
    const LETTERS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let when: String = now.rfc3339().to_string();
    let mut out: String = when.chars().filter(char::is_ascii_digit).take(14).collect();
    let mut rest = random;
    for _ in 0..5 {
        out.push(char::from(LETTERS[usize::try_from(rest % 62).unwrap_or(0)]));
        rest /= 62;
    }
    out
}

#[cfg(test)]
mod tests {
    use waggle_types::{Command, ServiceId};

    use super::*;

    #[test]
    fn task_ids_look_like_marathons() {
        let mut ids = IdGen::new(7);
        let of = |id: &str| ServiceSpec::new(ServiceId::new(id).unwrap(), Command::Executor);
        let instance = ids.instance(&of("/shop/cart"));
        let id = task_of(&instance, "_app", 1).unwrap().to_string();
        assert!(id.starts_with("shop_cart.instance-"), "{id}");
        assert!(id.ends_with("._app.1"), "{id}");
        assert_eq!(id.len(), "shop_cart.instance-._app.1".len() + 36);
        let long = ids.instance(&of(&"a".repeat(190)));
        assert!(task_of(&long, "_app", u64::MAX).is_some());
    }
}
