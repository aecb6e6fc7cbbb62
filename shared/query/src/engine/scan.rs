//! A scanner that measures a query and finds the first token that cannot stand where it stands.

/// What the scanner saw.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// Most brackets open at once.
    pub(crate) nesting: usize,
    /// Operators, unary ones and set operators included.
    pub(crate) operators: usize,
    /// Whether a string has an escape for a byte that is not ASCII, such as `\xff`. The parser reads it as a character.
    pub(crate) byte_escape: bool,
    /// Byte offset of the first problem and what it is.
    pub(crate) problem: Option<(usize, String)>,
}

/// Words that join two operands.
const JOINING: [&str; 4] = ["and", "or", "unless", "atan2"];
/// Words that may follow an operand, or stand between an operator and its right operand.
const MODIFYING: [&str; 12] =
    ["by", "without", "offset", "bool", "anchored", "on", "ignoring", "group_left", "group_right", "fill", "fill_left", "fill_right"];
/// How many of [`MODIFYING`] come first and have no list before a right operand.
const WITHOUT_LIST: usize = 5;

struct Scanner<'q> {
    query: &'q str,
    open: Vec<Open>,
    /// The next round bracket is the label list of a matching modifier, after which the right operand is still to come.
    modifier_list: bool,
    /// An operand may start here.
    wants_operand: bool,
    /// A closing bracket may stand here although an operand may start.
    may_close: bool,
    seen: Scan,
}

struct Open {
    bracket: u8,
    at: usize,
    modifier_list: bool,
}

/// Scans a query from start to end, or to its first problem and then only for the measures.
pub(crate) fn scan(query: &str) -> Scan {
    let mut scanner =
        Scanner { query, open: Vec::new(), modifier_list: false, wants_operand: true, may_close: false, seen: Scan::default() };
    let mut at = 0;
    while at < query.len() {
        at = scanner.token(at);
    }
    scanner.end();
    scanner.seen
}

impl Scanner<'_> {
    /// Reads one token and returns where the next one starts.
    fn token(&mut self, at: usize) -> usize {
        let bytes = self.query.as_bytes();
        let run = |from: usize, more: fn(u8) -> bool| bytes[from..].iter().position(|b| !more(*b)).map_or(bytes.len(), |n| from + n);
        match bytes[at] {
            b if b.is_ascii_whitespace() => at + 1,
            b'#' => run(at, |b| b != b'\n'),
            b'"' | b'\'' | b'`' => self.string(at),
            b if b.is_ascii_digit() || (b == b'.' && bytes.get(at + 1).is_some_and(u8::is_ascii_digit)) => {
                self.operand(at, "number");
                number_end(bytes, at)
            }
            b if b.is_ascii_alphabetic() || b == b'_' || (b == b':' && !self.in_square_brackets()) => {
                let end = run(at, |b| b.is_ascii_alphanumeric() || b == b'_' || b == b':');
                self.word(at, &self.query[at..end]);
                end
            }
            b @ (b'(' | b'[' | b'{') => {
                self.opens(b, at);
                at + 1
            }
            b @ (b')' | b']' | b'}') => {
                self.closes(b, at);
                at + 1
            }
            b',' => {
                (self.wants_operand, self.may_close) = (true, true);
                at + 1
            }
            b':' => at + 1,
            b'@' => {
                self.wants_operand = true;
                at + 1
            }
            b'+' | b'-' | b'*' | b'/' | b'%' | b'^' | b'=' | b'!' | b'<' | b'>' | b'~' => self.operator(at),
            _ => {
                let character = self.query[at..].chars().next().unwrap_or(' ');
                self.report(at, format!("unexpected character {character:?}"));
                at + character.len_utf8()
            }
        }
    }

    fn in_square_brackets(&self) -> bool {
        self.open.last().is_some_and(|o| o.bracket == b'[')
    }

    fn in_braces(&self) -> bool {
        self.open.last().is_some_and(|o| o.bracket == b'{')
    }

    fn report(&mut self, at: usize, what: String) {
        self.seen.problem.get_or_insert((at, what));
    }

    fn operand(&mut self, at: usize, what: &str) {
        if !self.wants_operand && !self.in_braces() && !self.in_square_brackets() {
            self.report(at, format!("unexpected {what}"));
        }
        self.wants_operand = false;
    }

    fn word(&mut self, at: usize, word: &str) {
        let lower = word.to_ascii_lowercase();
        if self.in_braces() {
            self.wants_operand = false;
        } else if JOINING.contains(&lower.as_str()) && !self.wants_operand {
            self.seen.operators += 1;
            (self.wants_operand, self.may_close) = (true, false);
        } else if let Some(which) = MODIFYING.iter().position(|m| *m == lower) {
            self.wants_operand = true;
            self.modifier_list = which >= WITHOUT_LIST;
        } else {
            self.operand(at, &format!("identifier {word:?}"));
            self.modifier_list = false;
        }
    }

    fn operator(&mut self, at: usize) -> usize {
        let text =
            ["==", "!=", "<=", ">=", "=~", "!~"].into_iter().find(|op| self.query[at..].starts_with(op)).unwrap_or(&self.query[at..=at]);
        if self.in_braces() {
            return at + text.len();
        }
        self.seen.operators += 1;
        if self.wants_operand && !matches!(text, "+" | "-") {
            self.report(at, format!("unexpected {text:?}"));
        }
        (self.wants_operand, self.may_close) = (true, false);
        at + text.len()
    }

    /// Reads a string to its closing quote.
    fn string(&mut self, at: usize) -> usize {
        let bytes = self.query.as_bytes();
        let quote = bytes[at];
        self.operand(at, "string");
        let mut end = at + 1;
        while end < bytes.len() {
            match bytes[end] {
                b'\\' if quote != b'`' => {
                    self.seen.byte_escape |= escapes_byte(&bytes[end + 1..]);
                    end += 1;
                }
                b if b == quote => return end + 1,
                _ => {}
            }
            end += 1;
        }
        self.report(at, "unterminated quoted string".to_owned());
        bytes.len()
    }

    fn opens(&mut self, bracket: u8, at: usize) {
        self.open.push(Open { bracket, at, modifier_list: std::mem::take(&mut self.modifier_list) && bracket == b'(' });
        self.seen.nesting = self.seen.nesting.max(self.open.len());
        (self.wants_operand, self.may_close) = (true, true);
    }

    fn closes(&mut self, bracket: u8, at: usize) {
        let text = char::from(bracket);
        let partner = match bracket {
            b')' => b'(',
            b']' => b'[',
            _ => b'{',
        };
        let opened = self.open.pop();
        match &opened {
            Some(open) if open.bracket == partner => {
                if self.wants_operand && !self.may_close && partner == b'(' {
                    self.report(at, format!("unexpected \"{text}\""));
                }
            }
            Some(open) => {
                self.report(at, format!("unexpected \"{text}\", \"{}\" at byte {} is not closed", char::from(open.bracket), open.at))
            }
            None => self.report(at, format!("unexpected \"{text}\"")),
        }
        (self.wants_operand, self.may_close) = (opened.is_some_and(|o| o.modifier_list), false);
    }

    fn end(&mut self) {
        if let Some(Open { bracket, at, .. }) = self.open.pop() {
            self.report(self.query.len(), format!("unexpected end of input, \"{}\" at byte {at} is not closed", char::from(bracket)));
        } else if self.wants_operand {
            self.report(self.query.len(), "unexpected end of input".to_owned());
        }
    }
}

