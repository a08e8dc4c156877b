//! Quantities as the API server stores them.
//!
//! It reads them into numbers and writes them anew (apimachinery/pkg/api/resource/quantity.go, `CanonicalizeBytes`), so
//! that `0.5` comes back as `500m`: what is ours is written so from the first.

use serde_json::Value;

use crate::webhook::annotations::Quantity;

/// A quantity of a manifest.
pub(super) fn amount(quantity: &Value) -> Option<Quantity> {
    match quantity {
        Value::String(text) => Quantity::parse(text).ok(),
        Value::Number(number) => Quantity::parse(&number.to_string()).ok(),
        _ => None,
    }
}

/// Whether both are the same quantity.
pub(super) fn same(one: &Value, other: &Value) -> bool {
    one == other || amount(one).is_some_and(|one| amount(other) == Some(one))
}

/// Bytes as the API server writes them.
pub(super) fn bytes(bytes: u64) -> String {
    match bytes.is_multiple_of(1024) {
        true => binary(bytes.into()),
        false => decimal(u128::from(bytes) * 1000, None),
    }
}

/// A quantity as the API server writes it: of no more than three decimals, as those of an annotation are, and in the
/// family of units that it was written in. Anything else stays as it is.
pub(super) fn canonical(quantity: &Value) -> Value {
    let Some(read) = amount(quantity) else { return quantity.clone() };
    let (text, milli) = (read.to_string(), read.milli());
    let written = match text.trim_start_matches(|c: char| !c.is_ascii_alphabetic()) {
        // Small ones, and those that are no whole number, lose nothing in decimals.
        unit if unit.ends_with('i') && milli >= 1024 * 1000 && milli.is_multiple_of(1000) => binary(milli / 1000),
        unit if unit.len() > 1 && unit.starts_with(['e', 'E']) && !unit.ends_with('i') => decimal(milli, Some('e')),
        _ => decimal(milli, None),
    };
    Value::String(written)
}

fn binary(mut number: u128) -> String {
    const UNITS: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let mut unit = 0;
    while number > 0 && number.is_multiple_of(1024) && unit + 1 < UNITS.len() {
        number /= 1024;
        unit += 1;
    }
    format!("{number}{}", UNITS[unit])
}

/// With the largest unit that leaves a whole number, or with a power of a thousand after `exponent`.
fn decimal(milli: u128, exponent: Option<char>) -> String {
    const UNITS: [&str; 8] = ["m", "", "k", "M", "G", "T", "P", "E"];
    let (mut number, mut unit) = (milli, 0);
    while number > 0 && number.is_multiple_of(1000) && unit + 1 < UNITS.len() {
        number /= 1000;
        unit += 1;
    }
    match (number, unit, exponent) {
        (0, ..) => "0".to_owned(),
        (_, 0, Some(e)) => format!("{number}{e}-3"),
        (_, 2.., Some(e)) => format!("{number}{e}{}", (unit - 1) * 3),
        _ => format!("{number}{}", UNITS[unit]),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn they_are_written_as_the_api_server_writes_them() {
        // Those of `TestQuantityParseEmit` and others of quantity_test.go.
        for (written, stored) in [
            ("0.5", "500m"),
            ("1024Mi", "1Gi"),
            ("1536Mi", "1536Mi"),
            ("1.5Gi", "1536Mi"),
            ("1000000", "1M"),
            ("1500", "1500"),
            ("1000m", "1"),
            ("1100m", "1100m"),
            ("+1", "1"),
            ("0", "0"),
            ("0Mi", "0"),
            ("512", "512"),
            ("0.5Ki", "512"),
            ("1Ki", "1Ki"),
            ("1023Ki", "1023Ki"),
            ("1048576Ki", "1Gi"),
            ("1e3", "1e3"),
            ("1000e3", "1e6"),
            ("1E6", "1e6"),
            ("1e-1", "100e-3"),
            ("1e0", "1"),
            ("1E", "1E"),
            ("1Ei", "1Ei"),
            ("1000k", "1M"),
            ("100000u", "100m"),
        ] {
            assert_eq!(canonical(&json!(written)), stored, "{written}");
        }
        assert_eq!(canonical(&json!(0.5)), "500m");
        assert_eq!(canonical(&json!("soon")), "soon");
        for (number, stored) in [(0, "0"), (1 << 20, "1Mi"), (1_000_000, "1M"), (1_024_000, "1000Ki"), (1 << 42, "4Ti")]
        {
            assert_eq!(bytes(number), stored);
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_the_same_and_stays(
            number in 1_u32..100_000, unit in prop::sample::select(vec!["m", "", "k", "M", "Ki", "Mi", "Gi", "e3", "e-3"]),
        ) {
            let written = json!(format!("{number}{unit}"));
            let once = canonical(&written);
            prop_assert!(same(&once, &written), "{} {}", once, written);
            prop_assert_eq!(canonical(&once), once);
            let own = json!(bytes(number.into()));
            prop_assert_eq!(canonical(&own), own);
        }
    }
}
