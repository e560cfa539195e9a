//! Composition: from a configuration to a serving node, and down again.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use muster_attest::workload::unix::UnixAttestor;
use muster_crypto::{Purpose, random};
use muster_model::{Now, TrustDomain};
use muster_peer::{BindError, Limits, ListenOptions, Listener};
use muster_plugin::workload::WorkloadAttestor;
use muster_proto::muster::node::admin::v1::node_admin_server::NodeAdminServer;
use muster_proto::spire::agent::debug::v1::debug_server::DebugServer;
use muster_proto::spire::api::agent::logger::v1::logger_server::LoggerServer;
use muster_roster::{Config as RosterConfig, Roster};
use muster_rt::lifecycle::{Ready, Shutdown, Supervisor};
use muster_rt::metrics::{Exporter, Gauges};
use muster_rt::telemetry::{self, LevelControl};
use muster_rt::{Clock, SystemClock};
use muster_svid::x509::X509Svid;
use tokio::sync::watch;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use zeroize::Zeroizing;

use crate::admin::{AdminService, DebugService, LoggerService, Settings};
use crate::config::Config;
use crate::driver::{Driver, Loop, NodeRoster, Parts, Unstarted};
use crate::events::Events;
use crate::handover::{Door, Inherited, Pause, Predecessor, Upgrade};
use crate::link::Link;
use crate::material::Renewal;
use crate::metrics;
use crate::sealed::{self, Forgotten, Keeper, NodeMemory, Seal};
use crate::signer::Signer;
use crate::state::State;
use crate::upstream::{Trust, Upstream};
use crate::workload_api::{self, WorkloadApi};

/// How long calls that are under way may take to end.
const DRAIN: Duration = Duration::from_secs(10);
/// A client that answers no ping for so long is gone; idle streams are never ended (WEP-18).
const KEEPALIVE: Duration = Duration::from_mins(1);
/// How long connections may stay open once the shutdown has begun.
const LAST_WORDS: Duration = Duration::from_secs(2);
const ADMIN: &str = "muster.node.admin.v1.NodeAdmin";
const DEBUG: &str = "spire.agent.debug.v1.Debug";
const LOGGER: &str = "spire.api.agent.logger.v1.Logger";
const HEALTH: &str = "grpc.health.v1.Health";

/// Why the node did not start.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {cause}")]
pub struct StartError {
    what: &'static str,
    cause: String,
}

fn failed<E: std::fmt::Display>(what: &'static str) -> impl FnOnce(E) -> StartError {
    move |cause| StartError {
        what,
        cause: cause.to_string(),
    }
}

