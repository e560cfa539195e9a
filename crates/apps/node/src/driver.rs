//! The loop that turns the roster's actions into deeds.
//!
//! Everything that happens to the node's view, SVIDs and callers goes through one channel into
//! one task. The order of deeds is the roster's; what must be on the disk before anyone sees it
//! is written first.

mod entries;
mod exits;
mod told;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use muster_model::{Bundle, Revision, Rule, RuleName, SpiffeId, Timestamp, TrustDomain};
use muster_peer::Processes;
use muster_roster::{
    Action, CallId, Event, Explanation, Inventory, JwtBundles, JwtIdentity, NotNamed, Note, OnMiss,
    Refusal, Roster, Stats, StepFault, ViewDigest, Want, Who, WitBundles, WitNote, WitUpdate,
    X509Bundles, X509Update,
};
use muster_rt::Clock;
use muster_rt::lifecycle::Shutdown;
use tokio::sync::{mpsc, oneshot, watch};

pub(crate) use self::entries::{SELECTOR_KIND, TaskEntries};
use self::exits::{Exits, Waited};
pub(crate) use self::told::Listener;
use self::told::Teller;
use crate::events::Events;
use crate::material::{HeldJwt, HeldWit, HeldX509};
use crate::sealed::{Keeper, NodeMemory};
use crate::signer::Signer;
use crate::state::{BundleFile, StateError};
use crate::upstream::Trust;

/// How many things may have happened before the loop looks at the clock again.
const BATCH: usize = 256;

/// The roster of this node.
pub(crate) type NodeRoster = Roster<HeldX509, HeldJwt, HeldWit>;
type NodeAction = Action<HeldX509, HeldJwt, HeldWit>;
pub(crate) type NodeEvent = Event<HeldX509, HeldJwt, HeldWit>;

/// Where the answers to a call go.
enum Reply {
    X509Svids(Teller<X509Update<HeldX509>>),
    X509Bundles(Teller<X509Bundles>),
    JwtBundles(Teller<JwtBundles>),
    Trust(oneshot::Sender<Result<Arc<JwtBundles>, Refusal>>),
    JwtSvids(oneshot::Sender<Result<Vec<JwtIdentity<HeldJwt>>, Refusal>>),
    WitSvids(Teller<WitUpdate<HeldWit>>),
    WitBundles(Teller<WitBundles>),
}

enum Command {
    Event(NodeEvent),
    Call {
        call: CallId,
        who: Who,
        want: Want,
        reply: Reply,
        asker: Asker,
        patience: Option<Duration>,
    },
    Identities(Who, oneshot::Sender<Matched>),
    Standing(oneshot::Sender<(Revision, ViewDigest)>),
    Stats(oneshot::Sender<Stats>),
    Explain(Who, usize, oneshot::Sender<Explanation>),
    TryRule(WhichRule, Vec<Who>, oneshot::Sender<Option<Tried>>),
    /// The wait for a process's end is over.
    Waited(Waited),
    LastInStep(oneshot::Sender<Option<Timestamp>>),
    Inventory(usize, oneshot::Sender<Inventory>),
    /// What the roster knows, for a successor; from then on nothing is sealed here.
    Memory(oneshot::Sender<Option<NodeMemory>>),
    /// The successor did not come about.
    KeepSealing,
}

/// A rule that is tried.
pub(crate) enum WhichRule {
    /// One of the node's view.
    OfView(RuleName),
    /// One that need not be written anywhere.
    Proposed(Box<Rule>),
}

/// What a rule makes of processes.
pub(crate) struct Tried {
    /// The rule, as the node has it.
    pub(crate) rule: Rule,
    /// One for each process, in their order.
    pub(crate) results: Vec<Result<SpiffeId, NotNamed>>,
}

/// Who asks for a workload.
#[derive(Clone, Copy)]
enum Asker {
    Itself,
    OnBehalf(OnMiss),
}

/// The identities that a caller has now.
pub(crate) struct Matched {
    /// Whether the view is what the server means: otherwise there may be others.
    pub(crate) in_step: bool,
    pub(crate) identities: Vec<SpiffeId>,
}

/// All bundles that the node knows, by trust domain.
pub(crate) type KnownBundles = Arc<BTreeMap<TrustDomain, Arc<Bundle>>>;

