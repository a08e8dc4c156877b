//! From a histogram's buckets to values that CloudWatch takes.

/// What was observed, as values each with how often: as many as were observed, with their very sum, each within its
/// bucket. `buckets` are upper bounds, the last of them infinite, each with how many lie between it and the bound
/// before it; below the first lies zero.
///
/// Where in its bucket a value lies is not known. The sum is, and so each is put the same part of the way from the
/// lower bound to the upper: averages are right, and percentiles as right as buckets let them be.
pub(super) fn observations(buckets: &[(f64, u64)], sum: f64) -> Vec<(f64, u64)> {
    let mut parts = Vec::new();
    let mut lower = 0.0;
    for &(upper, count) in buckets {
        if count > 0 {
            parts.push((lower, upper, count));
        }
        lower = upper;
    }
    let floor: f64 = parts.iter().map(|&(lower, _, count)| lower * times(count)).sum();
    // At most all that is above the lower bounds can lie in the last bucket, which has no upper one.
    if let Some((lower, upper, count)) = parts.last_mut()
        && upper.is_infinite()
    {
        *upper = *lower + (sum - floor).max(0.0) / times(*count);
    }
    let room: f64 = parts.iter().map(|&(lower, upper, count)| (upper - lower) * times(count)).sum();
    let part = if room > 0.0 { ((sum - floor) / room).clamp(0.0, 1.0) } else { 0.0 };
    parts.into_iter().map(|(lower, upper, count)| (lower + (upper - lower) * part, count)).collect()
}

#[expect(clippy::cast_precision_loss, reason = "counts of a minute are far from 2^52")]
fn times(count: u64) -> f64 {
    count as f64
}
