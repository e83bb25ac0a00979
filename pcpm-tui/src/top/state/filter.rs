//! What rows are shown: `web state:attached lat>5ms tenant:a* -owner:test /regex/`, all of it together.

use pcpm_api::{duration, rates};
use regex_lite::Regex;

use super::table::{Column, Record, Unit, Value};

/// The longest regular expression: one that is longer is a mistake.
const LONGEST_REGEX: usize = 200;

/// A filter, and the text that it was read from.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filter {
    text: String,
    terms: Vec<Term>,
}

#[derive(Clone, Debug)]
struct Term {
    negated: bool,
    test: Test,
}

#[derive(Clone, Debug)]
enum Test {
    /// A word that some field contains, in small letters.
    Word(String),
    /// A regular expression that some field matches.
    Regex(Regex),
    /// A field that matches a pattern with stars.
    Pattern { key: &'static str, pattern: Regex },
    Compare {
        key: &'static str,
        unit: Unit,
        how: How,
        number: u64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Above,
    AtLeast,
    Below,
    AtMost,
}

impl How {
    fn holds(self, one: u64, other: u64) -> bool {
        match self {
            Self::Above => one > other,
            Self::AtLeast => one >= other,
            Self::Below => one < other,
            Self::AtMost => one <= other,
        }
    }
}

impl Filter {
    /// Reads a filter for rows of one kind.
    ///
    /// # Errors
    /// What is wrong with it, for the person who types.
    pub(crate) fn parse<R: Record>(text: &str) -> Result<Self, String> {
        let terms = text.split_whitespace().map(term::<R>);
        Ok(Self {
            terms: terms.collect::<Result<_, _>>()?,
            text: text.trim().to_owned(),
        })
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// Whether all terms hold for a row, at a time in milliseconds since 1970.
    pub(crate) fn lets_through<R: Record>(&self, row: &R, now_ms: u64) -> bool {
        self.terms
            .iter()
            .all(|term| term.test.holds(row, now_ms) != term.negated)
    }
}

fn term<R: Record>(text: &str) -> Result<Term, String> {
    let (negated, text) = match text.strip_prefix('-') {
        Some(rest) if !rest.is_empty() => (true, rest),
        _ => (false, text),
    };
    Ok(Term {
        negated,
        test: test::<R>(text)?,
    })
}

fn test<R: Record>(text: &str) -> Result<Test, String> {
    if let Some(regex) = text.strip_prefix('/') {
        return regex_test(regex.strip_suffix('/').unwrap_or(regex));
    }
    let operator = text.find([':', '>', '<', '=']).filter(|&at| at > 0);
    let Some(at) = operator else {
        return Ok(Test::Word(text.to_lowercase()));
    };
    let (key, rest) = text.split_at(at);
    let column = column::<R>(key)?;
    if let Some(pattern) = rest.strip_prefix([':', '=']) {
        return pattern_test(column.key, pattern);
    }
    let (how, number) = match (rest.strip_prefix(">="), rest.strip_prefix("<=")) {
        (Some(number), _) => (How::AtLeast, number),
        (_, Some(number)) => (How::AtMost, number),
        _ if rest.starts_with('>') => (How::Above, &rest[1..]),
        _ => (How::Below, &rest[1..]),
    };
    Ok(Test::Compare {
        key: column.key,
        unit: column.unit,
        how,
        number: number_of(number, column.unit)?,
    })
}

fn column<R: Record>(key: &str) -> Result<&'static Column<R>, String> {
    let found = R::COLUMNS.iter().find(|column| column.key == key);
    found.ok_or_else(|| {
        let keys: Vec<_> = R::COLUMNS.iter().map(|column| column.key).collect();
        format!("no column is called '{key}': there are {}", keys.join(", "))
    })
}

fn regex_test(text: &str) -> Result<Test, String> {
    if text.len() > LONGEST_REGEX {
        return Err(format!(
            "a regular expression of more than {LONGEST_REGEX} letters"
        ));
    }
    let regex = Regex::new(&format!("(?i){text}"));
    let regex = regex.map_err(|error| format!("/{text}/ is no regular expression: {error}"))?;
    Ok(Test::Regex(regex))
}

/// `a*` and the like; a word without stars is the whole field.
fn pattern_test(key: &'static str, pattern: &str) -> Result<Test, String> {
    if pattern.is_empty() {
        return Err(format!(
            "'{key}:' wants something after it, such as {key}:web*"
        ));
    }
    if pattern.len() > LONGEST_REGEX {
        return Err(format!("a pattern of more than {LONGEST_REGEX} letters"));
    }
    let parts: Vec<_> = pattern.split('*').map(regex_lite::escape).collect();
    let regex = format!("(?i)^{}$", parts.join(".*"));
    let pattern = Regex::new(&regex).map_err(|error| error.to_string())?;
    Ok(Test::Pattern { key, pattern })
}

/// `5ms` for times, `1M` for sizes and counts, plain numbers everywhere.
fn number_of(text: &str, unit: Unit) -> Result<u64, String> {
    let time = |per_ms: u64| {
        let time = text.strip_suffix("us").or(text.strip_suffix("µs"));
        if let Some(us) = time.and_then(|number| number.parse::<u64>().ok()) {
            return Ok(us.saturating_mul(per_ms) / 1000);
        }
        let time = duration::parse(text)?;
        let ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Ok(ms.saturating_mul(per_ms))
    };
    match unit {
        Unit::Micros => time(1000),
        Unit::Age => time(1),
        Unit::Count | Unit::Bytes | Unit::Rate | Unit::Past => {
            rates::parse(text).map_err(|_| format!("'{text}' is no number: write 100, 5k or 2M"))
        }
        Unit::Text | Unit::Moment => {
            Err("only numbers are more or less: use ':' for text".to_owned())
        }
    }
}

impl Test {
    fn holds<R: Record>(&self, row: &R, now_ms: u64) -> bool {
        match self {
            Self::Word(word) => any_text(row, |text| text.to_lowercase().contains(word.as_str())),
            Self::Regex(regex) => any_text(row, |text| regex.is_match(text)),
            Self::Pattern { key, pattern } => match value(row, key) {
                Some(Value::Text(text)) => pattern.is_match(&text),
                Some(Value::Number(number)) => pattern.is_match(&number.to_string()),
                _ => false,
            },
            Self::Compare {
                key,
                unit,
                how,
                number,
            } => match value(row, key) {
                Some(Value::Number(since_ms)) if *unit == Unit::Age => {
                    how.holds(now_ms.saturating_sub(since_ms), *number)
                }
                Some(Value::Number(value)) => how.holds(value, *number),
                Some(Value::Past(past)) => how.holds(past.last().copied().unwrap_or(0), *number),
                _ => false,
            },
        }
    }
}

fn any_text<R: Record>(row: &R, matches: impl Fn(&str) -> bool) -> bool {
    R::COLUMNS.iter().any(|column| match (column.value)(row) {
        Value::Text(text) => matches(&text),
        _ => false,
    })
}

fn value<'a, R: Record>(row: &'a R, key: &str) -> Option<Value<'a>> {
    let column = R::COLUMNS.iter().find(|column| column.key == key)?;
    Some((column.value)(row))
}

