//! Quantities as Kubernetes has them: `5m`, `16Mi`, `1e3`.

use std::cmp::Ordering;
use std::fmt;

/// A quantity that is not negative, and its text.
///
/// The syntax is that of Kubernetes (apimachinery/pkg/api/resource/quantity.go): a decimal number, then nothing, one
/// of `n u m k M G T P E Ki Mi Gi Ti Pi Ei`, or a decimal exponent.
#[derive(Clone, Debug)]
pub struct Quantity {
    text: String,
    /// Billionths, rounded up as Kubernetes does.
    nano: u128,
}

/// Why a text is no quantity, and the fix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct QuantityError(String);

const NANO: u128 = 1_000_000_000;
/// Larger ones are cut by Kubernetes.
const MOST: u128 = i64::MAX as u128 * NANO;
/// A longer text is nobody's.
const LONGEST: usize = 64;

/// What ends a quantity, and what its number is multiplied and divided by.
const SUFFIXES: [(&str, u128, u128); 16] = [
    ("", 1, 1),
    ("n", 1, NANO),
    ("u", 1, 1_000_000),
    ("m", 1, 1000),
    ("k", 1000, 1),
    ("M", 1_000_000, 1),
    ("G", NANO, 1),
    ("T", 1000 * NANO, 1),
    ("P", 1_000_000 * NANO, 1),
    ("E", NANO * NANO, 1),
    ("Ki", 1 << 10, 1),
    ("Mi", 1 << 20, 1),
    ("Gi", 1 << 30, 1),
    ("Ti", 1 << 40, 1),
    ("Pi", 1 << 50, 1),
    ("Ei", 1 << 60, 1),
];

impl Quantity {
    /// Reads one.
    ///
    /// # Errors
    /// What it is not, and what was probably meant.
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        let shown = super::shown(text);
        let error = |why: String| QuantityError(format!("`{shown}` {why}"));
        if text.starts_with('-') {
            return Err(error("is negative; write one from 0".to_owned()));
        }
        let unsigned = text.strip_prefix('+').unwrap_or(text);
        let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let is_number = !(fraction.contains('.') || whole.is_empty() && fraction.is_empty());
        let scale = scale(suffix).filter(|_| is_number && text.len() <= LONGEST);
        let Some((times, over)) = scale else {
            return Err(error(match meant(unsigned) {
                Some(meant) => format!("is no quantity; did you mean `{meant}`?"),
                None => {
                    "is no quantity; write a number and a unit, such as `5m` of a CPU or `16Mi` of memory".to_owned()
                }
            }));
        };
        let nano = billionths(whole, fraction).and_then(|nano| nano.checked_mul(times)).map(|nano| nano.div_ceil(over));
        match nano.filter(|nano| *nano <= MOST) {
            Some(nano) => Ok(Self { text: text.to_owned(), nano }),
            None => Err(error("is more than there can be".to_owned())),
        }
    }

    /// It in bytes, if it is whole bytes.
    #[must_use]
    pub fn bytes(&self) -> Option<u64> {
        u64::try_from(self.nano / NANO).ok().filter(|_| self.nano.is_multiple_of(NANO))
    }

    /// Thousandths, rounded up, as a CPU's share is counted.
    #[must_use]
    pub fn milli(&self) -> u128 {
        self.nano.div_ceil(NANO / 1000)
    }

    /// Whether thousandths do not suffice for it.
    pub(super) fn is_finer_than_milli(&self) -> bool {
        !self.nano.is_multiple_of(NANO / 1000)
    }
}

/// A number in billionths, rounded up; `None` if it is beyond all measure.
fn billionths(whole: &str, fraction: &str) -> Option<u128> {
    let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let (kept, cut) = fraction.split_at(fraction.len().min(9));
    let kept: u128 = format!("{kept:0<9}").parse().ok()?;
    let up = u128::from(cut.bytes().any(|digit| digit != b'0'));
    whole.checked_mul(NANO)?.checked_add(kept + up)
}

/// What a suffix multiplies and divides by.
fn scale(suffix: &str) -> Option<(u128, u128)> {
    if let Some((_, times, over)) = SUFFIXES.iter().find(|(known, ..)| *known == suffix) {
        return Some((*times, *over));
    }
    let exponent = suffix.strip_prefix(['e', 'E'])?;
    let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
    let power: u32 = digits.parse().ok().filter(|power| *power <= 18 && digits.bytes().all(|b| b.is_ascii_digit()))?;
    let power = 10_u128.pow(power);
    Some(if exponent.starts_with('-') { (1, power) } else { (power, 1) })
}

