//! Durations as Go writes them (`time.ParseDuration`).

use std::time::Duration;

/// What a text stands for; nothing if it is no duration. Zero and less is `Some(None)`.
pub(super) fn parse(text: &str) -> Option<Option<Duration>> {
    let (negative, mut rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Some(None);
    }
    if rest.is_empty() {
        return None;
    }
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let value: f64 = rest[..number].parse().ok()?;
        rest = &rest[number..];
        let unit = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        seconds += value
            * match &rest[..unit] {
                "ns" => 1e-9,
                "us" | "µs" | "μs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return None,
            };
        rest = &rest[unit..];
    }
    let duration = Duration::try_from_secs_f64(seconds).ok()?;
    Some((!negative && !duration.is_zero()).then_some(duration))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_go_reads() {
        let some = |milliseconds| Some(Some(Duration::from_millis(milliseconds)));
        for (text, expected) in [
            ("3s", some(3000)),
            ("+1m30s", some(90_000)),
            ("1.5s", some(1500)),
            (".5s", some(500)),
            ("250ms", some(250)),
            ("0", Some(None)),
            ("0s", Some(None)),
            ("-3s", Some(None)),
            ("3", None),
            ("", None),
            ("-", None),
            ("s", None),
            ("3 s", None),
            ("3sec", None),
            ("3d", None),
            (".s", None),
            ("1..5s", None),
        ] {
            assert_eq!(parse(text), expected, "{text:?}");
        }
    }
}
