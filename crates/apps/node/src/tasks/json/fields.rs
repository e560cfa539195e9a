//! From a JSON object to the messages of requests: protobuf's names, and none that is not known.

use muster_proto::muster::agent::v1 as api;
use muster_proto::muster::agent::v1::task_binding::To;
use serde_json::{Map, Value};

use super::super::refused::Refused;

/// Three places behind the point are what instants have here.
const NANOS: u32 = 1_000_000_000;
/// So much of a value that is not understood is said again, in characters.
const SHOWN: usize = 64;

/// The fields of an object that were not read yet.
#[derive(Debug)]
pub(super) struct Fields {
    /// What they are below, for messages.
    below: &'static str,
    left: Map<String, Value>,
}

impl Fields {
    /// Parses a body; an empty one is an object without fields.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Refused> {
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(Self {
                below: "",
                left: Map::new(),
            });
        }
        match serde_json::from_slice(bytes) {
            Ok(Value::Object(left)) => Ok(Self { below: "", left }),
            Ok(_) => Err(Refused::field("body", "give one JSON object")),
            Err(error) => Err(Refused::field("body", format!("it is not JSON: {error}"))),
        }
    }

    /// Fails if a field is left.
    pub(super) fn finish(&self) -> Result<(), Refused> {
        match self.left.keys().next() {
            None => Ok(()),
            Some(name) if name == "purpose" => Err(self.fault(
                name,
                "the text of a purpose stays with whoever has it; give its SHA-256 in purposeSha256",
            )),
            Some(name) => Err(self.fault(
                name,
                "there is no such field here; the names are those of tasks.proto, as protobuf has them in JSON",
            )),
        }
    }

    /// A value that is not what the field wants.
    fn misread(&self, name: &str, value: &Value, wanted: &str) -> Refused {
        let value: String = value.to_string().chars().take(SHOWN).collect();
        self.fault(name, &format!("{value} is not {wanted}"))
    }

    fn fault(&self, name: &str, why: &str) -> Refused {
        Refused::field(&format!("{}{name}", self.below), why)
    }

    fn take(&mut self, name: &str) -> Option<Value> {
        self.left.remove(name).filter(|value| !value.is_null())
    }

    fn text(&mut self, name: &str) -> Result<String, Refused> {
        match self.take(name) {
            None => Ok(String::new()),
            Some(Value::String(text)) => Ok(text),
            Some(_) => Err(self.fault(name, "a string is wanted")),
        }
    }

    fn texts(&mut self, name: &str) -> Result<Vec<String>, Refused> {
        let wanted = "a list of strings is wanted";
        match self.take(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(values)) => values
                .into_iter()
                .map(|value| {
                    let text = value.as_str().map(ToOwned::to_owned);
                    text.ok_or_else(|| self.fault(name, wanted))
                })
                .collect(),
            Some(_) => Err(self.fault(name, wanted)),
        }
    }

    /// A number; protobuf writes those of 64 bits as strings, and takes both.
    pub(super) fn number(&mut self, name: &str) -> Result<Option<u64>, Refused> {
        let Some(value) = self.take(name) else {
            return Ok(None);
        };
        let number = match &value {
            Value::Number(number) => number.as_u64(),
            Value::String(text) => text.parse().ok(),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
        };
        number.map(Some).ok_or_else(|| {
            let wanted = "a whole number from 0 on, of 64 bits at the most";
            self.misread(name, &value, wanted)
        })
    }

    fn small(&mut self, name: &str) -> Result<u32, Refused> {
        let number = self.number(name)?.unwrap_or_default();
        u32::try_from(number)
            .map_err(|_large| self.misread(name, &number.into(), "a number of 32 bits"))
    }

    fn object(&mut self, name: &str, below: &'static str) -> Result<Option<Self>, Refused> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Object(left)) => Ok(Some(Self { below, left })),
            Some(_) => Err(self.fault(name, "an object is wanted")),
        }
    }

    /// An instant, as RFC 3339 writes it.
    pub(super) fn time(&mut self, name: &str) -> Result<Option<prost_types::Timestamp>, Refused> {
        let text = self.text(name)?;
        if text.is_empty() {
            return Ok(None);
        }
        let at: jiff::Timestamp = text.parse().map_err(|_error| {
            let wanted = "an instant such as \"2026-01-31T12:00:00Z\"";
            self.misread(name, &text.as_str().into(), wanted)
        })?;
        Ok(Some(prost_types::Timestamp {
            seconds: at.as_second(),
            nanos: at.subsec_nanosecond(),
        }))
    }

    /// A length of time in seconds, such as `90s` or `1.5s`.
    pub(super) fn duration(
        &mut self,
        name: &str,
    ) -> Result<Option<prost_types::Duration>, Refused> {
        let text = self.text(name)?;
        if text.is_empty() {
            return Ok(None);
        }
        seconds(&text).map(Some).ok_or_else(|| {
            let wanted = "a length of time in seconds such as \"90s\"";
            self.misread(name, &text.into(), wanted)
        })
    }

    /// The request of Open and of Lease.
    pub(super) fn open(&mut self) -> Result<api::OpenTaskRequest, Refused> {
        let permissions = match self.object("permissions", "permissions.")? {
            None => None,
            Some(mut below) => {
                let permissions = api::Permissions {
                    scopes: below.texts("scopes")?,
                    resources: below.texts("resources")?,
                };
                below.finish()?;
                Some(permissions)
            }
        };
        let binding = match self.object("binding", "binding.")? {
            None => None,
            Some(below) => Some(binding(below)?),
        };
        let request = api::OpenTaskRequest {
            agent: self.text("agent")?,
            class: self.text("class")?,
            kind: self.text("kind")?,
            purpose_sha256: self.text("purposeSha256")?,
            permissions,
            data_class: self.small("dataClass")?,
            budget: self.number("budget")?,
            deadline: self.time("deadline")?,
            ttl: self.duration("ttl")?,
            parent: self.text("parent")?,
            binding,
        };
        self.finish()?;
        Ok(request)
    }
}

