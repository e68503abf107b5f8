//! How people and programs spell names and statuses, and what they mean by it.

use std::borrow::Cow;

use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

use super::Status;

/// How alike two words are (Jaro and Winkler, 1 is equal) from which on one may be meant by the other.
const ALIKE_MIN: f64 = 0.8;
/// Longest word that is compared with others, in bytes.
const NEAREST_BYTES_MAX: usize = 32;

/// What a status is called, beside its own name; in lower case, words joined by `_`.
pub(crate) const STATUS_SYNONYMS: [(Status, &[&str]); 6] = [
    (
        Status::Success,
        &[
            "succeeded",
            "successful",
            "completed",
            "complete",
            "done",
            "ok",
            "okay",
            "passed",
            "pass",
        ],
    ),
    (
        Status::Partial,
        &["partially", "partial_success", "partially_successful", "partially_completed"],
    ),
    (
        Status::Failure,
        &["failed", "fail", "error", "errored", "exception", "crash", "crashed", "unsuccessful"],
    ),
    (Status::Timeout, &["timed_out", "timedout", "time_out", "deadline_exceeded"]),
    (Status::Cancelled, &["canceled", "cancel", "aborted", "abort", "skipped"]),
    (Status::Pending, &["running", "in_progress", "queued", "started", "waiting", "scheduled"]),
];

/// A name as it is kept: without the blanks at its ends, in Unicode's composed form (NFC). Two spellings
/// that nobody can tell apart are one name.
pub fn tidy(name: &str) -> Cow<'_, str> {
    let name = name.trim_matches(is_blank);
    match is_nfc_quick(name.chars()) {
        IsNormalized::Yes => Cow::Borrowed(name),
        IsNormalized::No | IsNormalized::Maybe => Cow::Owned(name.nfc().collect()),
    }
}

/// White space, and what takes no room at all: a zero-width space, a word joiner, a byte order mark.
pub(crate) fn is_blank(character: char) -> bool {
    character.is_whitespace() || matches!(character, '\u{200b}' | '\u{2060}' | '\u{feff}')
}

/// The status that a word stands for: whatever its case, however its words are joined.
pub(super) fn status_of(word: &str) -> Option<Status> {
    let exact = Status::ALL.into_iter().find(|status| status.as_str() == word);
    exact.or_else(|| {
        let word = plain(word);
        let (status, _) = status_words().find(|(_, name)| *name == word)?;
        Some(status)
    })
}

/// The status whose name or synonym is most like a word that is none.
pub(super) fn nearest_status(word: &str) -> Option<Status> {
    let word = plain(word);
    let nearest = nearest(&word, status_words().map(|(_, name)| name))?;
    status_words().find(|(_, name)| *name == nearest).map(|(status, _)| status)
}

fn status_words() -> impl Iterator<Item = (Status, &'static str)> {
    STATUS_SYNONYMS.into_iter().flat_map(|(status, synonyms)| {
        std::iter::once(status.as_str())
            .chain(synonyms.iter().copied())
            .map(move |name| (status, name))
    })
}

/// In lower case, without blanks at the ends, `_` in the place of blanks and dashes.
fn plain(word: &str) -> String {
    let word = word.trim_matches(is_blank).to_lowercase();
    word.chars()
        .map(|character| if is_blank(character) || character == '-' { '_' } else { character })
        .collect()
}

/// The one of `names` that is most like `word`, if one is like it at all.
pub(crate) fn nearest<'a>(word: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // Nobody means a name by so long a word, and comparing takes time.
    if word.len() > NEAREST_BYTES_MAX {
        return None;
    }
    let alike = names.map(|name| (strsim::jaro_winkler(word, name), name));
    let (best, name) = alike.max_by(|(a, _), (b, _)| a.total_cmp(b))?;
    (best >= ALIKE_MIN).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_call_the_six_statuses_is_understood() {
        #[track_caller]
        fn check(word: &str, status: Option<Status>) {
            assert_eq!(status_of(word), status, "{word:?}");
        }
        for status in Status::ALL {
            check(status.as_str(), Some(status));
            check(&status.as_str().to_uppercase(), Some(status));
            check(&format!(" {}\n", status.as_str()), Some(status));
        }
        for (status, synonyms) in STATUS_SYNONYMS {
            for synonym in synonyms {
                check(synonym, Some(status));
                check(&synonym.replace('_', " ").to_uppercase(), Some(status));
                check(&synonym.replace('_', "-"), Some(status));
            }
        }
        for none in ["", " ", "nonsense", "succes", "unknown", "0", "1", "true", "success!"] {
            check(none, None);
        }
    }

    #[test]
    fn the_documentation_names_every_synonym() {
        let readme = include_str!("README.md");
        for (status, synonyms) in STATUS_SYNONYMS {
            let synonyms: Vec<String> = synonyms.iter().map(|word| format!("`{word}`")).collect();
            let row = format!("| `{}` | {} |", status.as_str(), synonyms.join(", "));
            assert!(readme.contains(&row), "{row}");
        }
    }

    #[test]
    fn no_word_stands_for_two_statuses() {
        let mut words: Vec<&str> = status_words().map(|(_, name)| name).collect();
        words.sort_unstable();
        let all = words.len();
        words.dedup();
        assert_eq!(words.len(), all);
    }

    #[test]
    fn a_misspelt_status_is_given_its_nearest() {
        #[track_caller]
        fn check(word: &str, status: Option<Status>) {
            assert_eq!(nearest_status(word), status, "{word:?}");
        }
        check("sucess", Some(Status::Success));
        check("Faild", Some(Status::Failure));
        check("time out ", Some(Status::Timeout));
        check("cancelld", Some(Status::Cancelled));
        check("xyz", None);
        check("", None);
        check(&"x".repeat(1_000_000), None);
    }

    #[test]
    fn names_lose_their_outer_blanks_and_are_composed() {
        #[track_caller]
        fn check(name: &str, kept: &str) {
            assert_eq!(tidy(name), kept, "{name:?}");
            assert_eq!(tidy(kept), kept, "what is tidy stays as it is");
        }
        check("a", "a");
        check("  a b\t\n", "a b");
        check("\u{a0}\u{feff}a\u{200b}", "a");
        check("e\u{301}", "é");
        check("é", "é");
        // The angstrom sign has no other composed form than the letter.
        check("\u{212b}", "Å");
        check("\u{1f468}\u{200d}\u{1f469}", "\u{1f468}\u{200d}\u{1f469}");
        check(" \u{3000}\u{200b} ", "");
    }
}