/// What could stand at the end of `text`: keys, or values that the rows have there. At most a few.
pub(crate) fn completions<'a, R: Record>(
    text: &str,
    rows: impl Iterator<Item = &'a R>,
) -> Vec<String> {
    const SHOWN: usize = 8;
    let word = text.rsplit(' ').next().unwrap_or_default();
    let word = word.strip_prefix('-').unwrap_or(word);
    if let Some((key, begun)) = word.split_once(':') {
        let values = rows.filter_map(|row| match value(row, key) {
            Some(Value::Text(text))
                if text.starts_with(begun) && !text.contains(char::is_whitespace) =>
            {
                Some(format!("{key}:{text}"))
            }
            _ => None,
        });
        let distinct: std::collections::BTreeSet<_> = values.collect();
        return distinct.into_iter().take(SHOWN).collect();
    }
    let keys = R::COLUMNS
        .iter()
        .filter(|column| column.key.starts_with(word));
    keys.filter(|column| column.unit != Unit::Past)
        .map(|column| match column.unit {
            Unit::Text | Unit::Moment => format!("{}:", column.key),
            _ => format!("{}>", column.key),
        })
        .take(SHOWN)
        .collect()
}

/// `text` with its last word replaced.
pub(crate) fn completed(text: &str, completion: &str) -> String {
    let start = text.rfind(' ').map_or(0, |space| space + 1);
    let sign = if text[start..].starts_with('-') {
        "-"
    } else {
        ""
    };
    format!("{}{sign}{completion}", &text[..start])
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;

    struct Thing(&'static str, u64, u64);

    impl Record for Thing {
        const COLUMNS: &'static [Column<Self>] = &[
            Column {
                title: "",
                key: "name",
                unit: Unit::Text,
                width: 1,
                rank: 0,
                value: |t| Value::text(t.0),
            },
            Column {
                title: "",
                key: "lat",
                unit: Unit::Micros,
                width: 1,
                rank: 0,
                value: |t| Value::Number(t.1),
            },
            Column {
                title: "",
                key: "bytes",
                unit: Unit::Bytes,
                width: 1,
                rank: 0,
                value: |t| Value::Number(t.2),
            },
        ];

        fn id(&self) -> Cow<'_, str> {
            self.0.into()
        }
    }

    const THINGS: [Thing; 3] = [
        Thing("web-1", 900, 10),
        Thing("web-2", 6000, 2_000_000),
        Thing("job", 20_000, 0),
    ];

    fn shown(text: &str) -> Vec<&'static str> {
        let filter = Filter::parse::<Thing>(text).unwrap();
        let things = THINGS.iter().filter(|thing| filter.lets_through(*thing, 0));
        things.map(|thing| thing.0).collect()
    }

    #[test]
    fn all_terms_have_to_hold() {
        for (text, names) in [
            ("", &["web-1", "web-2", "job"][..]),
            ("WEB", &["web-1", "web-2"]),
            ("name:web*", &["web-1", "web-2"]),
            ("name:web", &[]),
            ("-name:web*", &["job"]),
            ("lat>5ms", &["web-2", "job"]),
            ("lat>5ms web", &["web-2"]),
            ("lat<=900us", &["web-1"]),
            ("bytes>1M", &["web-2"]),
            ("bytes>=0 bytes<11", &["web-1", "job"]),
            ("/^w.b-[2-9]$/", &["web-2"]),
            ("/JOB", &["job"]),
            ("bytes:10", &["web-1"]),
            ("name:*.*", &[]),
        ] {
            assert_eq!(shown(text), names, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_explained() {
        for (text, reason) in [
            (
                "colour:red",
                "no column is called 'colour': there are name, lat, bytes",
            ),
            ("lat>5", "units are needed"),
            ("name>5", "only numbers"),
            ("bytes>x", "is no number"),
            ("name:", "wants something after it"),
            ("/(/", "is no regular expression"),
        ] {
            let error = Filter::parse::<Thing>(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn keys_and_values_are_completed() {
        let complete = |text: &str| completions(text, THINGS.iter());
        assert_eq!(complete("na"), ["name:"]);
        assert_eq!(complete("web l"), ["lat>"]);
        assert_eq!(complete("name:w"), ["name:web-1", "name:web-2"]);
        assert_eq!(completed("lat>5ms -na", "name:"), "lat>5ms -name:");
        assert_eq!(completed("", "name:"), "name:");
    }
}
