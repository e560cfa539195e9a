//! Readers: how the value of a key becomes a type.

use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::fault::{FaultKind, nearest};
use crate::duration::{self as durations, Shown};

/// Turns a written value into a `T`, and knows the words for what it takes.
pub struct Reader<'a, T> {
    pub(super) expects: String,
    /// Whether the value must not be shown when it is at fault.
    pub(super) secret: bool,
    read: Box<Read<'a, T>>,
}

type Read<'a, T> = dyn Fn(&Value<'_>) -> Result<T, Vec<Problem>> + 'a;

/// A value as it was written.
pub struct Value<'d>(pub(super) &'d toml_edit::Value);

impl Value<'_> {
    /// The text, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        self.0.as_str()
    }

    /// What TOML calls its type, with an article.
    pub(super) fn type_name(&self) -> &'static str {
        match self.0 {
            toml_edit::Value::String(_) => "a string",
            toml_edit::Value::Integer(_) => "an integer",
            toml_edit::Value::Float(_) => "a float",
            toml_edit::Value::Boolean(_) => "a boolean",
            toml_edit::Value::Datetime(_) => "a date",
            toml_edit::Value::Array(_) => "a list",
            toml_edit::Value::InlineTable(_) => "a table",
        }
    }
}

/// What a reader has against a value.
#[derive(Clone, Debug)]
pub struct Problem {
    pub(super) kind: FaultKind,
    pub(super) message: String,
    /// Where in the file, if not the whole value.
    pub(super) span: Option<Range<usize>>,
    /// A better advice than the reader's words for what it takes.
    pub(super) remedy: Option<String>,
}

impl Problem {
    /// The value is of the right type but means nothing; `message` says why.
    pub fn value(message: impl Into<String>) -> Self {
        Self {
            kind: FaultKind::Value,
            message: message.into(),
            span: None,
            remedy: None,
        }
    }

    fn wrong_type(value: &Value<'_>) -> Self {
        Self {
            kind: FaultKind::Type,
            message: format!("this is {}", value.type_name()),
            span: None,
            remedy: None,
        }
    }
}

impl<'a, T> Reader<'a, T> {
    /// A reader of its own kind; `expects` completes the sentence "set it to ...".
    pub fn new(
        expects: impl Into<String>,
        read: impl Fn(&Value<'_>) -> Result<T, Problem> + 'a,
    ) -> Self {
        Self {
            expects: expects.into(),
            secret: false,
            read: Box::new(move |value| read(value).map_err(|problem| vec![problem])),
        }
    }

    pub(super) fn apply(&self, value: &Value<'_>) -> Result<T, Vec<Problem>> {
        (self.read)(value)
    }
}

/// A string that `parse` turns into a type; `expects` completes the sentence "set it to ...".
pub fn text<'a, T, E: Display>(
    expects: impl Into<String>,
    parse: impl Fn(&str) -> Result<T, E> + 'a,
) -> Reader<'a, T> {
    Reader::new(expects, move |value| {
        let text = value.as_str().ok_or_else(|| Problem::wrong_type(value))?;
        parse(text).map_err(|error| Problem::value(error.to_string()))
    })
}

/// As [`text`], for a value that no error message may show: a password, a token.
///
/// The errors of `parse` must not quote the value either.
pub fn secret<'a, T, E: Display>(
    expects: impl Into<String>,
    parse: impl Fn(&str) -> Result<T, E> + 'a,
) -> Reader<'a, T> {
    Reader {
        secret: true,
        ..text(expects, parse)
    }
}

/// Any string that is not empty.
pub fn string() -> Reader<'static, String> {
    text("a string", |text: &str| {
        if text.is_empty() {
            Err("the string is empty")
        } else {
            Ok(text.to_owned())
        }
    })
}

/// `true` or `false`.
pub fn boolean() -> Reader<'static, bool> {
    Reader::new("true or false", |value| {
        value.0.as_bool().ok_or_else(|| Problem::wrong_type(value))
    })
}

