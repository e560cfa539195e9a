//! The world.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use muster_model::{
    BootId, Bundle, Entry, EntryId, JwtAuthority, Now, ProcessMark, Rule, RuleName, Selector,
    SelectorSet, SpiffeId, Timestamp, TrustDomain, WitAuthority, X509Authority,
};
use muster_roster::{
    CallId, Config, Event, JwtBundles, JwtIdentity, Refusal, RequestId, Roster, ToSign, ViewDigest,
    Want, Who, WitBundles, WitUpdate, X509Bundles, X509Update,
};

use crate::material::{Cert, Token, Wit};
use crate::ops::{Op, want_of};

pub(crate) const HOLD: Duration = Duration::from_secs(10);
pub(crate) const X509_LIFE: Duration = Duration::from_mins(1);
pub(crate) const JWT_LIFE: Duration = Duration::from_secs(30);
pub(crate) const SKEW: Duration = Duration::from_secs(10);

pub(crate) struct Caller {
    pub(crate) who: Who,
    pub(crate) want: Want,
    pub(crate) called_at: Duration,
    pub(crate) patience: Option<Duration>,
    pub(crate) open: bool,
    pub(crate) told: usize,
    pub(crate) x509: Option<Arc<X509Update<Cert>>>,
    pub(crate) x509_bundles: Option<Arc<X509Bundles>>,
    pub(crate) jwt_bundles: Option<Arc<JwtBundles>>,
    pub(crate) tokens: Option<Vec<JwtIdentity<Token>>>,
    pub(crate) wits: Option<Arc<WitUpdate<Wit>>>,
    pub(crate) wit_bundles: Option<Arc<WitBundles>>,
    pub(crate) ended: Option<Refusal>,
}

impl Caller {
    /// How long its call is held.
    pub(crate) fn waits(&self) -> Duration {
        self.patience.map_or(HOLD, |patience| patience.min(HOLD))
    }
}

pub(crate) enum Pending {
    X509(RequestId, Vec<ToSign>),
    Jwt(RequestId, ToSign, Arc<[String]>),
    Wit(RequestId, Vec<ToSign>),
}

/// What one side believes.
#[derive(Clone, Default)]
pub(crate) struct Belief {
    pub(crate) revision: u64,
    pub(crate) entries: BTreeMap<EntryId, Entry>,
    pub(crate) bundles: BTreeMap<TrustDomain, Bundle>,
    pub(crate) rules: BTreeMap<RuleName, Rule>,
    pub(crate) withheld: BTreeSet<SpiffeId>,
}

impl Belief {
    pub(crate) fn digest(&self) -> ViewDigest {
        let mut digest = ViewDigest::default();
        self.entries.values().for_each(|e| digest.add_entry(e));
        self.bundles.values().for_each(|b| digest.add_bundle(b));
        self.rules.values().for_each(|r| digest.add_rule(r));
        self.withheld.iter().for_each(|n| digest.add_withheld(n));
        digest
    }
}

pub(crate) struct World {
    pub(crate) roster: Roster<Cert, Token, Wit>,
    pub(crate) now: Now,
    /// How far the node's civil clock is from the server's, in milliseconds.
    pub(crate) skew: i64,
    pub(crate) server: Belief,
    /// What was delivered to the roster, and so what it must go by.
    pub(crate) node: Belief,
    pub(crate) up: bool,
    pub(crate) in_step: bool,
    pub(crate) callers: BTreeMap<CallId, Caller>,
    pub(crate) pending: Vec<Pending>,
    pub(crate) asked: usize,
    pub(crate) asked_per_entry: BTreeMap<EntryId, usize>,
    pub(crate) wits_asked: usize,
    /// Entries that a policy of the server refuses to sign for.
    pub(crate) denied: BTreeSet<EntryId>,
    /// How many names the server gives, if there is a bound; and those that it gave.
    pub(crate) bound: Option<usize>,
    pub(crate) given: BTreeSet<SpiffeId>,
    /// Entries that the node itself took back.
    pub(crate) withdrawn: BTreeSet<EntryId>,
    next: u64,
}

