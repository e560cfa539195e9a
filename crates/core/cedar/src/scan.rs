//! A first look at a policy text, before any parser: where each policy begins, and whether the text
//! stays within bounds that keep everything recursive, from the parser to the evaluator, far from the
//! end of its stack.
//!
//! It knows three things of the language: comments, strings and brackets. A text that fools it is
//! refused later, because the parser then finds another number of policies.

use crate::fault::{Fault, FaultKind, Place};

/// The most that a set may be.
///
/// A policy's expression is at most about as deep as it has steps, so the last two bounds keep every
/// recursion over it shallow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the whole text.
    pub bytes: usize,
    /// Policies, the built-in ones not counted.
    pub policies: usize,
    /// Bytes of one policy.
    pub policy_bytes: usize,
    /// Operators, member accesses and opened brackets of one policy.
    pub steps: usize,
    /// Brackets open at once, plus `if`s, of one policy.
    pub nesting: usize,
    /// Policies with one and the same scope: all of them are evaluated for each request that it fits.
    pub same_scope: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes: 16 * 1024 * 1024,
            policies: 20_000,
            policy_bytes: 64 * 1024,
            steps: 96,
            nesting: 24,
            same_scope: 256,
        }
    }
}

/// Lines of a text, to say where a byte of it is.
pub(crate) struct Lines<'a> {
    text: &'a str,
    /// The offset at which each line begins.
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    pub(crate) fn of(text: &'a str) -> Self {
        let starts = std::iter::once(0)
            .chain(text.match_indices('\n').map(|(at, _)| at.saturating_add(1)))
            .collect();
        Self { text, starts }
    }

    /// Line and column, both from 1; a column is a character, not a byte.
    pub(crate) fn place(&self, offset: usize) -> Place {
        let line = self.starts.partition_point(|start| *start <= offset);
        let start = line
            .checked_sub(1)
            .and_then(|line| self.starts.get(line))
            .copied()
            .unwrap_or_default();
        let before = self.text.get(start..offset).unwrap_or_default();
        Place {
            line: line.max(1),
            column: before.chars().count().saturating_add(1),
        }
    }
}

/// Where each policy begins: the offset of its first byte that is neither space nor comment.
pub(crate) fn scan(text: &str, lines: &Lines<'_>, limits: &Limits) -> Result<Vec<usize>, Fault> {
    let too = |offset, kind, message, remedy: &'static str| {
        Fault::new(lines.place(offset), kind, message).with_remedy(remedy)
    };
    if text.len() > limits.bytes {
        return Err(too(
            0,
            FaultKind::TooLong,
            format!(
                "the set has {} bytes, and {} are allowed",
                text.len(),
                limits.bytes
            ),
            "say the same with fewer policies: name teams and kinds of tasks instead of single agents",
        ));
    }
    let mut starts = Vec::new();
    let mut policy: Option<Open> = None;
    for token in Tokens::of(text) {
        let open = policy.get_or_insert_with(|| {
            starts.push(token.at);
            Open::at(token.at)
        });
        if starts.len() > limits.policies {
            return Err(too(
                token.at,
                FaultKind::TooMany,
                format!("there are more than {} policies", limits.policies),
                "say the same with fewer policies: name teams and kinds of tasks instead of single agents",
            ));
        }
        open.take(&token);
        if open.nesting() > limits.nesting {
            return Err(too(
                token.at,
                FaultKind::TooDeep,
                format!(
                    "more than {} brackets and ifs in each other",
                    limits.nesting
                ),
                "make it several policies: each `permit` is one more way to be allowed",
            ));
        }
        if open.steps > limits.steps {
            return Err(too(
                open.start,
                FaultKind::TooDeep,
                format!(
                    "the policy has more than {} operators and brackets",
                    limits.steps
                ),
                "make it several policies, or name the values in a set and ask `contains`",
            ));
        }
        if token.at.saturating_sub(open.start) > limits.policy_bytes {
            return Err(too(
                open.start,
                FaultKind::TooLong,
                format!("the policy has more than {} bytes", limits.policy_bytes),
                "make it several policies",
            ));
        }
        if token.kind == Kind::Other(';') && open.depth == 0 {
            policy = None;
        }
    }
    Ok(starts)
}

/// The policy that is being read.
struct Open {
    start: usize,
    depth: usize,
    ifs: usize,
    steps: usize,
}

impl Open {
    fn at(start: usize) -> Self {
        Self {
            start,
            depth: 0,
            ifs: 0,
            steps: 0,
        }
    }