/// Reads the configuration, starts logging, serves until a signal; the exit code tells how it went.
pub async fn run(config_path: &Path) -> ExitCode {
    let config = match Config::read(config_path) {
        Ok(config) => config,
        Err(faults) => return fail(&faults),
    };
    let level = match telemetry::start(config.log) {
        Ok(level) => level,
        Err(error) => return fail(&error),
    };
    let shutdown = match Shutdown::on_signals() {
        Ok(shutdown) => shutdown,
        Err(error) => return fail(&format!("cannot handle signals: {error}")),
    };
    if let Err(error) = muster_peer::process::raise_descriptor_limit() {
        tracing::warn!(%error, "the limit of open files was left as it is");
    }
    if let Err(error) = muster_peer::process::keep_memory_private() {
        tracing::warn!(%error, "core dumps and debuggers could not be kept out");
    }
    let role = match Role::of_process() {
        Ok(role) => role,
        Err(error) => return fail(&error),
    };
    match serve_as(config, level, SystemClock::shared(), shutdown, role).await {
        Ok(code) => code,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Says on standard error why the program ends before logging could start.
fn fail(why: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("muster-node: {why}");
    ExitCode::FAILURE
}

/// Serves until the shutdown begins.
///
/// The sockets are there first, so that workloads find them however long the server is away; calls
/// are held meanwhile (WEP-11, WEP-16).
pub async fn serve(
    config: Config,
    level: LevelControl,
    clock: Arc<dyn Clock>,
    shutdown: Shutdown,
) -> Result<ExitCode, StartError> {
    serve_as(config, level, clock, shutdown, Role::default()).await
}

/// Who came before, and who may come after.
#[derive(Default)]
struct Role {
    upgrade: Option<Upgrade>,
    inherited: Option<Inherited>,
}

impl Role {
    fn of_process() -> Result<Self, StartError> {
        Ok(Self {
            upgrade: Some(Upgrade::on_signal().map_err(failed("cannot handle signals"))?),
            inherited: Inherited::receive().map_err(failed("handover"))?,
        })
    }
}

async fn serve_as(
    config: Config,
    level: LevelControl,
    clock: Arc<dyn Clock>,
    shutdown: Shutdown,
    role: Role,
) -> Result<ExitCode, StartError> {
    let Role {
        upgrade,
        mut inherited,
    } = role;
    // Only now may the data directory be opened: the node before has let go of it.
    let memory = inherited
        .as_mut()
        .map(Inherited::take)
        .transpose()
        .map_err(failed("handover"))?;
    let sockets = inherited.as_mut().and_then(|one| one.sockets.take());
    let state = State::open(&config.data_dir, config.trust_domain.clone())
        .map_err(failed("data directory"))?;
    let sockets = Sockets::open(&config, sockets)?;
    let pause = Pause::new();
    let events = Events::new();
    let unstarted = Unstarted::new();
    let driver = unstarted.driver.clone();
    let started_at = clock.now().wall;
    let attestors: Vec<Arc<dyn WorkloadAttestor>> = vec![Arc::new(UnixAttestor::new(config.unix))];
    let api = workload_api(&config, &driver, &attestors, &events, &clock, &shutdown);
    let (health_reporter, health) = tonic_health::server::health_reporter();
    let workload_routes = with_reflection(
        Routes::new(api).add_service(health.clone()),
        &[workload_api::NAME, HEALTH],
    )?;
    let trust_domain = config.trust_domain.clone();
    let per_connection = config.workload_api.max_calls_per_connection;
    let metrics = config.metrics.listen;
    announce(&config);
    let settings = settings(&config);
    let before = Before {
        state,
        memory,
        pause: pause.clone(),
    };
    let core = Core::new(config, before, unstarted, &events, &clock)?;
    let gauges = metrics::gauges(driver.clone(), core.node.clone(), clock.clone());
    let debug = DebugServer::new(DebugService {
        started_at,
        node: core.node.clone(),
        trust: core.trust,
        driver: driver.clone(),
        clock: clock.clone(),
    });
    let admin = NodeAdminServer::new(AdminService {
        trust_domain,
        started_at,
        node: core.node,
        driver: driver.clone(),
        attestors,
        settings,
        events,
        clock,
        shutdown: shutdown.clone(),
    });
    let admin_routes = Routes::new(admin)
        .add_service(debug)
        .add_service(LoggerServer::new(LoggerService::new(level)))
        .add_service(health);
    let admin_routes = with_reflection(admin_routes, &[ADMIN, DEBUG, LOGGER, HEALTH])?;

    let ready = Ready::new();
    let mut supervisor = Supervisor::new(shutdown.clone(), ready.clone(), DRAIN);
    supervisor.essential("roster", core.driver_loop.run(shutdown.clone()));
    supervisor.essential("server link", core.link.run(shutdown.clone()));
    if let Some(address) = metrics {
        let exporter = exporter(address, gauges, inherited.as_ref()).await?;
        supervisor.essential("metrics", exporter.run(shutdown.clone()));
    }
    let health = report(health_reporter, core.serving, shutdown.clone());
    supervisor.essential("health", health);
    for (name, routes, socket) in [
        ("Workload API", workload_routes, sockets.workload),
        ("admin socket", admin_routes, sockets.admin),
    ] {
        let (up, end) = (ready.expect(name), shutdown.clone());
        supervisor.essential(name, async move {
            up.declare();
            answer(routes, socket, per_connection, end).await
        });
    }
    if let Some(upgrade) = upgrade {
        let (workload, admin) = sockets.spare;
        let node = Predecessor {
            workload,
            admin,
            driver,
            pause,
            door: sockets.door,
            shutdown,
        };
        supervisor.essential("handover", upgrade.run(node));
    }
    if let Some(inherited) = inherited {
        tokio::spawn(confirm(inherited, ready));
    }
    Ok(supervisor.run().await.exit_code())
}

/// Says where the node serves, and what an operator should know.
fn announce(config: &Config) {
    if let Some(warning) = config.metrics.warning() {
        tracing::warn!("{warning}");
    }
    tracing::info!(
        trust_domain = %config.trust_domain,
        server = %config.server,
        workload_socket = %config.workload_socket.display(),
        admin_socket = %config.admin_socket.display(),
        "serving"
    );
}

/// What the operator's socket tells of the configuration.
fn settings(config: &Config) -> Settings {
    Settings {
        allow_unauthenticated_verifiers: config.workload_api.allow_unauthenticated_verifiers,
        availability_target_seconds: config
            .svid
            .availability_target
            .map_or(0, |target| target.as_secs()),
    }
}

fn workload_api(
    config: &Config,
    driver: &Driver,
    attestors: &[Arc<dyn WorkloadAttestor>],
    events: &Events,
    clock: &Arc<dyn Clock>,
    shutdown: &Shutdown,
) -> WorkloadApi {
    WorkloadApi::new(
        config.trust_domain.clone(),
        driver.clone(),
        attestors.to_vec(),
        events.clone(),
        clock.clone(),
        shutdown.clone(),
        config.workload_api.max_calls,
    )
}

/// What the node listens on.
struct Sockets {
    workload: Door,
    admin: Door,
    /// Both once more, for a successor.
    spare: (OwnedFd, OwnedFd),
    /// Closes both doors.
    door: watch::Sender<bool>,
}

impl Sockets {
    fn open(config: &Config, inherited: Option<(OwnedFd, OwnedFd)>) -> Result<Self, StartError> {
        let (workload, admin) = bind_both(config, inherited)?;
        let spare = workload
            .duplicate()
            .and_then(|first| Ok((first, admin.duplicate()?)))
            .map_err(failed("sockets"))?;
        let door = watch::Sender::new(false);
        Ok(Self {
            workload: open(config, workload, &door)?,
            admin: open(config, admin, &door)?,
            spare,
            door,
        })
    }
}

/// The listener of the figures. The node before answers there until it ends.
async fn exporter(
    address: SocketAddr,
    gauges: Gauges,
    inherited: Option<&Inherited>,
) -> Result<Exporter, StartError> {
    match inherited {
        Some(_) => Exporter::succeed(address, gauges),
        None => Exporter::bind(address, gauges).await,
    }
    .map_err(failed("metrics"))
}

/// The parts behind the sockets: the roster's loop, and the link to the server.
struct Core {
    driver_loop: Loop,
    link: Link,
    /// The node's own SVID.
    node: watch::Receiver<Option<X509Svid>>,
    trust: Trust,
    /// Whether the node serves: it has been in step with its server, or an earlier run was.
    serving: watch::Receiver<bool>,
}

/// What an earlier run, or the process before, has left.
struct Before {
    state: State,
    memory: Option<Zeroizing<Vec<u8>>>,
    /// When the state goes on to the next one.
    pause: Pause,
}

impl Core {
    fn new(
        config: Config,
        before: Before,
        unstarted: Unstarted,
        events: &Events,
        clock: &Arc<dyn Clock>,
    ) -> Result<Self, StartError> {
        let Before {
            state,
            memory,
            pause,
        } = before;
        let trust = Trust::default();
        let upstream = Upstream::new(
            config.server.clone(),
            config.trust_domain.clone(),
            clock.clone(),
            trust.clone(),
        )
        .map_err(failed("TLS"))?;
        let (node_sender, node) = watch::channel(None);
        let (verdict_sender, verdicts) = watch::channel(None);
        let (resync_sender, resync) = watch::channel(0);
        let (in_step_sender, in_step) = watch::channel(false);
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
                config.svid.key_type,
                config.svid.availability_target,
                node.clone(),
                verdict_sender,
            ),
            events: events.clone(),
            trust: trust.clone(),
            bundle_file: state.bundle_file(),
            resync: resync_sender,
            in_step: in_step_sender,
            keeper: Keeper::new(sealed, node.clone()),
        };
        let link = Link {
            upstream,
            state,
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
            node,
            trust,
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
            x509_svids = remembered.x509_svids,
            jwt_svids = remembered.jwt_svids,
            "serving what an earlier run held, until the server says more"
        ),
        Err(error) => tracing::warn!(%error, "what an earlier run knew is not believed"),
    }
}

