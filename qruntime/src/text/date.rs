//! Dates, and how `strftime` writes them.

/// A day of the Gregorian calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Date {
    /// The year.
    pub year: i32,
    /// The month, 1 to 12.
    pub month: u8,
    /// The day, 1 to 31.
    pub day: u8,
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

const WEEKDAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

impl Date {
    /// Makes the date `days` days after 1 January 1970 (Hinnant, "chrono-compatible low-level date
    /// algorithms", 2013).
    #[must_use]
    pub fn from_days(days: u32) -> Self {
        let days = i64::from(days) + 719_468;
        let era = days / 146_097;
        let of_era = days % 146_097;
        let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year + year / 4 - year / 100);
        let month = (5 * of_year + 2) / 153;
        let day = of_year - (153 * month + 2) / 5 + 1;
        let month = if month < 10 { month + 3 } else { month - 9 };
        Self { year: (year + 400 * era + i64::from(month <= 2)) as i32, month: month as u8, day: day as u8 }
    }

    /// Returns the days since 1 January 1970.
    fn days(self) -> i64 {
        let year = i64::from(self.year) - i64::from(self.month <= 2);
        let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
        let month = (i64::from(self.month) + 9) % 12;
        let of_year = (153 * month + 2) / 5 + i64::from(self.day) - 1;
        era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
    }

    /// Returns the day of the week, 0 for Sunday.
    fn weekday(self) -> i64 {
        (self.days() + 4).rem_euclid(7)
    }

    /// Returns the day of the year, 0 for 1 January.
    fn of_year(self) -> i64 {
        self.days() - Self { month: 1, day: 1, ..self }.days()
    }

    /// Returns the year and week of ISO 8601: weeks begin on Monday, and the first one has the
    /// year's first Thursday.
    fn iso_week(self) -> (i32, i64) {
        let thursday = self.of_year() + 3 - (self.weekday() + 6) % 7;
        let length = |year: i32| Self { year, month: 12, day: 31 }.of_year() + 1;
        match thursday {
            day if day < 0 => (self.year.saturating_sub(1), (day + length(self.year.saturating_sub(1))) / 7 + 1),
            day if day >= length(self.year) => (self.year.saturating_add(1), 1),
            day => (self.year, day / 7 + 1),
        }
    }

    /// Formats the date as `strftime` does in the C locale, at midnight UTC because a date has no
    /// time. Unknown directives are left unchanged. A `-` after the `%` drops leading zeros, and
    /// `_` turns them into spaces.
    pub(crate) fn format(self, format: &str) -> String {
        let mut text = String::new();
        let mut rest = format;
        while let Some(at) = rest.find('%') {
            text += &rest[..at];
            let mut after = &rest[at + 1..];
            let flag = after.chars().next().filter(|flag| matches!(flag, '-' | '_' | '0'));
            after = &after[usize::from(flag.is_some())..];
            let letter = after.chars().next();
            match letter.and_then(|letter| self.field(letter, flag)) {
                Some(field) => {
                    text += &field;
                    rest = &after[letter.map_or(0, char::len_utf8)..];
                }
                None => {
                    text.push('%');
                    rest = &rest[at + 1..];
                }
            }
        }
        text + rest
    }

    /// Returns the text of a directive's letter.
    fn field(self, letter: char, flag: Option<char>) -> Option<String> {
        let padded = |number: i64, width: usize, fill: char| match (flag, fill) {
            (Some('-'), _) => number.to_string(),
            (Some('_'), _) | (None, ' ') => format!("{number:width$}"),
            _ => format!("{number:0width$}"),
        };
        let number = |number: i64, width: usize| Some(padded(number, width, '0'));
        let (month, weekday) = (usize::from(self.month.clamp(1, 12)) - 1, self.weekday());
        let (month_name, day_name) = (MONTHS[month], WEEKDAYS[weekday as usize]);
        let (of_year, year) = (self.of_year(), i64::from(self.year));
        let text = |text: &str| Some(text.to_owned());
        match letter {
            'Y' => Some(year.to_string()),
            'C' => number(year.div_euclid(100), 2),
            'y' => number(year.rem_euclid(100), 2),
            'm' => number(self.month.into(), 2),
            'B' => text(month_name),
            'b' | 'h' => text(&month_name[..3]),
            'd' => number(self.day.into(), 2),
            'e' => Some(padded(self.day.into(), 2, ' ')),
            'j' => number(of_year + 1, 3),
            'A' => text(day_name),
            'a' => text(&day_name[..3]),
            'w' => Some(weekday.to_string()),
            'u' => Some((if weekday == 0 { 7 } else { weekday }).to_string()),
            'U' => number((of_year + 7 - weekday) / 7, 2),
            'W' => number((of_year + 7 - (weekday + 6) % 7) / 7, 2),
            'V' => number(self.iso_week().1, 2),
            'G' => Some(self.iso_week().0.to_string()),
            'g' => number(i64::from(self.iso_week().0.rem_euclid(100)), 2),
            'D' | 'x' => Some(self.format("%m/%d/%y")),
            'F' => Some(self.format("%Y-%m-%d")),
            'c' => Some(self.format("%a %b %e %H:%M:%S %Y")),
            'H' | 'M' | 'S' => number(0, 2),
            'k' => Some(padded(0, 2, ' ')),
            'I' => number(12, 2),
            'l' => Some(padded(12, 2, ' ')),
            'p' => text("AM"),
            'P' => text("am"),
            'R' => text("00:00"),
            'T' | 'X' => text("00:00:00"),
            'r' => text("12:00:00 AM"),
            'f' => text("000000"),
            's' => Some((self.days() * 86_400).to_string()),
            // A time without a zone writes nothing.
            'z' | 'Z' => text(""),
            'n' => text("\n"),
            't' => text("\t"),
            '%' => text("%"),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_have_dates() {
        for (days, year, month, day) in [
            (0, 1970, 1, 1),
            (11_016, 2000, 2, 29),
            (20_782, 2026, 11, 25),
            (47_540, 2100, 2, 28),
            (47_541, 2100, 3, 1),
        ] {
            let date = Date { year, month, day };
            assert_eq!((Date::from_days(days), date.days()), (date, days.into()), "day {days}");
        }
    }

    /// Compares with Python's `strftime` (3.11, glibc).
    #[test]
    fn dates_are_written_as_strftime_does() {
        for ((year, month, day), format, expected) in [
            ((2026, 3, 5), "%d %b %Y, %B %y %m 100%% %q %", "05 Mar 2026, March 26 03 100% %q %"),
            ((2026, 3, 5), "%-d.%-m. %e|%_m|%A|%a|%j|%-j", "5.3.  5| 3|Thursday|Thu|064|64"),
            ((2026, 3, 5), "%D %F %x %C %h", "03/05/26 2026-03-05 03/05/26 20 Mar"),
            ((2026, 3, 5), "%H:%M:%S %I %p %R %T %X %f", "00:00:00 12 AM 00:00 00:00:00 00:00:00 000000"),
            ((2026, 3, 5), "%c%n%t.", "Thu Mar  5 00:00:00 2026\n\t."),
            ((2021, 1, 3), "%G-W%V-%u %U %W %w %g", "2020-W53-7 01 00 0 20"),
            ((2024, 12, 30), "%G-W%V-%u %U %W %w", "2025-W01-1 52 53 1"),
            ((2026, 11, 30), "Today is %A, %B %d, %Y.é", "Today is Monday, November 30, 2026.é"),
        ] {
            assert_eq!(Date { year, month, day }.format(format), expected, "{year}-{month}-{day} {format}");
        }
    }
}