fn binding(mut fields: Fields) -> Result<api::TaskBinding, Refused> {
    let mut found = Vec::new();
    if let Some(empty) = fields.object("caller", "binding.caller.")? {
        empty.finish()?;
        found.push(To::Caller(api::task_binding::Caller {}));
    }
    if let Some(empty) = fields.object("lease", "binding.lease.")? {
        empty.finish()?;
        found.push(To::Lease(api::task_binding::Lease {}));
    }
    if fields.left.contains_key("childPid") {
        found.push(To::ChildPid(fields.small("childPid")?));
    }
    if fields.left.contains_key("cgroup") {
        found.push(To::Cgroup(fields.text("cgroup")?));
    }
    fields.finish()?;
    if found.len() > 1 {
        return Err(Refused::field("binding", "give one thing to bind to"));
    }
    Ok(api::TaskBinding { to: found.pop() })
}

fn seconds(text: &str) -> Option<prost_types::Duration> {
    let number = text.strip_suffix('s')?;
    let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_digits(whole) || !is_digits(part) || part.len() > 9 {
        return None;
    }
    let scale = 10_u32.checked_pow(u32::try_from(part.len()).ok()?)?;
    let nanos = part.parse::<u32>().ok()?.checked_mul(NANOS / scale)?;
    Some(prost_types::Duration {
        seconds: whole.parse().ok()?,
        nanos: i32::try_from(nanos).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(text: &str) -> Result<api::OpenTaskRequest, String> {
        Fields::parse(text.as_bytes())
            .and_then(|mut fields| fields.open())
            .map_err(|refused| refused.message)
    }

    #[test]
    fn every_field_of_a_request() {
        let request = open(
            r#"{"agent":"spiffe://a/b","class":"c","kind":"code.review","purposeSha256":"00",
                "permissions":{"scopes":["s"],"resources":["r"]},"dataClass":2,"budget":"5",
                "ttl":"1.5s","deadline":"1970-01-01T00:00:07.25Z","parent":"P","binding":{"childPid":7}}"#,
        )
        .unwrap();
        assert_eq!(request.kind, "code.review");
        assert_eq!((request.data_class, request.budget), (2, Some(5)));
        let ttl = request.ttl.unwrap();
        assert_eq!((ttl.seconds, ttl.nanos), (1, 500_000_000));
        let deadline = request.deadline.unwrap();
        assert_eq!((deadline.seconds, deadline.nanos), (7, 250_000_000));
        assert_eq!(request.binding.unwrap().to, Some(To::ChildPid(7)));
        assert_eq!(open("").unwrap(), api::OpenTaskRequest::default());
        assert_eq!(open(" {} ").unwrap(), open("{\"kind\":null}").unwrap());
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for (text, named) in [
            ("[]", "object"),
            ("{", "JSON"),
            (r#"{"purpose":"find the bug"}"#, "purposeSha256"),
            (r#"{"purposes":"find the bug"}"#, "purposes"),
            (r#"{"kind":7}"#, "kind"),
            (r#"{"budget":-1}"#, "budget: -1 is not"),
            (r#"{"budget":1.5}"#, "budget: 1.5 is not"),
            (
                r#"{"dataClass":4294967296}"#,
                "dataClass: 4294967296 is not",
            ),
            (r#"{"ttl":"5m"}"#, "ttl"),
            (r#"{"ttl":"1.0000000001s"}"#, "ttl"),
            (r#"{"ttl":"-1s"}"#, "ttl: \"-1s\" is not"),
            (r#"{"deadline":"soon"}"#, "deadline: \"soon\" is not"),
            (r#"{"permissions":{"scope":[]}}"#, "permissions.scope"),
            (r#"{"permissions":{"scopes":[1]}}"#, "permissions.scopes"),
            (r#"{"binding":{"pid":7}}"#, "binding.pid"),
            (r#"{"binding":{"childPid":7,"caller":{}}}"#, "binding"),
        ] {
            let why = open(text).unwrap_err();
            assert!(why.contains(named), "{text}: {why}");
            assert!(!why.contains("find the bug"), "{why}");
        }
        // Neither is what somebody sent by the megabyte sent back.
        let long = open(&format!(r#"{{"ttl":"{}"}}"#, "9".repeat(4096))).unwrap_err();
        assert!(long.len() < 200, "{long}");
    }
}
