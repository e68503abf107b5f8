//! What the cells of a table's column are: one type for the whole column, decided by all of its cells.

use serde_json::{Number, Value};

use super::is_blank;

/// What is written where there is no value, in lower case.
const NOTHING: [&str; 6] = ["na", "n/a", "#n/a", "nan", "null", "none"];
/// Signs of currencies.
const CURRENCIES: [char; 5] = ['$', '€', '£', '¥', '₹'];

/// Which sign stands before the decimals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decimals {
    Point,
    Comma,
}

/// What the cells of a column are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    Boolean,
    Number(Decimals),
}

/// What there is in a column.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cells {
    /// Those that hold anything.
    pub(crate) filled: u64,
    booleans: u64,
    with_point: u64,
    with_comma: u64,
    has_commas: bool,
    /// The first cell that is no number, and its row.
    pub(crate) text: Option<(u64, String)>,
}

impl Cells {
    /// Looks at the cell in this row.
    pub(crate) fn look(&mut self, cell: &str, row: u64) {
        let cell = cell.trim_matches(is_blank);
        if cell.is_empty() || is_nothing(cell) {
            return;
        }
        let [point, comma] =
            [Decimals::Point, Decimals::Comma].map(|decimals| number(cell, decimals).is_some());
        self.filled += 1;
        self.booleans += u64::from(boolean(cell).is_some());
        self.with_point += u64::from(point);
        self.with_comma += u64::from(comma);
        self.has_commas |= cell.contains(',');
        if !point && !comma && self.text.is_none() {
            self.text = Some((row, cell.to_owned()));
        }
    }

    /// What they are, in a file whose decimals are these where cells leave a choice.
    pub(crate) fn kind(&self, file: Decimals) -> Kind {
        match self {
            Self { filled: 0, .. } => Kind::Text,
            _ if self.booleans == self.filled => Kind::Boolean,
            _ if self.with_point.max(self.with_comma) == self.filled => {
                Kind::Number(self.likely(file))
            }
            _ => Kind::Text,
        }
    }

    /// Those of them that are numbers.
    pub(crate) fn numbers(&self) -> u64 {
        self.with_point.max(self.with_comma)
    }

    /// The sign before its decimals, in a file where it is mostly `file`.
    pub(crate) fn likely(&self, file: Decimals) -> Decimals {
        match self.with_point.cmp(&self.with_comma) {
            std::cmp::Ordering::Greater => Decimals::Point,
            std::cmp::Ordering::Less => Decimals::Comma,
            std::cmp::Ordering::Equal => file,
        }
    }
}

impl Kind {
    /// What a cell of such a column stands for; `None` for nothing.
    pub(crate) fn value(self, cell: &str) -> Option<Value> {
        let plain = cell.trim_matches(is_blank);
        if plain.is_empty() {
            return None;
        }
        match self {
            Self::Text => Some(cell.into()),
            _ if is_nothing(plain) => None,
            Self::Boolean => Some(boolean(plain).map_or_else(|| cell.into(), Value::Bool)),
            Self::Number(decimals) => {
                let number = number(plain, decimals).and_then(Number::from_f64);
                Some(number.map_or_else(|| cell.into(), Value::Number))
            }
        }
    }
}

/// The sign before decimals in a file, as those of its columns say that leave no choice. In one whose
/// cells are told apart by semicolons a comma is that sign.
pub(crate) fn decimals<'a>(
    columns: impl Iterator<Item = &'a Cells> + Clone,
    delimiter: u8,
) -> Decimals {
    let whole = |one: u64, seen: &Cells| seen.filled > 0 && one == seen.filled;
    let mut numeric = columns.filter(|seen| whole(seen.with_point.max(seen.with_comma), seen));
    let of = |comma: bool, seen: &Cells| if comma { seen.with_comma } else { seen.with_point };
    let strictly =
        |comma: bool, seen: &Cells| whole(of(comma, seen), seen) && !whole(of(!comma, seen), seen);
    let comma = numeric.clone().any(|seen| strictly(true, seen));
    let point = numeric.clone().any(|seen| strictly(false, seen));
    match (comma, point) {
        (true, false) => Decimals::Comma,
        (false, false) if delimiter == b';' && numeric.any(|seen| seen.has_commas) => {
            Decimals::Comma
        }
        _ => Decimals::Point,
    }
}

fn is_nothing(cell: &str) -> bool {
    NOTHING.iter().any(|nothing| nothing.eq_ignore_ascii_case(cell))
}