/// Whether what follows a backslash is a byte of 128 or more in hexadecimal or octal.
fn escapes_byte(after: &[u8]) -> bool {
    matches!(after, [b'x' | b'X', b'8'..=b'9' | b'a'..=b'f' | b'A'..=b'F', ..] | [b'2'..=b'3', b'0'..=b'7', b'0'..=b'7', ..])
}

/// Where a number or duration that starts at `at` ends; `1e-3` has its sign inside.
fn number_end(bytes: &[u8], at: usize) -> usize {
    let mut end = at;
    while end < bytes.len() {
        let b = bytes[end];
        let hexadecimal = bytes[at..end].starts_with(b"0x") || bytes[at..end].starts_with(b"0X");
        let exponent_sign = matches!(b, b'+' | b'-') && matches!(bytes[end - 1], b'e' | b'E') && !hexadecimal;
        if !(b.is_ascii_alphanumeric() || b == b'.' || b == b'_' || (end > at && exponent_sign)) {
            break;
        }
        end += 1;
    }
    end
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn valid_queries_have_no_problem() {
        for query in [
            "sum by (pop) (rate(if_in_octets{device=~\"sw.*\",if_name!=\"\"}[5m] offset -1h @ end())) / on(pop) group_left(a, b) foo > bool 1e-3",
            "time()",
            "a:b{} and on() b unless c or d atan2 e",
            "sum(foo) by (pop) # comment )))",
            "foo[5m:] + foo[5m:30s] @ 12.5 + -1 ^ +2",
            "{__name__=~\".+\",}",
            "topk(5, foo) == Inf",
            "label_replace(a, \"b\", '$1', `c\\`, \"(.*)\")",
        ] {
            assert_eq!(scan(query).problem, None, "{query}");
        }
        assert_eq!(scan("1 + -2 and 3").operators, 3);
        assert_eq!(scan("((a[5m]))").nesting, 3);
        for (query, escape) in [("\"\\xff\"", true), ("'\\377'", true), ("`\\xff`", false), ("\"\\x41\\101\\u00e9\"", false)] {
            assert_eq!(scan(query).byte_escape, escape, "{query}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_scanned(text in "\\PC{0,60}") {
            scan(&text);
        }

        #[test]
        fn any_soup_of_tokens_is_parsed_or_refused(parts in prop::collection::vec(prop::sample::select(vec![
            "foo", "(", ")", "[", "]", "{", "}", "5m", "1e400", "0", "-", "+", "sum", "rate", "by", "offset", "@", "a=\"b\"", ",", "or", "^", "NaN", "\"x\"", ":", "start()", "99999999999y", "0x", "é",
        ]), 0..12), glue in prop::sample::select(vec!["", " "])) {
            let _ = super::super::syntax::parse(&parts.join(glue));
        }
    }
}