/// What was probably meant by a text that is no quantity.
fn meant(text: &str) -> Option<String> {
    let text: String = text.chars().filter(|c| !c.is_whitespace()).take(LONGEST).collect();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(end);
    number.parse::<f64>().ok()?;
    let unit = match unit.to_ascii_lowercase().as_str() {
        "k" | "kb" => "k",
        "ki" | "kib" => "Ki",
        "mi" | "mib" => "Mi",
        "mb" => "M",
        "g" | "gb" => "G",
        "gi" | "gib" => "Gi",
        "t" | "tb" => "T",
        "ti" | "tib" => "Ti",
        "m" if unit == "m" => "m",
        "m" => "M",
        "b" | "bytes" | "" => "",
        "cpu" | "cpus" | "core" | "cores" => "",
        "millicpu" | "mcpu" => "m",
        _ => return None,
    };
    Some(format!("{number}{unit}"))
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nano == other.nano
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nano.cmp(&other.nano)
    }
}

impl fmt::Display for Quantity {
    /// As it was written.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nano(text: &str) -> u128 {
        Quantity::parse(text).unwrap().nano
    }

    #[test]
    fn reads_what_kubernetes_reads() {
        for (text, billionths) in [
            ("0", 0),
            ("5m", 5_000_000),
            ("1", NANO),
            ("+1", NANO),
            ("0.5", NANO / 2),
            (".5", NANO / 2),
            ("1.", NANO),
            ("100u", 100_000),
            ("3n", 3),
            ("0.1n", 1),
            ("1k", 1000 * NANO),
            ("1e3", 1000 * NANO),
            ("1E3", 1000 * NANO),
            ("1E+3", 1000 * NANO),
            ("1e-3", 1_000_000),
            ("1Ki", 1024 * NANO),
            ("1.5Ki", 1536 * NANO),
            ("16Mi", 16 * 1024 * 1024 * NANO),
            ("1E", NANO * NANO * NANO),
            ("1Ei", (1 << 60) * NANO),
        ] {
            assert_eq!(nano(text), billionths, "{text}");
        }
        assert_eq!(Quantity::parse("16Mi").unwrap().bytes(), Some(16 << 20));
        assert_eq!(Quantity::parse("16m").unwrap().bytes(), None);
        assert_eq!(Quantity::parse("1500u").unwrap().milli(), 2);
        let quantity = |text| Quantity::parse(text).unwrap();
        assert!(quantity("1Gi") > quantity("1G") && quantity("1000m") == quantity("1"));
    }

    #[test]
    fn tells_what_was_meant() {
        for (text, meant) in [
            ("", "is no quantity; write a number and a unit"),
            ("soon", "is no quantity; write"),
            (".", "is no quantity; write"),
            ("1.2.3", "is no quantity; write"),
            ("-5m", "is negative"),
            ("16 Mi", "did you mean `16Mi`?"),
            ("16MB", "did you mean `16M`?"),
            ("16MiB", "did you mean `16Mi`?"),
            ("16mi", "did you mean `16Mi`?"),
            ("16K", "did you mean `16k`?"),
            ("2 cores", "did you mean `2`?"),
            ("1e", "is no quantity"),
            ("1e+", "is no quantity"),
            ("1e-+3", "is no quantity"),
            ("10E", "is more than there can be"),
            ("99999999999999999999999999999999999999999", "is more than there can be"),
            ("1e18Mi", "is no quantity"),
            ("5m\u{0}", "is no quantity"),
        ] {
            let error = Quantity::parse(text).map(|read| read.nano);
            let error = error.map_err(|error| error.to_string());
            assert!(error.as_ref().is_err_and(|error| error.contains(meant)), "{text}: {error:?}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "[0-9+.eEinumkKMGTP -]{0,24}|\\PC{0,12}") {
            let _ = Quantity::parse(&text);
        }

        #[test]
        fn reads_every_number_with_every_unit(number in 0_u32..100, at in 0..SUFFIXES.len()) {
            let (suffix, times, over) = SUFFIXES[at];
            let exact = u128::from(number) * NANO * times;
            prop_assume!(exact / over <= MOST);
            prop_assert_eq!(nano(&format!("{number}{suffix}")), exact.div_ceil(over));
        }
    }
}