fn boolean(cell: &str) -> Option<bool> {
    match cell {
        _ if cell.eq_ignore_ascii_case("true") => Some(true),
        _ if cell.eq_ignore_ascii_case("false") => Some(false),
        _ => None,
    }
}

/// The number that a cell is: `12`, `-0.5`, `1e3`, `1,200.5`, `$0.012`, `1 200`. Digits with a zero before
/// them, such as `007`, are a code.
fn number(cell: &str, decimals: Decimals) -> Option<f64> {
    let (decimal, group) = match decimals {
        Decimals::Point => ('.', ','),
        Decimals::Comma => (',', '.'),
    };
    let (negative, rest) = signed(cell);
    let unsigned = rest.trim_start_matches(CURRENCIES).trim_matches(is_blank);
    let (inner_negative, unsigned) =
        if negative.is_none() { signed(unsigned) } else { (None, unsigned) };
    let unsigned = unsigned.trim_end_matches(CURRENCIES).trim_matches(is_blank);
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let (whole, fraction) = match mantissa.split_once(decimal) {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (mantissa, None),
    };
    let all_digits =
        |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_group = |sign: char| sign == group || matches!(sign, ' ' | '\u{a0}' | '\u{202f}' | '\'');
    let mut text = String::with_capacity(cell.len());
    if negative.or(inner_negative) == Some(true) {
        text.push('-');
    }
    if whole.contains(is_group) {
        let mut groups = whole.split(is_group);
        let first = groups.next().unwrap_or_default();
        if !all_digits(first) || first.len() > 3 || first.starts_with('0') {
            return None;
        }
        text.push_str(first);
        for three in groups {
            if !all_digits(three) || three.len() != 3 {
                return None;
            }
            text.push_str(three);
        }
    } else {
        let is_code = whole.len() > 1 && whole.starts_with('0');
        if is_code || !(all_digits(whole) || (whole.is_empty() && fraction.is_some())) {
            return None;
        }
        text.push_str(if whole.is_empty() { "0" } else { whole });
    }
    if let Some(fraction) = fraction {
        if !all_digits(fraction) {
            return None;
        }
        text.push('.');
        text.push_str(fraction);
    }
    if let Some(exponent) = exponent {
        if !all_digits(exponent.strip_prefix(['+', '-']).unwrap_or(exponent)) {
            return None;
        }
        text.push('e');
        text.push_str(exponent);
    }
    text.parse().ok().filter(|number: &f64| number.is_finite())
}

/// Whether a sign says that what follows is below 0.
fn signed(text: &str) -> (Option<bool>, &str) {
    match text.strip_prefix(['-', '\u{2212}']) {
        Some(rest) => (Some(true), rest),
        None => text.strip_prefix('+').map_or((None, text), |rest| (Some(false), rest)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_people_write_them() {
        #[track_caller]
        fn check(cell: &str, point: Option<f64>, comma: Option<f64>) {
            assert_eq!(number(cell, Decimals::Point), point, "{cell:?} with a point");
            assert_eq!(number(cell, Decimals::Comma), comma, "{cell:?} with a comma");
        }
        check("12", Some(12.0), Some(12.0));
        check("1,200", Some(1_200.0), Some(1.2));
        check("1.200", Some(1.2), Some(1_200.0));
        check("1,234,567.8", Some(1_234_567.8), None);
        check("1.234.567,8", None, Some(1_234_567.8));
        check("1,20", None, Some(1.2));
        check("12,3456", None, Some(12.3456));
        check("1,2345", None, Some(1.2345));
        check("$0.012", Some(0.012), None);
        check("-$5", Some(-5.0), Some(-5.0));
        check("$-5", Some(-5.0), Some(-5.0));
        check("5,50 €", None, Some(5.5));
        check("\u{2212}3", Some(-3.0), Some(-3.0));
        check("+3", Some(3.0), Some(3.0));
        check("1 200", Some(1_200.0), Some(1_200.0));
        check("1\u{202f}200,5", None, Some(1_200.5));
        check("1'200", Some(1_200.0), Some(1_200.0));
        check("1e-3", Some(0.001), Some(0.001));
        for none in [
            "", "-", "$", "--1", "007", "00", "0,100.0", "1,,200", ",200", "1,2,3", "5.", "1e",
            "0x1f", "NaN", "1-2", "1.2.3", "12:30", "1e999", "1_000", "-+1",
        ] {
            check(none, None, number(none, Decimals::Comma));
        }
        for none in ["", "007", "1,2,3", "5,", "1e", "NaN", "1.2.3", ".200"] {
            assert_eq!(number(none, Decimals::Comma), None, "{none:?}");
        }
    }
}
