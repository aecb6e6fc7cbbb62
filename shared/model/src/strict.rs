//! Strict TOML for configuration files: an unknown key is an error with its place and the key that was probably meant.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

/// What is wrong with a TOML text: `file:line:column: message`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}:{line}:{column}: {message}", path.display())]
pub struct StrictError {
    /// The file.
    pub path: PathBuf,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong, with a suggestion where there is one.
    pub message: String,
}

/// Reads `text` as a `T`, whose structs deny unknown fields. `path` is for messages.
///
/// # Errors
/// Syntax, an unknown key, a missing key, or a value that does not fit.
pub fn from_toml<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T, StrictError> {
    toml::from_str(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start).min(text.len());
        let before = &text[..text.floor_char_boundary(at)];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().map_or(0, |tail| tail.chars().count()) + 1;
        let message = error.message().trim();
        let suggestion = suggestion(message).map(|key| format!("; did you mean `{key}`?")).unwrap_or_default();
        StrictError { path: path.to_owned(), line, column, message: format!("{message}{suggestion}") }
    })
}

/// The expected key nearest to the unknown one, read out of serde's message "unknown field `x`, expected one of `a`, `b`".
fn suggestion(message: &str) -> Option<String> {
    let rest = message.strip_prefix("unknown field ")?;
    let mut quoted = rest.split('`').skip(1).step_by(2);
    let found = quoted.next()?;
    let near = quoted.map(|key| (strsim::damerau_levenshtein(found, key), key)).min()?;
    (near.0 <= 1 + found.len() / 3).then(|| near.1.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        #[expect(dead_code, reason = "only read by serde")]
        agent: Agent,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only read by serde")]
    struct Agent {
        data_dir: String,
        name: String,
    }

    #[test]
    fn what_is_wrong_has_a_place_and_a_suggestion() {
        let error = |text: &str| from_toml::<File>(Path::new("a.toml"), text).unwrap_err().to_string();
        let typo = error("[agent]\nname = \"é\"\n  data_dri = \"x\"\n");
        assert_eq!(typo, "a.toml:3:3: unknown field `data_dri`, expected `data_dir` or `name`; did you mean `data_dir`?");
        assert_eq!(error("[agent]\nname = 5\ndata_dir = \"x\"\n"), "a.toml:2:8: invalid type: integer `5`, expected a string");
        assert_eq!(error("[agent]\nname = \"x\"\n"), "a.toml:1:1: missing field `data_dir`");
        let far = error("[agent]\nzzzzzzzz = 1\n");
        assert_eq!(far, "a.toml:2:1: unknown field `zzzzzzzz`, expected `data_dir` or `name`");
        assert!(error("[agent\n").starts_with("a.toml:1:7: "));
    }
}