/// A whole number within a range, as the integer type of the caller's choice.
pub fn integer<T: TryFrom<i64>>(range: RangeInclusive<i64>) -> Reader<'static, T> {
    let expects = format!("a whole number from {} to {}", range.start(), range.end());
    Reader::new(expects, move |value| {
        let number = value
            .0
            .as_integer()
            .ok_or_else(|| Problem::wrong_type(value))?;
        if !range.contains(&number) {
            return Err(Problem::value("the number is out of range"));
        }
        T::try_from(number).map_err(|_| Problem::value("the number is out of range"))
    })
}

/// A duration, such as `"90s"`, `"10m"` or `"1h30m"`; zero included.
pub fn duration() -> Reader<'static, Duration> {
    text(
        "a duration, such as \"90s\", \"10m\" or \"1h30m\"",
        durations::parse,
    )
}

/// A duration within a range.
pub fn duration_within(range: RangeInclusive<Duration>) -> Reader<'static, Duration> {
    let expects = format!(
        "a duration from \"{}\" to \"{}\"",
        Shown(*range.start()),
        Shown(*range.end())
    );
    text(expects, move |text: &str| {
        let duration = durations::parse(text).map_err(|error| error.to_string())?;
        if range.contains(&duration) {
            Ok(duration)
        } else {
            Err("the duration is out of range".to_owned())
        }
    })
}

/// An IP address and a port, such as `"127.0.0.1:8081"` or `"[::]:8081"`.
pub fn socket_address() -> Reader<'static, SocketAddr> {
    text(
        "an IP address and port, such as \"127.0.0.1:8081\" or \"[::1]:8081\"",
        |text: &str| {
            text.parse::<SocketAddr>()
                .map_err(|_| "this is not an IP address and port")
        },
    )
}

/// A path from the root of the file system.
///
/// A relative path would mean another file after each change of the working directory, which a
/// service manager chooses.
pub fn absolute_path() -> Reader<'static, PathBuf> {
    text("a path that begins with \"/\"", |text: &str| {
        if text.contains('\0') {
            return Err("a path has no zero byte");
        }
        let path = Path::new(text);
        if path.is_absolute() {
            Ok(path.to_owned())
        } else {
            Err("the path is relative")
        }
    })
}

/// One of a closed set of words, each with its meaning.
pub fn one_of<'a, T: Clone + 'a>(words: &'a [(&'a str, T)]) -> Reader<'a, T> {
    let all: Vec<String> = words.iter().map(|(word, _)| (*word).to_owned()).collect();
    let quoted: Vec<String> = all.iter().map(|word| format!("\"{word}\"")).collect();
    let expects = match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => quoted.concat(),
    };
    Reader::new(expects, move |value| {
        let text = value.as_str().ok_or_else(|| Problem::wrong_type(value))?;
        words
            .iter()
            .find(|(word, _)| *word == text)
            .map(|(_, meaning)| meaning.clone())
            .ok_or_else(|| Problem {
                remedy: nearest(text, &all).map(|near| format!("did you mean \"{near}\"?")),
                ..Problem::value("this is none of the known words")
            })
    })
}

/// A list whose elements `element` reads; each bad element is a fault at its own place.
pub fn list<'a, T: 'a>(element: Reader<'a, T>) -> Reader<'a, Vec<T>> {
    Reader {
        expects: format!("a list, each element {}", element.expects),
        secret: element.secret,
        read: Box::new(move |value| {
            let array = value
                .0
                .as_array()
                .ok_or_else(|| vec![Problem::wrong_type(value)])?;
            let mut all = Vec::with_capacity(array.len());
            let mut problems = Vec::new();
            for one in array {
                match element.apply(&Value(one)) {
                    Ok(read) => all.push(read),
                    Err(found) => problems.extend(found.into_iter().map(|problem| {
                        Problem {
                            span: problem.span.or_else(|| one.span()),
                            remedy: problem
                                .remedy
                                .or_else(|| Some(format!("set it to {}", element.expects))),
                            ..problem
                        }
                    })),
                }
            }
            if problems.is_empty() {
                Ok(all)
            } else {
                Err(problems)
            }
        }),
    }
}
