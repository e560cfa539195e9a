//! The machine.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use muster_model::{Bundle, Entry, EntryId, Now, Revision, SpiffeId, Timestamp, TrustDomain};

use crate::ViewDigest;
use crate::calls::{Call, JwtCall, Kind};
use crate::event::{
    Action, CallId, Encoded, Event, JwtBundles, OnMiss, Refusal, Scope, SignFault, Who,
};
use crate::groups::{Group, GroupId};
use crate::holdings::Holdings;
use crate::index::{GroupIndex, RarestIndex};
use crate::jwt::Tokens;
use crate::kinds::{Requests, SvidKind, WitKind, X509Kind};
use crate::material::{JwtMaterial, WitMaterial, X509Material};
use crate::time::{Agenda, Alarm, CLOCK_CHECK};
use crate::view::{Changed, Difference, Step, View};

/// Room for so many actions is kept from event to event.
const FEW_ACTIONS: usize = 1024;

/// So many entries that the node took back are kept in mind.
const WITHDRAWN_MAX: usize = 65_536;

/// What the machine is told once.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node's trust domain.
    pub trust_domain: TrustDomain,
    /// A number that no other node has: the machine has no dice, and what must differ from node
    /// to node, such as the wait after a failure, is spread by a hash of it.
    pub seed: u64,
    /// How long a call without a match waits for one. Zero answers at once.
    pub hold: Duration,
    /// Whether callers without identity get the own trust domain's bundles (WAPI-37).
    pub allow_unauthenticated_verifiers: bool,
    /// The most X509-SVIDs to hold for entries that nobody streams; those that are streamed count,
    /// and are held beyond it.
    pub x509_cache_max: usize,
    /// The most JWT-SVIDs to hold.
    pub jwt_cache_max: usize,
    /// The most WIT-SVIDs to keep for entries that nobody streams any more; `None` where the
    /// profile is off, and then no call may ask for them.
    pub wit_cache_max: Option<usize>,
}

/// How the machine stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Whether the stream from the server is open.
    pub connected: bool,
    /// Whether the view is what the server means, as far as the node can know.
    pub in_step: bool,
    /// The revision that the view stands at.
    pub revision: Revision,
    /// Entries in the view.
    pub entries: usize,
    /// Rules in the view.
    pub rules: usize,
    /// Names that rules give now, those that were used a moment ago included.
    pub names: usize,
    /// X509-SVIDs held.
    pub x509_svids: usize,
    /// X509-SVIDs that are wanted and not there, or no longer good.
    pub x509_missing: usize,
    /// JWT-SVIDs held.
    pub jwt_svids: usize,
    /// WIT-SVIDs held.
    pub wit_svids: usize,
    /// Open calls that have had an answer: streams.
    pub streams: usize,
    /// Open calls that wait for their first answer.
    pub waiting: usize,
    /// When the first of the X509-SVIDs held expires.
    pub first_x509_expiry: Option<Timestamp>,
    /// When the first of the JWT-SVIDs held expires.
    pub first_jwt_expiry: Option<Timestamp>,
}

/// The node's machine: see the crate's documentation.
pub struct Roster<X: X509Material, J, W: WitMaterial> {
    pub(crate) config: Config,
    pub(crate) now: Now,
    pub(crate) link: Link,
    pub(crate) view: View,
    pub(crate) entry_index: RarestIndex<EntryId>,
    pub(crate) group_index: GroupIndex,
    /// Entries that the node itself has taken back; those that are not in the view may still come.
    withdrawn: BTreeSet<EntryId>,
    pub(crate) groups_of: HashMap<EntryId, BTreeSet<GroupId>>,
    pub(crate) groups: BTreeMap<GroupId, Group<X, W>>,
    pub(crate) by_who: HashMap<(Scope, Who), GroupId>,
    pub(crate) next_group: u64,
    pub(crate) calls: BTreeMap<CallId, Call<X, J, W>>,
    pub(crate) requests: Requests,
    pub(crate) holdings: Holdings<X509Kind<X>>,
    pub(crate) wits: Holdings<WitKind<W>>,
    pub(crate) tokens: Tokens<J>,
    pub(crate) agenda: Agenda,
    bundles_version: u64,
    pub(crate) stale_groups: BTreeSet<GroupId>,
    pub(crate) stale_calls: BTreeSet<CallId>,
    pub(crate) fresh: Vec<Action<X, J, W>>,
    actions: VecDeque<Action<X, J, W>>,
}