/// The way to the loop, for every other task. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Driver {
    commands: mpsc::UnboundedSender<Command>,
    next_call: Arc<AtomicU64>,
    asker: Asker,
    patience: Option<Duration>,
}

/// The loop has ended: the node is shutting down.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the node is shutting down")]
pub(crate) struct Stopped;

/// A call's place in the roster: ends the call when dropped.
pub(crate) struct Place {
    call: CallId,
    driver: Driver,
}

impl Drop for Place {
    fn drop(&mut self) {
        // A call that has ended already is a no-op to the roster, and a loop that has ended needs
        // no telling.
        let _stopped = self.driver.tell(Event::CallEnded(self.call));
    }
}

/// A stream of full answers.
pub(crate) struct Subscription<T> {
    pub(crate) answers: Listener<T>,
    _place: Place,
}

impl Driver {
    /// The same way for somebody who asks on behalf of workloads: entries of infrastructure do not
    /// count (BRK-35).
    pub(crate) fn on_behalf(&self, on_miss: OnMiss) -> Self {
        Self {
            asker: Asker::OnBehalf(on_miss),
            patience: None,
            ..self.clone()
        }
    }

    /// The way for a caller that waits no longer than that for an answer.
    pub(crate) fn patient(&self, patience: Option<Duration>) -> Self {
        Self {
            patience,
            ..self.clone()
        }
    }

    /// What a caller is entitled to now; nothing is held or signed for it.
    pub(crate) async fn identities(&self, who: Who) -> Result<Matched, Stopped> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Identities(who, reply))?;
        answer.await.map_err(|_closed| Stopped)
    }

    /// Opens a stream of X509-SVIDs.
    pub(crate) fn x509_svids(
        &self,
        who: Who,
    ) -> Result<Subscription<X509Update<HeldX509>>, Stopped> {
        self.subscribe(who, Want::X509Svids, Reply::X509Svids)
    }

    /// Opens a stream of X.509 bundles.
    pub(crate) fn x509_bundles(&self, who: Who) -> Result<Subscription<X509Bundles>, Stopped> {
        self.subscribe(who, Want::X509Bundles, Reply::X509Bundles)
    }

    /// Opens a stream of JWT bundles.
    pub(crate) fn jwt_bundles(&self, who: Who) -> Result<Subscription<JwtBundles>, Stopped> {
        self.subscribe(who, Want::JwtBundles, Reply::JwtBundles)
    }

    /// Opens a stream of WIT-SVIDs, of one identity or of all.
    pub(crate) fn wit_svids(
        &self,
        who: Who,
        spiffe_id: Option<SpiffeId>,
    ) -> Result<Subscription<WitUpdate<HeldWit>>, Stopped> {
        self.subscribe(who, Want::WitSvids { spiffe_id }, Reply::WitSvids)
    }

    /// Opens a stream of WIT bundles.
    pub(crate) fn wit_bundles(&self, who: Who) -> Result<Subscription<WitBundles>, Stopped> {
        self.subscribe(who, Want::WitBundles, Reply::WitBundles)
    }

    /// The bundles that a caller may validate tokens with.
    pub(crate) async fn trust(
        &self,
        who: Who,
    ) -> Result<Result<Arc<JwtBundles>, Refusal>, Stopped> {
        let (reply, answer) = oneshot::channel();
        let _place = self.call(who, Want::Trust, Reply::Trust(reply))?;
        answer.await.map_err(|_closed| Stopped)
    }

    /// Tokens for a caller.
    pub(crate) async fn jwt_svids(
        &self,
        who: Who,
        want: Want,
    ) -> Result<Result<Vec<JwtIdentity<HeldJwt>>, Refusal>, Stopped> {
        let (reply, answer) = oneshot::channel();
        let _place = self.call(who, want, Reply::JwtSvids(reply))?;
        answer.await.map_err(|_closed| Stopped)
    }

    /// Tells the roster that something happened.
    pub(crate) fn tell(&self, event: NodeEvent) -> Result<(), Stopped> {
        self.send(Command::Event(event))
    }

    /// The revision and digest with which to open the stream from the server.
    pub(crate) async fn standing(&self) -> Result<(Revision, ViewDigest), Stopped> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Standing(reply))?;
        answer.await.map_err(|_closed| Stopped)
    }

    /// How the roster stands.
    pub(crate) async fn stats(&self) -> Result<Stats, Stopped> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Stats(reply))?;
        answer.await.map_err(|_closed| Stopped)
    }

    /// Why a caller has what it has; lists at most `nearest` entries, and as many rules, that do not
    /// match.
    pub(crate) async fn explain(&self, who: Who, nearest: usize) -> Result<Explanation, Stopped> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Explain(who, nearest, reply))?;
        answer.await.map_err(|_closed| Stopped)
    }

    /// What a rule would give such processes now; nothing is held or signed for them. `None` where the
    /// view does not have the rule.
    pub(crate) async fn try_rule(
        &self,
        rule: WhichRule,
        processes: Vec<Who>,
    ) -> Result<Option<Tried>, Stopped> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::TryRule(rule, processes, reply))?;
        answer.await.map_err(|_closed| Stopped)
    }

    /// When the view was last known to be what the server means; now, while it is.
    pub(crate) async fn last_in_step(&self) -> Result<Option<Timestamp>, Stopped> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::LastInStep(reply))?;
        answer.await.map_err(|_closed| Stopped)
    }

    /// What the node holds; lists at most `limit` entries.
    pub(crate) async fn inventory(&self, limit: usize) -> Result<Inventory, Stopped> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Inventory(limit, reply))?;
        answer.await.map_err(|_closed| Stopped)
    }

    /// What the roster knows, for a successor. Nothing is sealed any more until
    /// [`Driver::keep_sealing`].
    pub(crate) async fn memory(&self) -> Result<Option<NodeMemory>, Stopped> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Memory(reply))?;
        answer.await.map_err(|_closed| Stopped)
    }

    /// The successor did not come about: sealing goes on.
    pub(crate) fn keep_sealing(&self) {
        // A loop that has ended seals nothing.
        let _stopped = self.send(Command::KeepSealing).is_err();
    }

    fn subscribe<T>(
        &self,
        who: Who,
        want: Want,
        reply: impl FnOnce(Teller<T>) -> Reply,
    ) -> Result<Subscription<T>, Stopped> {
        let (teller, answers) = told::channel();
        let place = self.call(who, want, reply(teller))?;
        Ok(Subscription {
            answers,
            _place: place,
        })
    }

    fn call(&self, who: Who, want: Want, reply: Reply) -> Result<Place, Stopped> {
        let call = CallId(self.next_call.fetch_add(1, Ordering::Relaxed));
        self.send(Command::Call {
            call,
            who,
            want,
            reply,
            asker: self.asker,
            patience: self.patience,
        })?;
        Ok(Place {
            call,
            driver: self.clone(),
        })
    }

    fn send(&self, command: Command) -> Result<(), Stopped> {
        self.commands.send(command).map_err(|_closed| Stopped)
    }
}

