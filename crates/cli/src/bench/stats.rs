//! The little statistics that a table of medians needs.

/// The middle of some figures, the mean of the middle two for an even number; `None` for none.
pub fn median(figures: &[f64]) -> Option<f64> {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    let lower = *sorted.get(sorted.len().checked_sub(1)? / 2)?;
    Some((lower + upper) / 2.0)
}

/// Nanoseconds as people read them: three or four figures and a unit.
pub fn nanos(ns: f64) -> String {
    let (value, unit) = match ns {
        ns if ns < 1e3 => (ns, "ns"),
        ns if ns < 1e6 => (ns / 1e3, "us"),
        ns if ns < 1e9 => (ns / 1e6, "ms"),
        ns => (ns / 1e9, "s"),
    };
    let digits = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.digits$} {unit}")
}

/// A ratio to about three figures.
pub fn ratio(value: f64) -> String {
    let digits = match value {
        value if value < 0.1 => 3,
        value if value < 10.0 => 2,
        value if value < 100.0 => 1,
        _ => 0,
    };
    format!("{value:.digits$}x")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[3.0, 1.0]), Some(2.0));
        assert_eq!(median(&[9.0, 1.0, 2.0]), Some(2.0));
    }

    #[test]
    fn figures_for_people() {
        assert_eq!(nanos(3.217), "3.22 ns");
        assert_eq!(nanos(152.8), "153 ns");
        assert_eq!(nanos(2_570.0), "2.57 us");
        assert_eq!(nanos(12_300_000.0), "12.3 ms");
        assert_eq!(ratio(0.0213), "0.021x");
        assert_eq!(ratio(1.02), "1.02x");
        assert_eq!(ratio(14.26), "14.3x");
    }
}