/// The sockets: the Workload API's for everyone, the operator's in a directory of its own. Those of
/// the node before are taken over as they are.
fn bind_both(
    config: &Config,
    inherited: Option<(OwnedFd, OwnedFd)>,
) -> Result<(Listener, Listener), StartError> {
    let admin_options = ListenOptions {
        mode: 0o770,
        dir_mode: 0o750,
        ..ListenOptions::default()
    };
    let (workload, admin) = inherited.unzip();
    let workload = bind(&config.workload_socket, workload, &ListenOptions::default())
        .map_err(failed("Workload API"))?;
    let admin =
        bind(&config.admin_socket, admin, &admin_options).map_err(failed("admin socket"))?;
    Ok((workload, admin))
}

fn bind(
    path: &Path,
    inherited: Option<OwnedFd>,
    options: &ListenOptions,
) -> Result<Listener, BindError> {
    match inherited {
        Some(socket) => Listener::adopt_at(socket, path, options),
        None => Listener::bind(path, options),
    }
}

/// The connections of a socket, until a successor takes them.
fn open(
    config: &Config,
    listener: Listener,
    door: &watch::Sender<bool>,
) -> Result<Door, StartError> {
    let limits = Limits {
        open: config.workload_api.max_connections,
        ..Limits::default()
    };
    let incoming = listener.incoming(limits).map_err(failed("sockets"))?;
    Ok(Door::new(incoming, door))
}

