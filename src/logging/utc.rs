//! The wall clock, for people: log lines and certificates. Nothing in the daemon depends on it.

use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds since the epoch, shown as ISO 8601 in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Utc(pub u64);

impl Utc {
    /// Now; the epoch on a clock set before it.
    pub fn now() -> Self {
        Utc(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
    }

    /// The second of a civil date and time, which need not be one that exists; the epoch for one
    /// before it.
    pub fn of([year, month, day]: [u16; 3], [hour, minute, second]: [u8; 3]) -> Self {
        let [year, month, day] = [year, month, day].map(i64::from);
        // As below: years begin in March.
        let (year, month) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
        let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
        let days = year * 365 + leap_days + (153 * month + 2) / 5 + day - 1 - 719_468;
        let [hour, minute, second] = [hour, minute, second].map(i64::from);
        let seconds = days * 86_400 + hour * 3600 + minute * 60 + second;
        Utc(u64::try_from(seconds).unwrap_or(0))
    }
}

impl std::fmt::Display for Utc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (days, second) = (self.0 / 86_400, self.0 % 86_400);
        // Years begin in March here, so that the leap day is the last of its year, and eras of
        // 400 years (146,097 days) begin on 0000-03-01, which is 719,468 days before 1970.
        let days = days + 719_468;
        let (era, day) = (days / 146_097, days % 146_097);
        let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day + 2) / 153;
        let day = day - (153 * month + 2) / 5 + 1;
        let (year, month) = match month {
            0..=9 => (year, month + 3),
            _ => (year + 1, month - 9),
        };
        write!(
            f,
            "{:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
            era * 400 + year,
            second / 3600,
            second / 60 % 60,
            second % 60
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn utc_is_the_civil_date() {
        for (seconds, date, time, shown) in [
            (0, [1970, 1, 1], [0, 0, 0], "1970-01-01T00:00:00Z"),
            (951_782_399, [2000, 2, 28], [23, 59, 59], "2000-02-28T23:59:59Z"),
            (951_782_400, [2000, 2, 29], [0, 0, 0], "2000-02-29T00:00:00Z"),
            (951_868_800, [2000, 3, 1], [0, 0, 0], "2000-03-01T00:00:00Z"),
            (1_709_164_800, [2024, 2, 29], [0, 0, 0], "2024-02-29T00:00:00Z"),
            (1_767_225_599, [2025, 12, 31], [23, 59, 59], "2025-12-31T23:59:59Z"),
            (4_107_542_400, [2100, 3, 1], [0, 0, 0], "2100-03-01T00:00:00Z"),
            (2_524_607_999, [2049, 12, 31], [23, 59, 59], "2049-12-31T23:59:59Z"),
        ] {
            assert_eq!(Utc(seconds).to_string(), shown);
            assert_eq!(Utc::of(date, time), Utc(seconds));
        }
        assert_eq!(Utc::of([1950, 12, 31], [23, 59, 59]), Utc(0));
        for day in 0..200_000 {
            let time = Utc(day * 86_400 + day % 86_400);
            let shown = time.to_string();
            let number = |from, to| shown[from..to].parse::<u16>().unwrap();
            let date = [number(0, 4), number(5, 7), number(8, 10)];
            let clock = [number(11, 13), number(14, 16), number(17, 19)].map(|part| part as u8);
            assert_eq!(Utc::of(date, clock), time);
        }
    }
}