/// The stream from the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    Down,
    /// Open, and its first complete step is awaited.
    Catching,
    InStep,
}

impl<X: X509Material, J: JwtMaterial, W: WitMaterial> Roster<X, J, W> {
    /// A machine that knows nothing yet.
    pub fn new(config: Config, now: Now) -> Self {
        Self {
            now,
            link: Link::Down,
            view: View::new(config.trust_domain.clone()),
            entry_index: RarestIndex::default(),
            group_index: GroupIndex::default(),
            withdrawn: BTreeSet::new(),
            groups_of: HashMap::new(),
            groups: BTreeMap::new(),
            by_who: HashMap::new(),
            next_group: 0,
            calls: BTreeMap::new(),
            requests: Requests::default(),
            holdings: Holdings::new(config.x509_cache_max, config.seed),
            wits: Holdings::new(config.wit_cache_max.unwrap_or_default(), config.seed),
            tokens: Tokens::new(config.jwt_cache_max, config.seed),
            agenda: Agenda::default(),
            bundles_version: 0,
            stale_groups: BTreeSet::new(),
            stale_calls: BTreeSet::new(),
            fresh: Vec::new(),
            actions: VecDeque::new(),
            config,
        }
    }

    /// Hears `event`. Afterwards [`Roster::poll_action`] may have something to do and
    /// [`Roster::poll_timeout`] another instant.
    ///
    /// Events about calls and requests that the machine no longer knows are no-ops.
    pub fn handle(&mut self, event: Event<X, J, W>, now: Now) {
        self.now = now;
        while let Some(alarm) = self.agenda.pop(now) {
            self.on_alarm(alarm);
        }
        self.look_at_the_clock();
        self.on_event(event);
        self.settle();
    }

    /// The next thing to do. Call it until it returns `None` after each [`Roster::handle`], and
    /// do things in the order given; calling it more often does no harm.
    pub fn poll_action(&mut self) -> Option<Action<X, J, W>> {
        let action = self.actions.pop_front();
        if action.is_none() && self.actions.capacity() > FEW_ACTIONS {
            // What ten thousand streams were told at once needs no room for ever.
            self.actions = VecDeque::new();
            self.fresh = Vec::new();
        }
        action
    }

    /// The monotonic instant at which to hand in [`Event::Tick`] if nothing else happens before;
    /// `None` when only an event can change anything. Ask again after each [`Roster::handle`]; a
    /// tick that comes too early or too often is a no-op.
    pub fn poll_timeout(&self) -> Option<Duration> {
        let next = self.agenda.next(self.now);
        if !(self.holdings.hangs_on_the_clock() || self.wits.hangs_on_the_clock()) {
            return next;
        }
        let look = self.now.mono.saturating_add(CLOCK_CHECK);
        Some(next.map_or(look, |next| next.min(look)))
    }

    /// The revision and digest with which to open the stream from the server: those of no view
    /// after an [`Action::Resync`].
    pub fn standing(&self) -> (Revision, ViewDigest) {
        self.view.standing()
    }

    /// The bundle of the node's own trust domain, as the view has it.
    pub fn own_bundle(&self) -> Option<&Bundle> {
        self.view.own_bundle().map(|held| &held.bundle)
    }

    /// All bundles of the view, the own one and those of foreign trust domains that entries of the
    /// node name.
    pub fn bundles(&self) -> impl Iterator<Item = &Bundle> {
        self.view.bundles.values().map(|held| &held.bundle)
    }

    /// A number that grows whenever a bundle of the view changes, comes or goes.
    pub fn bundles_version(&self) -> u64 {
        self.bundles_version
    }

    /// The identities of a caller as the view has them now, signed or not: by ascending ID of the
    /// entries that give them, then what rules give.
    pub fn identities(&self, who: &Who) -> Vec<SpiffeId> {
        let entries = &self.view.entries;
        let asks = |id: &EntryId| entries.get(id).map(|entry| &entry.selectors);
        let matches: BTreeSet<&EntryId> = self.entry_index.matching(&who.selectors, asks).collect();
        matches
            .into_iter()
            .filter_map(|id| entries.get(id))
            .map(|entry| entry.spiffe_id.clone())
            .chain(self.view.names_of(who))
            .collect()
    }

    /// Whether the view is what the server means, as far as the node can know.
    pub fn is_in_step(&self) -> bool {
        self.link == Link::InStep
    }