/// Tells the node before once everything answers.
async fn confirm(inherited: Inherited, ready: Ready) {
    ready.all().await;
    let told = tokio::task::spawn_blocking(move || inherited.ready()).await;
    if let Ok(Err(error)) = told {
        tracing::error!(%error, "the node before was not told");
    }
}

/// Serves a socket until the shutdown, and until its calls have ended, but not for long: our own
/// streams end at once (WAPI-14), and what is left then are watchers of health and the like, whose
/// connection is closed.
async fn answer(
    routes: Routes,
    socket: Door,
    per_connection: u32,
    shutdown: Shutdown,
) -> Result<(), tonic::transport::Error> {
    let end = shutdown.clone();
    let serve = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .max_concurrent_streams(per_connection)
        .add_routes(routes)
        .serve_with_incoming_shutdown(socket, async move {
            end.begun().await;
        });
    let patience = async move {
        shutdown.begun().await;
        tokio::time::sleep(LAST_WORDS).await;
    };
    tokio::select! {
        served = serve => served,
        () = patience => Ok(()),
    }
}

/// Adds reflection, which lists `names` and nothing else (WAPI-02, WEP-13).
///
/// Reflection and health answer without the security header, as SPIRE's do: they are about the
/// endpoint, tell nothing about the caller, and generic tools cannot set it.
fn with_reflection(routes: Routes, names: &[&str]) -> Result<Routes, StartError> {
    let builder = || {
        let builder = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(muster_proto::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
        names
            .iter()
            .fold(builder, |builder, name| builder.with_service_name(*name))
    };
    Ok(routes
        .add_service(builder().build_v1().map_err(failed("reflection"))?)
        .add_service(builder().build_v1alpha().map_err(failed("reflection"))?))
}

/// Keeps the health service up to date: the node serves once it has been in step with its server,
/// and goes on serving through an outage.
async fn report(
    reporter: HealthReporter,
    mut in_step: watch::Receiver<bool>,
    shutdown: Shutdown,
) -> Result<(), StartError> {
    reporter
        .set_service_status("", ServingStatus::NotServing)
        .await;
    let first = tokio::select! {
        first = in_step.wait_for(|in_step| *in_step) => first.is_ok(),
        _reason = shutdown.begun() => false,
    };
    if first {
        reporter
            .set_service_status("", ServingStatus::Serving)
            .await;
    }
    shutdown.begun().await;
    reporter
        .set_service_status("", ServingStatus::NotServing)
        .await;
    Ok(())
}

/// Checks a configuration and says what it means; used by `config check`.
pub fn check(config_path: &Path) -> Result<(TrustDomain, Vec<String>), String> {
    let config = Config::read(config_path).map_err(|faults| faults.to_string())?;
    let warnings = crate::join::check_files(&config.join);
    Ok((config.trust_domain, warnings))
}
