//! As much HTTP/1.1 as it takes to ask an Envoy, or a node: one request, one answer, the end of the
//! connection.

use std::io::{Read, Write};

use serde_json::Value;

use crate::shell::Failure;

/// What was answered.
#[derive(Debug)]
pub(super) struct Answer {
    /// The status line and the headers.
    head: String,
    /// The body, put together from its chunks.
    pub(super) body: String,
}

impl Answer {
    /// The value of a header, whose name is in lower case.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.head
            .lines()
            .filter_map(|line| line.split_once(": "))
            .find(|(had, _)| *had == name)
            .map(|(_, value)| value)
    }
}

/// Asks for a path; anything but 200 is an error.
pub(super) fn get(stream: impl Read + Write, path: &str) -> Result<Answer, Failure> {
    exchange(stream, &format!("GET {path}"), "", "")
}

/// Asks a node for a call in JSON, with the header that keeps browsers out.
pub(super) fn post(
    stream: impl Read + Write,
    path: &str,
    message: &Value,
) -> Result<Value, Failure> {
    let body = message.to_string();
    let headers = format!(
        "workload.spiffe.io: true\r\nContent-Length: {}\r\n",
        body.len()
    );
    let answer = exchange(stream, &format!("POST {path}"), &headers, &body)?;
    Ok(serde_json::from_str(&answer.body)?)
}

fn exchange(
    mut stream: impl Read + Write,
    what: &str,
    headers: &str,
    body: &str,
) -> Result<Answer, Failure> {
    let request =
        format!("{what} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n{body}");
    stream.write_all(request.as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    parse(&text)
}

fn parse(text: &str) -> Result<Answer, Failure> {
    let (head, body) = text
        .split_once("\r\n\r\n")
        .ok_or_else(|| format!("an answer that is cut off: {text:?}"))?;
    if !head.starts_with("HTTP/1.1 200 ") {
        return Err(format!("{}: {body}", head.lines().next().unwrap_or_default()).into());
    }
    let mut answer = Answer {
        head: head.to_owned(),
        body: body.to_owned(),
    };
    if answer.header("transfer-encoding") == Some("chunked") {
        answer.body = dechunked(body).ok_or("chunks that are cut off")?;
    }
    Ok(answer)
}

fn dechunked(mut rest: &str) -> Option<String> {
    let mut body = String::new();
    loop {
        let (size, after) = rest.split_once("\r\n")?;
        let size = usize::from_str_radix(size, 16).ok()?;
        if size == 0 {
            return Some(body);
        }
        body.push_str(after.get(..size)?);
        rest = after.get(size..)?.strip_prefix("\r\n")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_put_together() {
        let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        let answer = parse(&format!(
            "{head}3\r\na: \r\nb\r\n1\n2\n3\n4\n5\n6\r\n0\r\n\r\n"
        ));
        assert_eq!(answer.unwrap().body, "a: 1\n2\n3\n4\n5\n6");
        assert!(parse(&format!("{head}3\r\na")).is_err());
    }

    #[test]
    fn anything_but_200_is_an_error() {
        let error = parse("HTTP/1.1 503 Service Unavailable\r\n\r\nno healthy upstream");
        let error = error.unwrap_err().to_string();
        assert_eq!(
            error,
            "HTTP/1.1 503 Service Unavailable: no healthy upstream"
        );
        assert!(parse("").is_err());
    }
}