    /// How the machine stands.
    pub fn stats(&self) -> Stats {
        let waiting = self.calls.values().filter(|c| c.is_waiting()).count();
        Stats {
            connected: self.link != Link::Down,
            in_step: self.link == Link::InStep,
            revision: self.view.revision,
            entries: self.view.entries.len(),
            rules: self.view.rules.len(),
            names: self.view.derived.len(),
            x509_svids: self.holdings.held(),
            x509_missing: self.holdings.missing(),
            jwt_svids: self.tokens.held(),
            wit_svids: self.wits.held(),
            streams: self.calls.len() - waiting,
            waiting,
            first_x509_expiry: self.holdings.first_expiry(),
            first_jwt_expiry: self.tokens.first_expiry(self.now),
        }
    }

    /// Calls of such callers that wait for their first answer.
    pub(crate) fn waiting_like(&self, who: &Who) -> usize {
        let key = (Scope::Own, self.view.told_apart_by(who.clone()));
        let group = self.by_who.get(&key);
        let calls = group.and_then(|id| self.groups.get(id)).map(|g| &g.calls);
        let calls = calls.into_iter().flatten();
        calls
            .filter_map(|id| self.calls.get(id))
            .filter(|call| call.is_waiting())
            .count()
    }

    /// Takes up again what only a civil clock that ran ahead had ended.
    fn look_at_the_clock(&mut self) {
        let (now, agenda) = (self.now, &mut self.agenda);
        let own = self.view.own_bundle();
        let x509 = own.map_or(&[][..], |b| &b.bundle.x509_authorities);
        let wit = own.map_or(&[][..], |b| &b.wit);
        let mut back = self.holdings.clock_set_back(x509, now, agenda);
        back.append(&mut self.wits.clock_set_back(wit, now, agenda));
        for entry in &back {
            self.entry_stale(entry);
        }
    }

    fn on_alarm(&mut self, alarm: Alarm) {
        match alarm {
            Alarm::Renew(SvidKind::X509, entry) => self.holdings.renew(&entry, &mut self.agenda),
            Alarm::Renew(SvidKind::Wit, entry) => self.wits.renew(&entry, &mut self.agenda),
            Alarm::Expire(kind, entry) => {
                let expired = match kind {
                    SvidKind::X509 => self.holdings.expire(&entry, self.now, &mut self.agenda),
                    SvidKind::Wit => self.wits.expire(&entry, self.now, &mut self.agenda),
                };
                if expired {
                    self.entry_stale(&entry);
                }
            }
            Alarm::Retry(SvidKind::X509, entry) => self.holdings.retry(&entry),
            Alarm::Retry(SvidKind::Wit, entry) => self.wits.retry(&entry),
            Alarm::Resume(SvidKind::X509) => self.holdings.resume(&mut self.agenda),
            Alarm::Resume(SvidKind::Wit) => self.wits.resume(&mut self.agenda),
            Alarm::Call(call) => {
                self.stale_calls.insert(call);
            }
            Alarm::Settle(kind, group) => {
                if let Some(group) = self.groups.get_mut(&group) {
                    match kind {
                        SvidKind::X509 => group.settled = true,
                        SvidKind::Wit => group.wits.settled = true,
                    }
                    self.stale_calls.extend(&group.calls);
                }
            }
            Alarm::RetryJwt(request) => self.tokens.retry(request),
            Alarm::Forget(name) => self.remove_name(&name),
        }
    }

    fn on_event(&mut self, event: Event<X, J, W>) {
        match event {
            Event::Tick => {}
            Event::LinkUp => {
                self.link = Link::Catching;
                self.holdings.resume(&mut self.agenda);
                self.wits.resume(&mut self.agenda);
            }
            Event::LinkDown => self.link = Link::Down,
            Event::Step(step) => self.on_step(step),
            Event::NodeIs(node) => self.on_node(node),
            Event::ProcessGone(process) => self.on_process_gone(process),
            Event::Call {
                call,
                who,
                want,
                patience,
            } => {
                self.on_call(call, Scope::Own, who, want, OnMiss::Refuse, patience);
            }
            Event::CallOnBehalf {
                call,
                who,
                want,
                on_miss,
            } => self.on_call(call, Scope::OnBehalf, who, want, on_miss, None),
            Event::CallEnded(call) => self.end(call),
            Event::Withdraw(entry) => self.withdraw(entry),
            Event::X509Signed { request, results } => {
                let authorities = self
                    .view
                    .own_bundle()
                    .map_or(&[][..], |b| &b.bundle.x509_authorities);
                let fresh =
                    self.holdings
                        .signed(request, results, authorities, self.now, &mut self.agenda);
                for entry in &fresh {
                    self.entry_stale(entry);
                }
            }
            Event::X509SignFailed { request, fault } => {
                self.holdings
                    .sign_failed(request, fault, self.now, &mut self.agenda);
            }
            Event::WitSigned { request, results } => {
                let authorities = self.view.own_bundle().map_or(&[][..], |b| &b.wit);
                let fresh =
                    self.wits
                        .signed(request, results, authorities, self.now, &mut self.agenda);
                for entry in &fresh {
                    self.entry_stale(entry);
                }
            }
            Event::WitSignFailed { request, fault } => {
                self.wits
                    .sign_failed(request, fault, self.now, &mut self.agenda);
            }
            Event::JwtSigned { request, result } => {
                let authorities = self.view.own_bundle().map_or(&[][..], |b| &b.jwt);
                if let Some(outcome) = self.tokens.signed(request, result, authorities, self.now) {
                    self.on_token(request, &outcome);
                }
            }
        }
    }