pub(crate) fn own() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

pub(crate) fn foreign(n: u8) -> TrustDomain {
    TrustDomain::parse(&format!("foreign{}.test", n % 2)).unwrap()
}

pub(crate) fn node() -> SpiffeId {
    own().with_path("/spire/agent/join_token/x").unwrap()
}

/// Processes have numbers from 1; 0 is one of which nothing is known.
pub(crate) fn process(number: u8) -> Option<ProcessMark> {
    let boot = BootId::parse("0f8fad5b-d9cb-469f-a165-70867728950e").unwrap();
    (number > 0).then(|| ProcessMark {
        boot,
        pid: number.into(),
        start_time: 1000,
    })
}

pub(crate) fn selectors(mask: u8) -> SelectorSet {
    (0..4)
        .filter(|bit| mask & (1 << bit) != 0)
        .map(|bit| Selector::new("s", format!("{bit}:on")).unwrap())
        .collect()
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with_caches(1000, 1000)
    }

    pub(crate) fn with_caches(x509_cache_max: usize, jwt_cache_max: usize) -> Self {
        let now = Now {
            wall: Timestamp::from_unix_seconds(1_700_000_000),
            mono: Duration::from_secs(1000),
        };
        let config = Self::config(x509_cache_max, jwt_cache_max);
        let mut world = Self {
            roster: Roster::new(config, now),
            now,
            skew: 0,
            server: Belief::default(),
            node: Belief::default(),
            up: false,
            in_step: false,
            callers: BTreeMap::new(),
            pending: Vec::new(),
            asked: 0,
            asked_per_entry: BTreeMap::new(),
            wits_asked: 0,
            denied: BTreeSet::new(),
            bound: None,
            given: BTreeSet::new(),
            withdrawn: BTreeSet::new(),
            next: 0,
        };
        world.server.bundles.insert(own(), Bundle::empty(own()));
        world.hear(Event::NodeIs(node()));
        world.perform(Op::AddRoot);
        world.perform(Op::AddKey);
        world.perform(Op::AddWitKey);
        world.perform(Op::ServerUp);
        world
    }

    pub(crate) fn config(x509_cache_max: usize, jwt_cache_max: usize) -> Config {
        Config {
            trust_domain: own(),
            seed: 7,
            hold: HOLD,
            allow_unauthenticated_verifiers: false,
            x509_cache_max,
            jwt_cache_max,
            wit_cache_max: Some(x509_cache_max),
        }
    }

    pub(crate) fn server_now(&self) -> Timestamp {
        Timestamp::from_unix_millis(self.now.wall.unix_millis() - self.skew)
    }

    pub(crate) fn fresh(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub(crate) fn change_own(&mut self, change: impl FnOnce(&mut Bundle)) {
        self.server.revision += 1;
        let bundle = self.server.bundles.get_mut(&own()).unwrap();
        change(bundle);
        bundle.sequence_number += 1;
    }

    pub(crate) fn perform(&mut self, op: Op) {
        match op {
            Op::AddEntry {
                selectors: mask,
                hint,
                flags,
            } => self.add_entry(mask, hint, flags),
            Op::RemoveEntry(which) => {
                if let Some(id) = pick(self.server.entries.keys().cloned(), which) {
                    self.server.revision += 1;
                    self.server.entries.remove(&id);
                }
            }
            Op::UpdateEntry { which, change } => self.update_entry(which, change),
            Op::AddRoot => {
                let der: Arc<[u8]> = self.fresh().to_be_bytes().into();
                let expires_at = self.server_now().plus(Duration::from_hours(24));
                self.change_own(|b| {
                    b.x509_authorities.push(X509Authority {
                        der,
                        expires_at,
                        tainted: false,
                    });
                });
            }
            // A server never empties its bundle and signs with the newest good root.
            Op::RemoveRoot(which) => self.change_own(|b| {
                let good = b.x509_authorities.iter().filter(|a| !a.tainted).count();
                let at = usize::from(which) % b.x509_authorities.len();
                if good > 1 || (good == 1 && b.x509_authorities[at].tainted) {
                    b.x509_authorities.remove(at);
                }
            }),
            Op::TaintRoot(which) => self.change_own(|b| {
                let good = b.x509_authorities.iter().filter(|a| !a.tainted).count();
                let at = usize::from(which) % b.x509_authorities.len();
                if good > 1 {
                    b.x509_authorities[at].tainted = true;
                }
            }),
            Op::AddKey => {
                let key_id = self.fresh().to_string();
                self.change_own(|b| {
                    b.jwt_authorities.push(JwtAuthority {
                        key_id,
                        public_key: Arc::new([]),
                        expires_at: None,
                        tainted: false,
                    });
                });
            }
            Op::RemoveKey(which) => self.change_own(|b| {
                if b.jwt_authorities.len() > 1 {
                    let at = usize::from(which) % b.jwt_authorities.len();
                    b.jwt_authorities.remove(at);
                }
            }),
            Op::AddWitKey | Op::RemoveWitKey(_) | Op::TaintWitKey(_) => self.change_wit_keys(op),
            Op::Foreign(which) => self.change_foreign(which),
            Op::Rule { name, shape } => self.put_rule(name, shape),
            Op::RemoveRule(which) => self.remove_rule(which),
            Op::Withhold(which) => self.withhold(which),
            Op::ProcessGone(number) => self.process_gone(number % 4),
            Op::Deliver => self.deliver(),
            Op::Garble(how) => self.garble(how),
            Op::Call {
                selectors: mask,
                want,
            } => {
                self.call(mask, want_of(want));
            }
            Op::HangUp(which) => {
                let open = self
                    .callers
                    .iter()
                    .filter(|(_, c)| c.open)
                    .map(|(id, _)| *id);
                if let Some(id) = pick(open, which) {
                    self.callers.get_mut(&id).unwrap().open = false;
                    self.hear(Event::CallEnded(id));
                }
            }
            Op::Answer { which, how } => self.answer(which, how),
            Op::ServerUp => {
                if !self.up {
                    self.up = true;
                    self.hear(Event::LinkUp);
                }
            }
            Op::ServerDown => self.server_down(),
            Op::Advance { millis } => self.advance(Duration::from_millis(millis.into()), false),
            Op::StepClock(forward) => {
                let by = if forward { 3_600_000 } else { -3_600_000 };
                if (self.skew + by).abs() <= 3_600_000 {
                    self.skew += by;
                    self.now.wall = Timestamp::from_unix_millis(self.now.wall.unix_millis() + by);
                    self.hear(Event::Tick);
                }
            }
        }
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "called with these three only"
    )]
    fn change_wit_keys(&mut self, op: Op) {
        match op {
            Op::AddWitKey => {
                let number = self.fresh();
                let expires_at = Some(self.server_now().plus(Duration::from_hours(24)));
                self.change_own(|b| {
                    b.wit_authorities.push(WitAuthority {
                        key_id: format!("wit{number}"),
                        public_key: number.to_be_bytes().into(),
                        expires_at,
                        tainted: false,
                    });
                });
            }
            // As for roots: the server signs with the newest good key.
            Op::RemoveWitKey(which) => self.change_own(|b| {
                let good = b.wit_authorities.iter().filter(|a| !a.tainted).count();
                let at = usize::from(which) % b.wit_authorities.len();
                if good > 1 || (good == 1 && b.wit_authorities[at].tainted) {
                    b.wit_authorities.remove(at);
                }
            }),
            Op::TaintWitKey(which) => self.change_own(|b| {
                let good = b.wit_authorities.iter().filter(|a| !a.tainted).count();
                let at = usize::from(which) % b.wit_authorities.len();
                if good > 1 {
                    b.wit_authorities[at].tainted = true;
                }
            }),
            _ => {}
        }
    }

    /// The node takes back the entry of callers with these selectors.
    pub(crate) fn withdraw(&mut self, mask: u8) {
        let of = selectors(mask);
        let found = self.node.entries.values().find(|e| e.selectors == of);
        let id = found.expect("there is one").id.clone();
        self.withdrawn.insert(id.clone());
        self.forget_withdrawn();
        self.hear(Event::Withdraw(id));
    }

    /// What the node took back counts for it like what is for an external store: for nobody.
    pub(crate) fn forget_withdrawn(&mut self) {
        let entries = &mut self.node.entries;
        self.withdrawn.retain(|id| {
            let entry = entries.get_mut(id);
            entry.map(|entry| entry.store_svid = true).is_some()
        });
    }

    fn server_down(&mut self) {
        if self.up {
            self.up = false;
            self.in_step = false;
            self.hear(Event::LinkDown);
        }
        self.fail_pending();
    }

    /// A call of a process: four bits of `mask` say what it is attested as, two which it is, and two
    /// how long it waits.
    pub(crate) fn call(&mut self, mask: u8, want: Want) -> CallId {
        let selectors = Arc::new(selectors(mask % 16));
        let process = process(mask / 16 % 4);
        let patience = match mask / 64 {
            2 => Some(HOLD / 3),
            3 => Some(HOLD * 2),
            _ => None,
        };
        self.call_for(Who { selectors, process }, want, patience)
    }

    pub(crate) fn call_of(&mut self, who: Who, want: Want) -> CallId {
        self.call_for(who, want, None)
    }

    fn call_for(&mut self, who: Who, want: Want, patience: Option<Duration>) -> CallId {
        let id = CallId(self.fresh());
        self.callers.insert(
            id,
            Caller {
                who: who.clone(),
                want: want.clone(),
                called_at: self.now.mono,
                patience,
                open: true,
                told: 0,
                x509: None,
                x509_bundles: None,
                jwt_bundles: None,
                tokens: None,
                wits: None,
                wit_bundles: None,
                ended: None,
            },
        );
        self.hear(Event::Call {
            call: id,
            who,
            want,
            patience,
        });
        id
    }

    fn answer(&mut self, which: u8, how: u8) {
        if self.pending.is_empty() {
            return;
        }
        let at = usize::from(which) % self.pending.len();
        let pending = self.pending.swap_remove(at);
        // A third of the answers is bad in one way or another.
        let bad = if how.is_multiple_of(3) { how / 3 } else { 0 };
        self.answer_with(pending, bad);
    }

    pub(crate) fn fail_pending(&mut self) {
        for pending in std::mem::take(&mut self.pending) {
            self.answer_with(pending, 1);
        }
    }

    /// Lets time pass, with every tick that the machine asks for. With `prompt` the server answers
    /// at once.
    pub(crate) fn advance(&mut self, by: Duration, prompt: bool) {
        let end = self.now.mono + by;
        let mut idle = 0;
        loop {
            while prompt && !self.pending.is_empty() {
                let pending = self.pending.remove(0);
                self.answer_with(pending, 0);
            }
            let at = self.roster.poll_timeout().filter(|at| *at <= end);
            let Some(at) = at else { break };
            let by = at.saturating_sub(self.now.mono);
            idle = if by.is_zero() { idle + 1 } else { 0 };
            assert!(idle < 5, "the machine asks to be woken and does nothing");
            self.now = self.now.plus(by.max(Duration::from_micros(1)));
            self.hear(Event::Tick);
        }
        self.now = self.now.plus(end.saturating_sub(self.now.mono));
        self.hear(Event::Tick);
    }
}

pub(crate) fn pick<T>(items: impl Iterator<Item = T>, which: u8) -> Option<T> {
    let mut items: Vec<T> = items.collect();
    if items.is_empty() {
        return None;
    }
    let at = usize::from(which) % items.len();
    Some(items.swap_remove(at))
}