    fn take(&mut self, token: &Token) {
        match token.kind {
            Kind::Other('(' | '[' | '{') => {
                self.depth = self.depth.saturating_add(1);
                self.steps = self.steps.saturating_add(1);
            }
            Kind::Other(')' | ']' | '}') => self.depth = self.depth.saturating_sub(1),
            Kind::Other('&' | '|' | '.' | '!' | '-' | '+' | '*' | '<' | '>' | '=') | Kind::Step => {
                self.steps = self.steps.saturating_add(1);
            }
            Kind::If => {
                self.ifs = self.ifs.saturating_add(1);
                self.steps = self.steps.saturating_add(1);
            }
            Kind::Other(_) | Kind::Text | Kind::Word => {}
        }
    }

    fn nesting(&self) -> usize {
        self.depth.saturating_add(self.ifs)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A string literal, whole.
    Text,
    /// `if`
    If,
    /// A word that makes an expression deeper.
    Step,
    /// Any other word, or a number.
    Word,
    /// A mark; of two equal ones side by side (`&&`), one.
    Other(char),
}

struct Token {
    at: usize,
    kind: Kind,
}

struct Tokens<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Tokens<'a> {
    fn of(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn skip(&mut self, bytes: usize) {
        self.at = self.at.saturating_add(bytes);
    }

    /// The length of the string literal at the beginning of `rest`, quotes included. One that is not
    /// closed reaches to the end; the parser will say so.
    fn text_len(rest: &str) -> usize {
        let mut escaped = false;
        for (at, letter) in rest.char_indices().skip(1) {
            match letter {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '"' => return at.saturating_add(1),
                _ => {}
            }
        }
        rest.len()
    }
}

impl Iterator for Tokens<'_> {
    type Item = Token;

    fn next(&mut self) -> Option<Token> {
        loop {
            let rest = self.rest();
            let first = rest.chars().next()?;
            if first.is_whitespace() {
                self.skip(first.len_utf8());
                continue;
            }
            if rest.starts_with("//") {
                self.skip(rest.find(['\n', '\r']).unwrap_or(rest.len()));
                continue;
            }
            let at = self.at;
            let (len, kind) = if first == '"' {
                (Self::text_len(rest), Kind::Text)
            } else if is_word(first) {
                let len = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
                let kind = match rest.get(..len) {
                    Some("if") => Kind::If,
                    Some("has" | "in" | "like" | "is") => Kind::Step,
                    _ => Kind::Word,
                };
                (len, kind)
            } else {
                let second = rest.chars().nth(1);
                let twice = matches!(first, '&' | '|' | '=') && second == Some(first);
                let len = first.len_utf8();
                let len = if twice { len.saturating_mul(2) } else { len };
                (len, Kind::Other(first))
            };
            self.skip(len);
            return Some(Token { at, kind });
        }
    }
}

fn is_word(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || letter == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[usize]) {
        let found = scan(text, &Lines::of(text), &Limits::default()).unwrap();
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn each_policy_is_found_where_it_begins() {
        check("", &[]);
        check("// nothing; but words\n", &[]);
        check("permit(a);forbid(b);", &[0, 10]);
        check("  // x;\n @id(\"a;\") permit(a);\n\npermit(b);", &[9, 31]);
        check("permit(a) when { \"\\\";\" == \";\" };x", &[0, 32]);
        check("permit(a", &[0]);
    }

    #[test]
    fn bounds_are_of_one_policy_and_say_where() {
        let limits = Limits {
            steps: 3,
            nesting: 2,
            policies: 2,
            bytes: 60,
            policy_bytes: 40,
            same_scope: 1,
        };
        let check = |text: &str, kind: FaultKind, place: (usize, usize)| {
            let fault = scan(text, &Lines::of(text), &limits).unwrap_err();
            assert_eq!(fault.kind, kind, "{text}");
            let (line, column) = place;
            assert_eq!(fault.place, Place { line, column }, "{text}");
            assert!(!fault.remedy.is_empty());
        };
        check("a;\nb;\nc;", FaultKind::TooMany, (3, 1));
        check("a;\n ((([;", FaultKind::TooDeep, (2, 4));
        check("if if if", FaultKind::TooDeep, (1, 7));
        check("x && y && z || é == a;", FaultKind::TooDeep, (1, 1));
        check(&"x ".repeat(31), FaultKind::TooLong, (1, 1));
        check(
            &format!("a;\n{}", "x ".repeat(25)),
            FaultKind::TooLong,
            (2, 1),
        );
    }

    #[test]
    fn a_column_is_a_character() {
        let text = "é\nüb";
        let place = Lines::of(text).place(text.find('b').unwrap());
        assert_eq!(place, Place { line: 2, column: 2 });
    }
}