/// The loop's own things.
pub(crate) struct Loop {
    roster: NodeRoster,
    commands: mpsc::UnboundedReceiver<Command>,
    replies: HashMap<CallId, Reply>,
    clock: Arc<dyn Clock>,
    signer: Signer,
    events: Events,
    trust: Trust,
    bundle_file: BundleFile,
    /// The last own bundle that was written to the disk.
    kept_bundle: Option<Bundle>,
    resync: watch::Sender<u64>,
    in_step: watch::Sender<bool>,
    bundles: watch::Sender<KnownBundles>,
    bundles_version: u64,
    /// When the view was last known to be in step.
    last_in_step: Option<Timestamp>,
    keeper: Keeper,
    exits: Exits,
    tasks: mpsc::UnboundedSender<TaskEntries>,
}

/// What the loop needs besides the roster.
pub(crate) struct Parts {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) signer: Signer,
    pub(crate) events: Events,
    pub(crate) trust: Trust,
    pub(crate) bundle_file: BundleFile,
    /// Grows when the stream from the server is to be opened anew.
    pub(crate) resync: watch::Sender<u64>,
    /// Whether the view is in step with the server.
    pub(crate) in_step: watch::Sender<bool>,
    /// All bundles of the view.
    pub(crate) bundles: watch::Sender<KnownBundles>,
    /// Seals what the roster knows.
    pub(crate) keeper: Keeper,
}

