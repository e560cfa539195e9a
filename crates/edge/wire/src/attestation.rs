//! Whom a node attested and served, as it tells its server.

use muster_model::{FieldError, SelectorSet, SpiffeId, TaskId, TextFault, Timestamp};
use muster_proto::muster::node::v1::AttestedWorkload;
use muster_proto::spire::api::types::Selector;

use crate::agent::{instant, optional, write_time};
use crate::selector;

/// How many a node may tell of at once.
pub const MOST: usize = 64;
/// How many selectors are told of each.
pub const MOST_SELECTORS: usize = 128;
/// How many SPIFFE IDs are told of each.
pub const MOST_IDS: usize = 16;
/// How long the selectors of each may be together, in bytes: what is too long is left out.
pub const MOST_SELECTOR_BYTES: usize = 16 * 1024;

/// Processes of one user that were attested as the same, and served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attestation {
    /// Their user.
    pub uid: u32,
    /// What they were attested as, without values of variables.
    pub selectors: SelectorSet,
    /// How many selectors there were beside.
    pub selectors_left_out: u32,
    /// The task whose socket they used.
    pub task: Option<TaskId>,
    /// How many calls were answered; none where only open streams were given other identities.
    pub count: u64,
    /// The processes of the first and of the last answer.
    pub pids: (u32, u32),
    /// When those were, by the node's clock.
    pub at: (Timestamp, Timestamp),
    /// The identities that they were given.
    pub ids: Vec<SpiffeId>,
    /// How many times they were given others.
    pub others: u64,
}

/// Writes one.
pub fn write(attestation: &Attestation) -> AttestedWorkload {
    AttestedWorkload {
        uid: attestation.uid,
        selectors: attestation.selectors.iter().map(selector::write).collect(),
        selectors_left_out: attestation.selectors_left_out,
        task: attestation
            .task
            .map(|id| id.to_string())
            .unwrap_or_default(),
        count: attestation.count,
        first_pid: attestation.pids.0,
        last_pid: attestation.pids.1,
        first_at: Some(write_time(attestation.at.0)),
        last_at: Some(write_time(attestation.at.1)),
        spiffe_ids: attestation.ids.iter().map(ToString::to_string).collect(),
        others: attestation.others,
    }
}

/// Reads one.
pub fn read(message: &AttestedWorkload) -> Result<Attestation, FieldError> {
    at_most("selectors", message.selectors.len(), MOST_SELECTORS)?;
    at_most("spiffe_ids", message.spiffe_ids.len(), MOST_IDS)?;
    if message.count == 0 && message.spiffe_ids.is_empty() && message.others == 0 {
        return Err(TextFault::Missing.at("count", "0"));
    }
    let id = |text: &String| {
        SpiffeId::parse(text).map_err(|_| TextFault::Prose { most: 2048 }.at("spiffe_ids", text))
    };
    Ok(Attestation {
        uid: message.uid,
        selectors: read_selectors(message)?,
        selectors_left_out: message.selectors_left_out,
        task: optional("task", &message.task, TaskId::parse)?,
        count: message.count,
        pids: (message.first_pid, message.last_pid),
        at: (
            instant("first_at", message.first_at)?,
            instant("last_at", message.last_at)?,
        ),
        ids: message
            .spiffe_ids
            .iter()
            .map(id)
            .collect::<Result<_, _>>()?,
        others: message.others,
    })
}

fn read_selectors(message: &AttestedWorkload) -> Result<SelectorSet, FieldError> {
    let length = |one: &Selector| one.r#type.len() + one.value.len();
    let bytes: usize = message.selectors.iter().map(length).sum();
    if bytes > MOST_SELECTOR_BYTES {
        let most = MOST_SELECTOR_BYTES;
        return Err(TextFault::Prose { most }.at("selectors", &format!("{bytes} bytes")));
    }
    let read = |one| {
        let selector = selector::read(one).ok();
        selector.filter(|selector| !selector.as_str().chars().any(char::is_control))
    };
    message
        .selectors
        .iter()
        .map(|one| read(one).ok_or_else(|| TextFault::Selector.at("selectors", &one.r#type)))
        .collect()
}

fn at_most(field: &'static str, count: usize, most: usize) -> Result<(), FieldError> {
    if count > most {
        return Err(TextFault::TooMany { most }.at(field, &count.to_string()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attestation() -> Attestation {
        let at = Timestamp::from_unix_seconds(1_767_225_600);
        Attestation {
            uid: 1000,
            selectors: ["unix:uid:1000", "unix:path:/opt/my agent"]
                .map(|text| text.parse().unwrap())
                .into_iter()
                .collect(),
            selectors_left_out: 2,
            task: TaskId::parse("01JDQ8Z0000000000000000000").ok(),
            count: 3,
            pids: (7, 9),
            at: (at, at.plus(std::time::Duration::from_secs(5))),
            ids: vec![SpiffeId::parse("spiffe://td/agent/reader/1").unwrap()],
            others: 4,
        }
    }

    #[test]
    fn what_is_written_is_read() {
        assert_eq!(read(&write(&attestation())), Ok(attestation()));
        let bundles = Attestation {
            selectors: SelectorSet::new(),
            task: None,
            ids: Vec::new(),
            others: 0,
            ..attestation()
        };
        assert_eq!(read(&write(&bundles)), Ok(bundles));
        // A stream that was open already was given another identity.
        let given = Attestation {
            count: 0,
            ..attestation()
        };
        assert_eq!(read(&write(&given)), Ok(given));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |spoil: &dyn Fn(&mut AttestedWorkload), field: &str| {
            let mut message = write(&attestation());
            spoil(&mut message);
            assert_eq!(read(&message).unwrap_err().field, field);
        };
        let selector = |kind: &str, value: &str| Selector {
            r#type: kind.into(),
            value: value.into(),
        };
        check(&|m| m.selectors.push(selector("a:b", "c")), "selectors");
        check(
            &|m| m.selectors.push(selector("a", "\u{1b}[2J")),
            "selectors",
        );
        let long = "x".repeat(MOST_SELECTOR_BYTES);
        check(&|m| m.selectors.push(selector("a", &long)), "selectors");
        let many = vec![selector("a", "b"); MOST_SELECTORS + 1];
        check(&|m| m.selectors.clone_from(&many), "selectors");
        check(&|m| m.task = "t".into(), "task");
        check(&|m| m.spiffe_ids.push("x".into()), "spiffe_ids");
        let ids = vec!["spiffe://td/x".to_owned(); MOST_IDS + 1];
        check(&|m| m.spiffe_ids.clone_from(&ids), "spiffe_ids");
        check(&|m| m.first_at = None, "first_at");
        check(&|m| m.last_at = None, "last_at");
        let nothing = |m: &mut AttestedWorkload| {
            m.count = 0;
            m.others = 0;
            m.spiffe_ids.clear();
        };
        check(&nothing, "count");
    }
}
