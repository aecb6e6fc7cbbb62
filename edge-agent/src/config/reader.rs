//! Strict reading of TOML: every key is asked for by name, and what nobody asked for is a problem.
//!
//! Collects all problems of a file, each with the line and column of the offending key or value, instead of stopping at the first.

use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use anemone_model::Name;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::units::{self, ByteSize};

/// Something wrong with a config, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong.
    pub text: String,
}

/// A value as it may stand in a config.
pub(super) trait Field: Sized {
    /// What is expected, for the error.
    const EXPECTED: &'static str;
    /// The value, or why it is none; `None` for a value of another type.
    fn read(value: &DeValue<'_>) -> Option<Result<Self, String>>;
}

impl Field for String {
    const EXPECTED: &'static str = "a string";
    fn read(value: &DeValue<'_>) -> Option<Result<Self, String>> {
        Some(if value.as_str()?.is_empty() { Err("must not be empty".into()) } else { Ok(value.as_str()?.to_owned()) })
    }
}

impl Field for PathBuf {
    const EXPECTED: &'static str = "a path in quotes";
    fn read(value: &DeValue<'_>) -> Option<Result<Self, String>> {
        String::read(value).map(|text| text.map(Self::from))
    }
}

impl Field for Name {
    const EXPECTED: &'static str = "a name in quotes";
    fn read(value: &DeValue<'_>) -> Option<Result<Self, String>> {
        Some(value.as_str()?.parse().map_err(|e: anemone_model::NameError| e.to_string()))
    }
}

impl Field for SocketAddr {
    const EXPECTED: &'static str = "an address and port in quotes, such as \"127.0.0.1:9180\"";
    fn read(value: &DeValue<'_>) -> Option<Result<Self, String>> {
        let text = value.as_str()?;
        Some(text.parse().map_err(|_| format!("{text:?} is not an address and port, such as \"127.0.0.1:9180\" or \"[::1]:9180\"")))
    }
}

impl Field for ByteSize {
    const EXPECTED: &'static str = "a size in quotes, such as \"256MiB\"";
    fn read(value: &DeValue<'_>) -> Option<Result<Self, String>> {
        Some(value.as_str()?.parse())
    }
}

impl Field for Duration {
    const EXPECTED: &'static str = "a duration in quotes, such as \"10s\"";
    fn read(value: &DeValue<'_>) -> Option<Result<Self, String>> {
        Some(units::duration(value.as_str()?))
    }
}

impl Field for u64 {
    const EXPECTED: &'static str = "a whole number";
    fn read(value: &DeValue<'_>) -> Option<Result<Self, String>> {
        let number = value.as_integer()?;
        let digits = number.as_str();
        Some(Self::from_str_radix(digits, number.radix()).map_err(|_| format!("{digits} is not a whole number from 0 to {}", Self::MAX)))
    }
}

/// The text being read and what was found wrong so far.
pub(super) struct Document<'t> {
    text: &'t str,
    problems: Vec<Problem>,
}

impl<'t> Document<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self { text, problems: Vec::new() }
    }

    /// Notes a problem at a byte offset.
    pub(super) fn problem(&mut self, at: usize, text: impl Into<String>) {
        let before = &self.text[..self.text.floor_char_boundary(at.min(self.text.len()))];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
        self.problems.push(Problem { line, column, text: text.into() });
    }

    /// All problems in order of place.
    pub(super) fn into_problems(mut self) -> Vec<Problem> {
        self.problems.sort_by_key(|p| (p.line, p.column));
        self.problems
    }
}

/// One table of the document, and which keys were asked for.
pub(super) struct Section<'d> {
    path: String,
    table: Option<&'d DeTable<'d>>,
    at: usize,
    asked: Vec<&'static str>,
}

impl<'d> Section<'d> {
    /// The document itself.
    pub(super) fn root(table: &'d Spanned<DeTable<'d>>) -> Self {
        Self { path: String::new(), table: Some(table.get_ref()), at: 0, asked: Vec::new() }
    }

