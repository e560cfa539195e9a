//! Readiness: said aloud by each part, never concluded from a value going out of scope.

use std::collections::BTreeSet;

use tokio::sync::watch;

/// Whether all parts of a program serve.
#[derive(Clone, Debug, Default)]
pub struct Ready {
    waiting: watch::Sender<BTreeSet<&'static str>>,
}

/// A part that does not serve yet.
///
/// Dropping it changes nothing: a part that died before it served leaves the program not ready.
#[derive(Debug)]
#[must_use = "the program is not ready before the part declares itself"]
pub struct Pending {
    part: &'static str,
    waiting: watch::Sender<BTreeSet<&'static str>>,
}

impl Ready {
    /// Ready as long as nothing is expected: announce the parts before anyone asks.
    pub fn new() -> Self {
        Self::default()
    }

    /// Announces a part, by a name that no other part has.
    pub fn expect(&self, part: &'static str) -> Pending {
        self.waiting.send_modify(|waiting| {
            waiting.insert(part);
        });
        Pending {
            part,
            waiting: self.waiting.clone(),
        }
    }

    /// Waits until every announced part has declared itself.
    pub async fn all(&self) {
        // An error would say that the channel is closed, but `self` holds a sender.
        let _closed = self
            .waiting
            .subscribe()
            .wait_for(BTreeSet::is_empty)
            .await
            .is_err();
    }

    /// Whether every announced part has declared itself.
    pub fn is_ready(&self) -> bool {
        self.waiting.borrow().is_empty()
    }

    /// The parts that have not declared themselves.
    pub fn waiting_for(&self) -> Vec<&'static str> {
        self.waiting.borrow().iter().copied().collect()
    }
}

impl Pending {
    /// The part serves from now on.
    pub fn declare(self) {
        self.waiting.send_modify(|waiting| {
            waiting.remove(self.part);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_part_must_say_so() {
        let ready = Ready::new();
        let tcp = ready.expect("tcp");
        let socket = ready.expect("socket");
        tcp.declare();
        assert_eq!(ready.waiting_for(), ["socket"]);
        let all = tokio::spawn({
            let ready = ready.clone();
            async move { ready.all().await }
        });
        socket.declare();
        all.await.unwrap();
        assert!(ready.is_ready());
    }

    #[test]
    fn a_part_that_is_dropped_is_not_ready() {
        let ready = Ready::new();
        drop(ready.expect("tcp"));
        assert!(!ready.is_ready());
    }
}