    fn on_step(&mut self, step: Step) {
        // A step of a stream that has ended says nothing about the present.
        if self.link == Link::Down {
            return;
        }
        match self.view.apply(step) {
            Ok(difference) => {
                self.link = Link::InStep;
                self.on_difference(&difference);
            }
            Err(fault) => {
                self.link = Link::Down;
                self.fresh.push(Action::Resync(fault));
            }
        }
    }

    pub(crate) fn on_difference(&mut self, difference: &Difference) {
        for Changed { before, after } in &difference.entries {
            let Some(id) = before.as_ref().or(after.as_ref()).map(|e| &e.id) else {
                continue;
            };
            let old_groups = self.groups_of.get(id).cloned().unwrap_or_default();
            self.entry_index.remove(id);
            let mut new_groups = BTreeSet::new();
            if after.is_none() {
                self.withdrawn.remove(id);
            }
            // What an external store holds is not for the Workload API.
            let usable =
                |entry: &&Arc<Entry>| !entry.store_svid && !self.withdrawn.contains(&entry.id);
            if let Some(entry) = after.as_ref().filter(usable) {
                self.entry_index.add(&entry.id, &entry.selectors);
                new_groups = self.group_index.matching(&entry.selectors);
                new_groups.retain(|id| {
                    let group = self.groups.get(id);
                    group.is_some_and(|group| group.scope.admits(entry))
                });
                self.holdings
                    .entry_changed(before.as_deref(), entry, &mut self.agenda);
                if self.config.wit_cache_max.is_some() {
                    self.wits
                        .entry_changed(before.as_deref(), entry, &mut self.agenda);
                }
            } else {
                self.holdings.entry_removed(id, &mut self.agenda);
                self.wits.entry_removed(id, &mut self.agenda);
            }
            let tokens_change = match (before, after) {
                (Some(b), Some(a)) => {
                    b.spiffe_id != a.spiffe_id
                        || b.jwt_svid_ttl != a.jwt_svid_ttl
                        || b.jwt_svid_include_jti != a.jwt_svid_include_jti
                }
                _ => true,
            };
            if tokens_change {
                self.forget_tokens(id);
            }
            for group in old_groups.difference(&new_groups) {
                self.detach(id, *group);
            }
            for group in new_groups.difference(&old_groups) {
                self.attach(id, *group);
            }
            self.stale_groups.extend(old_groups.union(&new_groups));
        }
        self.on_naming(difference);
        if difference.bundles.contains(&self.config.trust_domain) {
            self.on_own_bundle();
        }
        if !difference.bundles.is_empty() {
            self.bundles_version += 1;
            self.stale_groups.extend(self.groups.keys());
        }
    }

    /// What was signed for an entry, or is being, is not what it gives: callers that wait for tokens
    /// ask again.
    pub(crate) fn forget_tokens(&mut self, id: &EntryId) {
        let waiters = self.tokens.forget(id, &mut self.agenda);
        for call in &waiters {
            self.with_jwt_call(*call, |jwt| {
                jwt.asked.remove(id);
            });
        }
        for group in self.groups_of.get(id).cloned().unwrap_or_default() {
            let calls = self.groups.get(&group).map(|g| g.calls.clone());
            for call in calls.unwrap_or_default() {
                self.with_jwt_call(call, |jwt| {
                    jwt.tokens.remove(id);
                });
            }
        }
    }