    /// How a key of this section is called in a message.
    fn name(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    fn entry(&mut self, key: &'static str) -> Option<&'d Spanned<DeValue<'d>>> {
        self.asked.push(key);
        self.table?.get(key)
    }

    /// The table `key`; one that is absent reads as empty and its required keys are reported at this section.
    pub(super) fn table(&mut self, key: &'static str, document: &mut Document<'_>) -> Section<'d> {
        let (path, at) = (self.name(key), self.at);
        let found = self.entry(key);
        if let Some(value) = found
            && value.get_ref().as_table().is_none()
        {
            document.problem(value.span().start, format!("\"{path}\" must be a table, [{path}]"));
        }
        let span = found.map_or(at, |value| value.span().start);
        Section { path, table: found.and_then(|value| value.get_ref().as_table()), at: span, asked: Vec::new() }
    }

    /// The array of tables `key`, empty where absent.
    pub(super) fn tables(&mut self, key: &'static str, document: &mut Document<'_>) -> Vec<Section<'d>> {
        let path = self.name(key);
        let Some(found) = self.entry(key) else { return Vec::new() };
        let bad = |document: &mut Document<'_>, span: Range<usize>| {
            document.problem(span.start, format!("\"{path}\" must be an array of tables, [[{path}]]"));
        };
        let Some(array) = found.get_ref().as_array() else {
            bad(document, found.span());
            return Vec::new();
        };
        let mut sections = Vec::new();
        for element in array.iter() {
            match element.get_ref().as_table() {
                Some(table) => {
                    sections.push(Section { path: path.clone(), table: Some(table), at: element.span().start, asked: Vec::new() });
                }
                None => bad(document, element.span()),
            }
        }
        sections
    }

    /// The value of `key` if it is there and valid, with its byte offset.
    pub(super) fn optional<T: Field>(&mut self, key: &'static str, document: &mut Document<'_>) -> Option<(T, usize)> {
        let name = self.name(key);
        let value = self.entry(key)?;
        let at = value.span().start;
        match T::read(value.get_ref()) {
            Some(Ok(read)) => return Some((read, at)),
            Some(Err(why)) => document.problem(at, format!("\"{name}\": {why}")),
            None => document.problem(at, format!("\"{name}\" must be {}, not {}", T::EXPECTED, article(value.get_ref().type_str()))),
        }
        None
    }

    /// The value of `key`, or `default` where it is absent; `check` says what is wrong with a value that is there.
    pub(super) fn or<T: Field>(
        &mut self,
        key: &'static str,
        default: T,
        document: &mut Document<'_>,
        check: impl FnOnce(&T) -> Option<String>,
    ) -> T {
        let name = self.name(key);
        let Some((value, at)) = self.optional(key, document) else { return default };
        if let Some(why) = check(&value) {
            document.problem(at, format!("\"{name}\": {why}"));
        }
        value
    }

    /// The value of `key`, which must be there.
    pub(super) fn required<T: Field>(&mut self, key: &'static str, document: &mut Document<'_>) -> Option<T> {
        self.required_checked(key, document, |_| None)
    }

    /// The value of `key`, which must be there; `check` says what is wrong with it.
    pub(super) fn required_checked<T: Field>(
        &mut self,
        key: &'static str,
        document: &mut Document<'_>,
        check: impl FnOnce(&T) -> Option<String>,
    ) -> Option<T> {
        let name = self.name(key);
        let present = self.table.is_some_and(|table| table.contains_key(key));
        if !present {
            document.problem(self.at, format!("\"{name}\" is missing: {} is required", T::EXPECTED));
        }
        let (value, at) = self.optional(key, document)?;
        if let Some(why) = check(&value) {
            document.problem(at, format!("\"{name}\": {why}"));
        }
        Some(value)
    }

    /// Reports every key that was not asked for.
    pub(super) fn finish(self, document: &mut Document<'_>) {
        for (key, _) in self.table.into_iter().flat_map(DeTable::iter) {
            let found: &str = key.get_ref();
            if !self.asked.contains(&found) {
                let text = format!("unknown key \"{}\"{}", self.name(found), suggestion(found, &self.asked));
                document.problem(key.span().start, text);
            }
        }
    }
}

fn article(kind: &str) -> String {
    let an = kind.starts_with(['a', 'e', 'i', 'o', 'u']);
    format!("{} {kind}", if an { "an" } else { "a" })
}

/// `; did you mean "x"?`, or what there is to choose from.
fn suggestion(found: &str, known: &[&str]) -> String {
    let best = known.iter().map(|known| (strsim::damerau_levenshtein(found, known), *known)).min();
    match best {
        Some((distance, known)) if distance <= 2.max(found.chars().count() / 3) => format!("; did you mean \"{known}\"?"),
        _ => format!("; known here: {}", known.join(", ")),
    }
}
