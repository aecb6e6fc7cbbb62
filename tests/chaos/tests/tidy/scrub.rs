//! Rust source without its comments and the contents of its literals, line by line as before.
//!
//! A scanner, not a parser: it knows line and nested block comments, strings with escapes, raw strings and character
//! literals, and tells the latter from lifetimes.

/// Blanks comments and literal contents; line breaks stay where they are.
pub(crate) fn scrub(source: &str) -> String {
    let chars: Vec<char> = source.chars().collect();
    let mut out = String::with_capacity(source.len());
    let mut at = 0;
    while at < chars.len() {
        let rest = &chars[at..];
        let length = match rest {
            ['/', '/', ..] => rest.iter().position(|c| *c == '\n').unwrap_or(rest.len()),
            ['/', '*', ..] => block_comment(rest),
            ['"', ..] => string(rest),
            ['r', '"' | '#', ..] if !continues_a_name(&chars, at) => raw_string(rest).unwrap_or(0),
            ['\'', '\\', ..] => rest.iter().skip(3).position(|c| *c == '\'').map_or(rest.len(), |end| end + 4),
            ['\'', _, '\'', ..] => 3,
            _ => 0,
        };
        if length == 0 {
            out.push(rest[0]);
            at += 1;
        } else {
            out.push(' ');
            out.extend(rest[..length].iter().filter(|c| **c == '\n'));
            at += length;
        }
    }
    out
}

fn continues_a_name(chars: &[char], at: usize) -> bool {
    // `br"..."` is a raw string too.
    at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_') && chars[at - 1] != 'b'
}

fn block_comment(rest: &[char]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match rest[at..] {
            ['/', '*', ..] => (depth, at) = (depth + 1, at + 2),
            ['*', '/', ..] => {
                (depth, at) = (depth - 1, at + 2);
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    at
}

fn string(rest: &[char]) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != '"' {
        at += if rest[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

fn raw_string(rest: &[char]) -> Option<usize> {
    let hashes = rest[1..].iter().take_while(|c| **c == '#').count();
    if rest.get(1 + hashes) != Some(&'"') {
        return None;
    }
    let body = 2 + hashes;
    let end =
        (body..rest.len()).find(|end| rest[*end] == '"' && rest[end + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes)?;
    Some(end + 1 + hashes)
}

/// Whether a name stands in scrubbed code as a word of its own.
pub(crate) fn names(code: &str, word: &str) -> bool {
    let part_of_name = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back().is_some_and(part_of_name);
        let after = code[at + word.len()..].chars().next().is_some_and(part_of_name);
        !before && !after
    })
}

#[test]
fn comments_and_literals_vanish_and_code_stays() {
    let source = "let a = \"sled // \\\" x\"; // sled\n/* sled /* nested */ sled */ fn f<'a>(c: &'a str) { r#\"sled \" sled\"#; 's'; '\\''; b\"sled\"; } sled::open()";
    let code = scrub(source);
    assert_eq!(code.matches("sled").count(), 1, "{code}");
    assert!(code.contains("fn f<'a>(c: &'a str)") && code.contains("sled::open()"), "{code}");
    assert_eq!(code.lines().count(), source.lines().count());
    assert!(names("use sled;", "sled") && !names("assembled", "sled") && !names("store_sled", "sled"));
}