/// The way to a loop that is yet to be made: other tasks need it first.
pub(crate) struct Unstarted {
    pub(crate) driver: Driver,
    commands: mpsc::UnboundedReceiver<Command>,
    tasks: mpsc::UnboundedSender<TaskEntries>,
    processes: Processes,
}

impl Unstarted {
    /// `tasks` is told which tasks have an entry; callers are known in `processes`.
    pub(crate) fn new(tasks: mpsc::UnboundedSender<TaskEntries>, processes: Processes) -> Self {
        let (sender, commands) = mpsc::unbounded_channel();
        Self {
            driver: Driver {
                commands: sender,
                next_call: Arc::new(AtomicU64::new(1)),
                asker: Asker::Itself,
                patience: None,
            },
            commands,
            tasks,
            processes,
        }
    }

    /// The loop, ready to run.
    pub(crate) fn start(self, roster: NodeRoster, parts: Parts) -> Loop {
        let kept = roster.own_bundle().cloned();
        Loop {
            roster,
            commands: self.commands,
            replies: HashMap::new(),
            clock: parts.clock,
            signer: parts.signer,
            events: parts.events,
            trust: parts.trust,
            bundle_file: parts.bundle_file,
            // What an earlier run knew, it wrote; the disk may have a newer one by now.
            kept_bundle: kept,
            resync: parts.resync,
            in_step: parts.in_step,
            bundles: parts.bundles,
            bundles_version: 0,
            last_in_step: None,
            keeper: parts.keeper,
            exits: Exits::new(self.processes, self.driver),
            tasks: self.tasks,
        }
    }
}

impl Loop {
    /// Runs until the shutdown begins. Streams end by themselves then, for they hear of it too.
    pub(crate) async fn run(mut self, shutdown: Shutdown) -> Result<(), StateError> {
        let mut ending = std::pin::pin!(shutdown.begun());
        loop {
            let wait = self.wait();
            tokio::select! {
                biased;
                _reason = &mut ending => {
                    self.end_calls();
                    self.keeper.finish(&self.roster, self.clock.now()).await;
                    return Ok(());
                }
                command = self.commands.recv() => {
                    let Some(command) = command else { return Ok(()) };
                    self.obey(command);
                    // What else is there now is dealt with by the same glance at the clock.
                    for _ in 0..BATCH {
                        let Ok(command) = self.commands.try_recv() else { break };
                        self.obey(command);
                    }
                }
                () = tokio::time::sleep(wait) => self.hear(Event::Tick),
            }
            self.act().await?;
            self.keeper.keep(&self.roster, self.clock.now()).await;
        }
    }

    /// Ends every call, and those that are still to be heard, before anything is waited for: who
    /// gets no further answer is told at once (WAPI-14).
    fn end_calls(&mut self) {
        self.commands.close();
        while self.commands.try_recv().is_ok() {}
        self.replies = HashMap::new();
    }

