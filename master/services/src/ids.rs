//! Task ids and other spread, from a seed: no entropy in here.

use waggle_types::{ServiceId, TaskId, UnixMillis};

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

    /// The next task of a resident instance; Marathon counts them, here they differ.
    pub fn next_task_of(&mut self, instance: &str) -> Option<TaskId> {
        let n = self.next() >> 32;
        TaskId::new(format!("{instance}._app.{n}")).ok()
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

    /// Marathon's form: `/shop/cart` is `shop_cart.instance-<uuid>._app.1`. Labels that would make the id
    /// too long for a file name are cut; the uuid keeps it unique.
    pub fn task_id(&mut self, service: &ServiceId) -> Option<TaskId> {
        let instance = self.instance(service, 128);
        TaskId::new(format!("{instance}._app.1")).ok()
    }

    /// An instance that is a pod: `shop_cart.instance-<uuid>`. There is room left for the names of its containers.
    pub fn pod_id(&mut self, service: &ServiceId) -> Option<TaskId> {
        TaskId::new(self.instance(service, 80)).ok()
    }

    fn instance(&mut self, service: &ServiceId, longest: usize) -> String {
        let uuid = self.uuid();
        let name: String = service.joined("_").chars().take(longest).collect();
        format!("{name}.instance-{uuid}")
    }
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
    use super::*;

    #[test]
    fn task_ids_look_like_marathons() {
        let mut ids = IdGen::new(7);
        let id = ids
            .task_id(&ServiceId::new("/shop/cart").unwrap())
            .unwrap()
            .to_string();
        assert!(id.starts_with("shop_cart.instance-"), "{id}");
        assert!(id.ends_with("._app.1"), "{id}");
        assert_eq!(id.len(), "shop_cart.instance-._app.1".len() + 36);
        let long = ServiceId::new(&"a".repeat(190)).unwrap();
        assert!(ids.task_id(&long).is_some());
    }
}