    fn withdraw(&mut self, id: EntryId) {
        if let Some(entry) = self.view.entries.get(&id).cloned() {
            self.on_difference(&Difference {
                entries: vec![Changed {
                    before: Some(entry),
                    after: None,
                }],
                ..Difference::default()
            });
        }
        self.withdrawn.insert(id);
        // The names of tasks sort by their time: the first is the one that is least likely to come.
        if self.withdrawn.len() > WITHDRAWN_MAX {
            self.withdrawn.pop_first();
        }
    }

    fn on_own_bundle(&mut self) {
        let Some(bundle) = self.view.own_bundle() else {
            return;
        };
        let changed = self.holdings.bundle_changed(
            &bundle.bundle.x509_authorities,
            self.now,
            &mut self.agenda,
        );
        let wits_changed = self
            .wits
            .bundle_changed(&bundle.wit, self.now, &mut self.agenda);
        let outcomes = self.tokens.keys_changed(&bundle.jwt, self.now);
        // Also what calls that wait for several tokens have collected so far (JWTI-14): it is asked
        // for again when they are looked at next.
        for call in self.calls.values_mut() {
            if let Kind::JwtSvids(jwt) = &mut call.kind {
                jwt.tokens.retain(|_, held| {
                    let key = held.token.verified_by(&bundle.jwt);
                    key.is_some_and(|key| !key.tainted)
                });
            }
        }
        for entry in changed.iter().chain(&wits_changed) {
            self.entry_stale(entry);
        }
        for (request, outcome) in outcomes {
            self.on_token(request, &outcome);
        }
    }

    /// Tells whoever has to be told, then asks for what is wanted.
    pub(crate) fn settle(&mut self) {
        // What was noted comes before what follows from it.
        self.collect();
        for id in std::mem::take(&mut self.stale_groups) {
            if let Some(group) = self.groups.get_mut(&id) {
                group.stale();
                self.stale_calls.extend(&group.calls);
            }
        }
        // Evaluating a call ends it at most; it never makes another one stale.
        while let Some(call) = self.stale_calls.pop_first() {
            self.evaluate(call);
        }
        self.holdings.balance(&mut self.agenda);
        self.wits.balance(&mut self.agenda);
        self.holdings.pump(&mut self.requests);
        self.wits.pump(&mut self.requests);
        self.collect();
        self.tokens.pump(&mut self.fresh);
        for action in &mut self.fresh {
            action.derive_by(&self.view.derived);
        }
        self.actions.extend(self.fresh.drain(..));
    }

    fn collect(&mut self) {
        self.fresh.extend(self.holdings.deeds().map(Action::from));
        self.fresh.extend(self.wits.deeds().map(Action::from));
    }

    pub(crate) fn entry_stale(&mut self, entry: &EntryId) {
        if let Some(groups) = self.groups_of.get(entry) {
            self.stale_groups.extend(groups);
        }
    }

    pub(crate) fn with_jwt_call(&mut self, id: CallId, change: impl FnOnce(&mut JwtCall<J>)) {
        if let Some(Call {
            kind: Kind::JwtSvids(jwt),
            ..
        }) = self.calls.get_mut(&id)
        {
            change(jwt);
        }
    }

    /// The bundles that a caller may validate tokens with: always at least the own ones.
    pub(crate) fn trust(&self, group: GroupId) -> JwtBundles {
        JwtBundles {
            by_domain: self.groups.get(&group).map_or_else(BTreeMap::new, |g| {
                g.jwt_bundles(&self.view, &self.config.trust_domain)
            }),
            encoded: Encoded::default(),
        }
    }

    /// The refusal of a call for which nothing matched to the end of its wait.
    pub(crate) fn refusal_of_miss(&self, group: GroupId, other_identities: bool) -> Refusal {
        match self.link {
            Link::InStep if self.is_full(group) => Refusal::BoundReached,
            Link::InStep if other_identities => Refusal::IdentityNotGranted,
            Link::InStep => Refusal::NoIdentity,
            Link::Down | Link::Catching => Refusal::OutOfStep,
        }
    }

    /// Whether the last word of the server on an identity of the group was that its rule is full.
    fn is_full(&self, group: GroupId) -> bool {
        let matches = self.groups.get(&group).map(|group| &group.matches);
        matches.into_iter().flatten().any(|id| {
            let faults = [self.holdings.denial(id), self.wits.denial(id)];
            faults.contains(&Some(SignFault::BoundReached))
        })
    }
}