    fn wait(&self) -> Duration {
        let now = self.clock.now();
        let roster = self.roster.poll_timeout();
        roster
            .map(|at| at.saturating_sub(now.mono))
            .into_iter()
            .chain(self.keeper.wait(now))
            .min()
            // Rounded up, or the last part of a millisecond would be waited away in a spin.
            .map_or(Duration::from_hours(1), |wait| {
                wait + Duration::from_millis(1)
            })
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Event(event) => {
                if let Event::CallEnded(call) = &event {
                    self.replies.remove(call);
                }
                self.hear(event);
            }
            Command::Call {
                call,
                who,
                want,
                reply,
                asker,
                patience,
            } => {
                self.replies.insert(call, reply);
                self.hear(match asker {
                    Asker::Itself => Event::Call {
                        call,
                        who,
                        want,
                        patience,
                    },
                    Asker::OnBehalf(on_miss) => Event::CallOnBehalf {
                        call,
                        who,
                        want,
                        on_miss,
                    },
                });
            }
            // Whoever asked may be gone.
            Command::Identities(who, reply) => drop(reply.send(Matched {
                in_step: self.roster.is_in_step(),
                identities: self.roster.identities(&who),
            })),
            Command::Standing(reply) => drop(reply.send(self.roster.standing())),
            Command::Memory(reply) => {
                self.keeper.rest();
                drop(reply.send(self.roster.memory()));
            }
            Command::KeepSealing => self.keeper.go_on(),
            Command::Stats(reply) => {
                // What has expired since the last event is not counted.
                self.hear(Event::Tick);
                reply.send(self.roster.stats()).ok();
            }
            Command::Explain(who, nearest, reply) => {
                drop(reply.send(self.roster.explain(&who, nearest)));
            }
            Command::TryRule(rule, processes, reply) => {
                let rule = match rule {
                    WhichRule::Proposed(rule) => Some(*rule),
                    WhichRule::OfView(name) => self.roster.rule(&name).cloned(),
                };
                let tried = rule.map(|rule| Tried {
                    results: processes
                        .iter()
                        .map(|who| self.roster.try_rule(&rule, who))
                        .collect(),
                    rule,
                });
                drop(reply.send(tried));
            }
            Command::Waited(waited) => {
                if let Some(process) = self.exits.ended(waited) {
                    self.hear(Event::ProcessGone(process));
                }
            }
            Command::LastInStep(reply) => {
                let now = self.clock.now().wall;
                let at = if self.roster.is_in_step() {
                    Some(now)
                } else {
                    self.last_in_step
                };
                let _gone = reply.send(at).is_err();
            }
            Command::Inventory(limit, reply) => drop(reply.send(self.roster.inventory(limit))),
        }
    }

    fn hear(&mut self, event: NodeEvent) {
        if matches!(
            event,
            Event::Step(_) | Event::X509Signed { .. } | Event::JwtSigned { .. }
        ) {
            self.keeper.changed();
        }
        let of_tasks = TaskEntries::of(&event);
        self.roster.handle(event, self.clock.now());
        if let Some(news) = of_tasks.filter(|news| news.is_of_link() || self.roster.is_in_step()) {
            // Nobody may be there to hear it any more: the node is shutting down.
            let _gone = self.tasks.send(news).is_err();
        }
    }

    /// Does what is to be done, in order.
    async fn act(&mut self) -> Result<(), StateError> {
        // Persist before publish: what a workload or a handshake learns of a new bundle, a restart
        // of the node must know as well.
        self.keep_bundle().await?;
        self.publish_bundles();
        while let Some(action) = self.roster.poll_action() {
            self.perform(action);
        }
        let in_step = self.roster.is_in_step();
        if in_step {
            self.last_in_step = Some(self.clock.now().wall);
        }
        self.in_step.send_if_modified(|known| {
            let changed = *known != in_step;
            *known = in_step;
            changed
        });
        Ok(())
    }

    fn publish_bundles(&mut self) {
        let version = self.roster.bundles_version();
        if version == self.bundles_version {
            return;
        }
        self.bundles_version = version;
        let bundles = self.roster.bundles();
        let bundles = bundles.map(|b| (b.trust_domain.clone(), Arc::new(b.clone())));
        self.bundles.send_replace(Arc::new(bundles.collect()));
    }

    async fn keep_bundle(&mut self) -> Result<(), StateError> {
        let Some(bundle) = self.roster.own_bundle() else {
            return Ok(());
        };
        if self.kept_bundle.as_ref() == Some(bundle) {
            return Ok(());
        }
        let bundle = bundle.clone();
        let (file, content) = (self.bundle_file.clone(), bundle.clone());
        let written = tokio::task::spawn_blocking(move || file.write(&content)).await;
        match written {
            Ok(result) => result?,
            // The runtime is going down.
            Err(_cancelled) => return Ok(()),
        }
        self.trust.set(bundle.clone());
        self.kept_bundle = Some(bundle);
        Ok(())
    }

    fn perform(&mut self, action: NodeAction) {
        match action {
            Action::SignX509 { request, entries } => self.signer.sign_x509(request, entries),
            Action::SignWit { request, entries } => self.signer.sign_wit(request, entries),
            Action::SignJwt {
                request,
                entry,
                audience,
            } => self.signer.sign_jwt(request, entry, audience),
            Action::X509Svids(call, update) => {
                if let Some(Reply::X509Svids(reply)) = self.replies.get(&call) {
                    reply.tell(update);
                }
            }
            Action::X509Bundles(call, update) => {
                if let Some(Reply::X509Bundles(reply)) = self.replies.get(&call) {
                    reply.tell(update);
                }
            }
            Action::WitSvids(call, update) => {
                if let Some(Reply::WitSvids(reply)) = self.replies.get(&call) {
                    reply.tell(update);
                }
            }
            Action::WitBundles(call, update) => {
                if let Some(Reply::WitBundles(reply)) = self.replies.get(&call) {
                    reply.tell(update);
                }
            }
            Action::JwtBundles(call, update) => match self.replies.remove(&call) {
                Some(Reply::Trust(reply)) => drop(reply.send(Ok(update))),
                Some(Reply::JwtBundles(reply)) => {
                    reply.tell(update);
                    self.replies.insert(call, Reply::JwtBundles(reply));
                }
                Some(
                    other @ (Reply::X509Svids(_)
                    | Reply::X509Bundles(_)
                    | Reply::JwtSvids(_)
                    | Reply::WitSvids(_)
                    | Reply::WitBundles(_)),
                ) => {
                    self.replies.insert(call, other);
                }
                None => {}
            },
            Action::JwtSvids(call, tokens) => {
                if let Some(Reply::JwtSvids(reply)) = self.replies.remove(&call) {
                    drop(reply.send(Ok(tokens)));
                }
            }
            Action::End(call, refusal) => match self.replies.remove(&call) {
                Some(Reply::X509Svids(reply)) => reply.end(refusal),
                Some(Reply::X509Bundles(reply)) => reply.end(refusal),
                Some(Reply::JwtBundles(reply)) => reply.end(refusal),
                Some(Reply::WitSvids(reply)) => reply.end(refusal),
                Some(Reply::WitBundles(reply)) => reply.end(refusal),
                Some(Reply::Trust(reply)) => drop(reply.send(Err(refusal))),
                Some(Reply::JwtSvids(reply)) => drop(reply.send(Err(refusal))),
                None => {}
            },
            Action::Resync(fault) => self.start_over(&fault),
            Action::AwaitExit(process) => self.exits.wait_for(process),
            Action::Note(note) => self.note(note),
        }
    }

    fn start_over(&self, fault: &StepFault) {
        tracing::error!(reason = %fault, "the server's view of this node is not believed; starting over");
        self.resync.send_modify(|count| *count += 1);
    }

    fn note(&self, note: Note) {
        match &note {
            Note::Issued {
                entry,
                spiffe_id,
                serial,
                ..
            } => tracing::info!(entry_id = %entry, %spiffe_id, %serial, "X509-SVID signed"),
            Note::NotSigned {
                entry,
                fault,
                failures,
            } => tracing::warn!(entry_id = %entry, ?fault, failures, "X509-SVID not signed"),
            Note::RequestFailed {
                entries,
                fault,
                failures,
                again_in,
            } => tracing::warn!(
                entries,
                ?fault,
                failures,
                ?again_in,
                "a request to sign failed"
            ),
            Note::AuthorityGone { entry, serial } => tracing::warn!(
                entry_id = %entry, %serial,
                "X509-SVID dropped: its authority left the bundle or is tainted"
            ),
            Note::Expired { entry, serial } => {
                tracing::warn!(entry_id = %entry, %serial, "X509-SVID expired before it was renewed");
            }
            Note::Wit(note) => note_wit(note),
        }
        self.events.note(note, self.clock.now().wall);
    }
}

fn note_wit(note: &WitNote) {
    match note {
        WitNote::Issued {
            entry,
            spiffe_id,
            token_id,
            ..
        } => tracing::info!(entry_id = %entry, %spiffe_id, token_id, "WIT-SVID signed"),
        WitNote::NotSigned {
            entry,
            fault,
            failures,
        } => tracing::warn!(entry_id = %entry, ?fault, failures, "WIT-SVID not signed"),
        WitNote::RequestFailed {
            entries,
            fault,
            failures,
            again_in,
        } => tracing::warn!(
            entries,
            ?fault,
            failures,
            ?again_in,
            "a request to sign WIT-SVIDs failed"
        ),
        WitNote::AuthorityGone { entry, token_id } => tracing::warn!(
            entry_id = %entry, token_id,
            "WIT-SVID dropped: its authority left the bundle or is tainted"
        ),
        WitNote::Expired { entry, token_id } => {
            tracing::warn!(entry_id = %entry, token_id, "WIT-SVID expired before it was renewed");
        }
    }
}
