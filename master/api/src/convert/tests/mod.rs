//! Round trips of every message with a twin, and totality on any bytes.

mod frameworks;
mod fuzz;
mod given;
mod session;
mod wild;

/// Domain -> message -> bytes -> message -> domain.
macro_rules! round_trip {
    ($wire:ty, $value:expr) => {{
        let value = $value;
        let bytes = <$wire>::from(&value).encode_to_vec();
        let back = <$wire>::decode(bytes.as_slice()).unwrap().try_into();
        prop_assert_eq!(back, Ok::<_, $crate::convert::ConvertError>(value));
    }};
}
use round_trip;
