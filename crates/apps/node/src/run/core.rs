//! The parts behind the sockets, and what they take up of an earlier run.

use std::sync::Arc;

use muster_crypto::{Purpose, random};
use muster_model::{Now, Timestamp};
use muster_proto::spire::agent::debug::v1::debug_server::DebugServer;
use muster_roster::{Config as RosterConfig, Event, Roster};
use muster_rt::Clock;
use muster_svid::x509::X509Svid;
use tokio::sync::watch;
use zeroize::Zeroizing;

use super::{StartError, failed};
use crate::admin::DebugService;
use crate::attestors;
use crate::config::Config;
use crate::driver::{Driver, KnownBundles, Loop, NodeRoster, Parts, Unstarted};
use crate::events::Events;
use crate::handover::Pause;
use crate::link::Link;
use crate::material::Renewal;
use crate::sealed::{self, Forgotten, Keeper, NodeMemory, Seal};
use crate::signer::{KeyTypes, Signer};
use crate::state::State;
use crate::upstream::{Trust, Upstream};

/// The parts behind the sockets: the roster's loop, and the link to the server.
pub(super) struct Core {
    pub(super) driver_loop: Loop,
    pub(super) link: Link,
    /// The way to the server.
    pub(super) upstream: Upstream,
    /// The node's own SVID.
    pub(super) node: watch::Receiver<Option<X509Svid>>,
    pub(super) trust: Trust,
    pub(super) bundles: watch::Receiver<KnownBundles>,
    /// Whether the node serves: it has been in step with its server, or an earlier run was.
    pub(super) serving: watch::Receiver<bool>,
}

impl Core {
    /// SPIRE's debug service.
    pub(super) fn debug(
        &self,
        started_at: Timestamp,
        driver: &Driver,
        clock: &Arc<dyn Clock>,
    ) -> DebugServer<DebugService> {
        DebugServer::new(DebugService {
            started_at,
            node: self.node.clone(),
            trust: self.trust.clone(),
            driver: driver.clone(),
            clock: clock.clone(),
        })
    }

    pub(super) fn new(
        config: Config,
        state: State,
        unstarted: Unstarted,
        events: &Events,
        upstream: Upstream,
        pause: Pause,
        memory: Option<Zeroizing<Vec<u8>>>,
    ) -> Result<Self, StartError> {
        let trust = upstream.trust().clone();
        let clock = &upstream.clock().clone();
        let (node_sender, node) = watch::channel(None);
        let (verdict_sender, verdicts) = watch::channel(None);
        let (resync_sender, resync) = watch::channel(0);
        let (in_step_sender, in_step) = watch::channel(false);
        let (bundles_sender, bundles) = watch::channel(KnownBundles::default());
        let seed = u64::from_be_bytes(random::bytes());
        let driver = unstarted.driver.clone();
        let api = &config.workload_api;
        let mut roster = Roster::new(
            RosterConfig {
                trust_domain: config.trust_domain.clone(),
                seed,
                hold: api.hold,
                allow_unauthenticated_verifiers: api.allow_unauthenticated_verifiers,
                x509_cache_max: config.svid.x509_cache_max,
                jwt_cache_max: config.svid.jwt_cache_max,
                wit_cache_max: config.wit.enabled.then_some(config.wit.cache_max),
            },
            clock.now(),
        );
        let sealed = take_up(&config, &state, memory, &mut roster, clock.now());
        // What an earlier run knew is served at once.
        let serving = match roster.own_bundle() {
            Some(_) => watch::channel(true).1,
            None => in_step,
        };
        let parts = Parts {
            clock: clock.clone(),
            signer: Signer::new(
                upstream.clone(),
                driver.clone(),
                KeyTypes {
                    x509: config.svid.key_type,
                    wit: config.wit.key_type,
                },
                config.svid.availability_target,
                node.clone(),
                verdict_sender,
            ),
            events: events.clone(),
            trust: trust.clone(),
            bundle_file: state.bundle_file(),
            resync: resync_sender,
            in_step: in_step_sender,
            bundles: bundles_sender,
            keeper: Keeper::new(sealed, node.clone()),
        };
        let attestor = attestors::of_node(
            config.join.plugin.as_ref(),
            &config.data_dir,
            &config.trust_domain,
        )
        .map_err(failed("node attestor"))?;
        let link = Link {
            upstream: upstream.clone(),
            state,
            attestor,
            join: config.join,
            driver,
            pause,
            seed,
            availability_target: config.svid.availability_target,
            node: node_sender,
            resync,
            verdicts,
        };
        Ok(Self {
            driver_loop: unstarted.start(roster, parts),
            link,
            upstream,
            node,
            trust,
            bundles,
            serving,
        })
    }
}

/// Takes up what an earlier run has sealed, and gives the seal to use from now on, if one is
/// wanted.
fn take_up(
    config: &Config,
    state: &State,
    handed_on: Option<Zeroizing<Vec<u8>>>,
    roster: &mut NodeRoster,
    now: Now,
) -> Option<Seal> {
    let mut seal = Seal::of(&config.data_dir, &config.trust_domain);
    let node = state.svid().map(|svid| svid.spiffe_id.clone());
    let survives = config.state.survive_restart;
    let Some(node) = node else {
        seal.wipe();
        return survives.then_some(seal);
    };
    roster.handle(Event::NodeIs(node.clone()), now);
    let renewal = Renewal {
        node: node.clone(),
        availability_target: config.svid.availability_target,
    };
    let read = |bytes: &[u8]| Ok(sealed::read(bytes, &config.trust_domain, &renewal)?);
    // Also when it is not read: what is sealed from now on is sealed with the same key.
    let sealed = if survives {
        seal.take_up(&node)
    } else {
        seal.wipe();
        Err(Forgotten::Nothing)
    };
    // What comes from hand to hand is as new as can be.
    let remembered = match handed_on.filter(|bytes| !bytes.is_empty()) {
        Some(bytes) => read(&bytes),
        None => sealed.and_then(|plain| read(plain.expose(Purpose::Seal))),
    };
    match remembered {
        Ok(memory) => remember(roster, memory, now),
        Err(Forgotten::Nothing) => {}
        Err(why) => {
            tracing::warn!(reason = %why, "the sealed state of an earlier run was wiped");
            seal.wipe();
        }
    }
    survives.then_some(seal)
}

fn remember(roster: &mut NodeRoster, memory: NodeMemory, now: Now) {
    match roster.remember(memory, now) {
        Ok(remembered) => tracing::info!(
            entries = remembered.entries,
            names = remembered.names,
            x509_svids = remembered.x509_svids,
            jwt_svids = remembered.jwt_svids,
            "serving what an earlier run held, until the server says more"
        ),
        Err(error) => tracing::warn!(%error, "what an earlier run knew is not believed"),
    }
}
