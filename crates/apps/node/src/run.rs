//! Composition: from a configuration to a serving node, and down again.

mod core;
mod sockets;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use muster_model::TrustDomain;
use muster_peer::{Activated, Processes, harden};
use muster_proto::muster::node::admin::v1::node_admin_server::NodeAdminServer;
use muster_proto::muster::node::admin::v1::node_sightings_server::NodeSightingsServer;
use muster_proto::spire::agent::debug::v1::debug_server::DebugServer;
use muster_proto::spire::api::agent::delegatedidentity::v1::delegated_identity_server::DelegatedIdentityServer;
use muster_proto::spire::api::agent::logger::v1::logger_server::LoggerServer;
use muster_rt::lifecycle::{self, Ready, Shutdown, Supervisor};
use muster_rt::metrics::{Exporter, Gauges};
use muster_rt::telemetry::{self, LevelControl};
use muster_rt::{Clock, SystemClock};
use tokio::sync::{mpsc, watch};
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::server::HealthReporter;

use self::core::Core;
use self::sockets::{Given, Sockets};
use crate::admin::{AdminService, DebugService, LoggerService, Settings};
use crate::attestations::{self, Attestations};
use crate::broker::{self, Broker, Most, Sockets as BrokerSockets, Surroundings};
use crate::config::{BrokerConfig, Config, SightingsConfig};
use crate::connections::{self, Stack};
use crate::delegated::{self, DelegatedIdentityApi};
use crate::denials::{self, Denials};
use crate::driver::{Driver, Loop, Unstarted};
use crate::events::Events;
use crate::handover::{Door, Inherited, InheritedSockets, Kind, Pause, Predecessor, Upgrade};
use crate::link::Link;
use crate::metrics;
use crate::refusals::Refusals;
use crate::reports::Reporter;
use crate::sds::{self, Sds};
use crate::sightings::{self, SightingsApi, Sweeper};
use crate::state::State;
use crate::target::Targets;
use crate::tasks;
use crate::upstream::{Trust, Upstream};
use crate::workload_api::caller::{Attesting, CallerAttestor};
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
///
/// Starts the runtime itself: what the daemon gives up binds the threads that start afterwards.
pub fn run(config_path: &Path) -> ExitCode {
    let config = match Config::read(config_path) {
        Ok(config) => config,
        Err(faults) => return fail(&faults),
    };
    let level = match telemetry::start(config.log) {
        Ok(level) => level,
        Err(error) => return fail(&error),
    };
    if let Err(error) = muster_peer::process::raise_descriptor_limit() {
        tracing::warn!(%error, "the limit of open files was left as it is");
    }
    if let Err(error) = muster_peer::process::keep_pages_small() {
        tracing::warn!(%error, "huge pages were left on; the node may take twice the memory");
    }
    let hardening = harden::apply(&config.hardening);
    tracing::info!(%hardening, "hardened");
    for (measure, outcome) in hardening.shortfalls() {
        tracing::warn!(measure = measure.as_str(), %outcome, "the daemon is less protected than it could be");
    }
    lifecycle::block_on(run_hardened(config, level, hardening))
}

async fn run_hardened(config: Config, level: LevelControl, hardening: harden::Report) -> ExitCode {
    let shutdown = match Shutdown::on_signals() {
        Ok(shutdown) => shutdown,
        Err(error) => return fail(&format!("cannot handle signals: {error}")),
    };
    let role = match Role::of_process(hardening) {
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

/// Who came before, who may come after, and what the process has given up.
#[derive(Default)]
struct Role {
    upgrade: Option<Upgrade>,
    inherited: Option<Inherited>,
    activated: Vec<Activated>,
    hardening: harden::Report,
}

impl Role {
    fn of_process(hardening: harden::Report) -> Result<Self, StartError> {
        Ok(Self {
            upgrade: Some(Upgrade::on_signal().map_err(failed("cannot handle signals"))?),
            inherited: Inherited::receive().map_err(failed("handover"))?,
            activated: muster_peer::activated().map_err(failed("socket activation"))?,
            hardening,
        })
    }
}

#[expect(
    clippy::too_many_lines,
    reason = "the parts of a node, each named once, in the order in which they need each other"
)]
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
        activated,
        hardening,
    } = role;
    // Only now may the data directory be opened: the node before has let go of it.
    let memory = inherited.as_mut().map(Inherited::take).transpose();
    let memory = memory.map_err(failed("handover"))?;
    let mut before = inherited
        .as_mut()
        .map(|inherited| std::mem::take(&mut inherited.sockets))
        .unwrap_or_default();
    let state = State::open(&config.data_dir, config.trust_domain.clone())
        .map_err(failed("data directory"))?;
    let door = watch::Sender::new(false);
    let brokers = bind_brokers(&config, &mut before, &door)?;
    let given = Given {
        inherited: &mut before,
        activated,
    };
    let pause = Pause::new();
    let events = Events::new();
    let (denials, attestations) = (
        Denials::new(clock.clone()),
        Attestations::new(clock.clone()),
    );
    let refusals = Refusals::new(events.clone(), denials.clone(), clock.clone());
    let processes = Processes::default();
    let (sockets, spare) = Sockets::open(&config, given, &refusals, &processes, &clock, &door)?;
    let (entries_sender, entries) = mpsc::unbounded_channel();
    let unstarted = Unstarted::new(entries_sender, processes.clone());
    let (driver, started_at) = (unstarted.driver.clone(), clock.now().wall);
    let attestors = crate::attestors::all(config.unix, &config.attestors, &config.data_dir)
        .map_err(failed("workload attestors"))?;
    let targets = Targets::new(attestors.clone(), processes.clone());
    let attesting = Attesting {
        attestors,
        events: events.clone(),
        refusals,
        attestations: attestations.clone(),
        clock: clock.clone(),
    };
    let upstream = upstream(&config, &clock)?;
    let tasks = tasks::Unserved::new(tasks::Surroundings {
        config: &config,
        driver: driver.clone(),
        upstream: upstream.clone(),
        attesting: attesting.clone(),
        processes,
        shutdown: shutdown.clone(),
    });
    let (routes, mut names) = workload_services(&config, &driver, &attesting, &shutdown);
    let (health_reporter, health) = tonic_health::server::health_reporter();
    names.push(tasks::service::NAME);
    let routes = routes
        .add_service(tasks.api.clone().into_server())
        .add_service(health.clone());
    let per_connection = config.workload_api.max_calls_per_connection;
    // The main socket and those of all tasks serve the same.
    let workload = Stack::new(
        with_reflection(routes, &names)?,
        Some(tasks.shell.clone()),
        per_connection,
        KEEPALIVE,
    );
    let desk = tasks.desk.clone();
    let tasks = tasks
        .keeper(&config, workload.clone(), entries)
        .map_err(failed("tasks"))?;
    let trust_domain = config.trust_domain.clone();
    announce(&config);
    let (metrics, settings) = (config.metrics.listen, settings(&config));
    let sought = config.sightings.clone();
    let (most, authorized) = (most(&config), config.delegates.clone());
    let core = Core::new(
        config,
        state,
        unstarted,
        &events,
        upstream,
        pause.clone(),
        memory,
    )?;
    let debug = core.debug(started_at, &driver, &clock);
    let (sweeper, sighted) = search(&sought, &core, &driver, &targets, &clock)?;
    let reporters = Reporters {
        refusals: denials.reporter(core.upstream.clone(), core.node.clone()),
        attestations: attestations.reporter(core.upstream.clone(), core.node.clone()),
    };
    let around = Surroundings {
        driver: driver.clone(),
        targets: targets.clone(),
        clock: clock.clone(),
        shutdown: shutdown.clone(),
        trust_domain: trust_domain.clone(),
        trust: core.trust,
        bundles: core.bundles,
        node: core.node.clone(),
        most,
    };
    let callers = CallerAttestor::new(attesting, around.most.calls);
    let delegation = delegated::service(&around, callers, authorized);
    let mut spare = Vec::from(spare);
    let brokers = brokers
        .map(|(config, mut sockets)| {
            spare.append(&mut sockets.spare);
            broker(&config, sockets, around)
        })
        .transpose()?;
    let gauges = metrics::gauges(
        driver.clone(),
        desk.clone(),
        core.node.clone(),
        clock.clone(),
    );
    let admin = NodeAdminServer::new(AdminService {
        trust_domain,
        started_at,
        hardening,
        node: core.node,
        driver: driver.clone(),
        targets,
        settings,
        events,
        clock,
        shutdown: shutdown.clone(),
    });
    let admin_routes = operators(admin, debug, level, sighted, delegation, health)?;

    // In a box: what assembles a node need not be carried along while it runs.
    Box::pin(supervise(Assembled {
        driver_loop: core.driver_loop,
        link: core.link,
        sweeper,
        reporters,
        serving: core.serving,
        figures: metrics.map(|address| (address, gauges)),
        health: health_reporter,
        workload,
        admin: Stack::new(admin_routes, None, per_connection, KEEPALIVE),
        tasks,
        desk,
        sockets,
        spare,
        door,
        brokers,
        driver,
        pause,
        upgrade,
        inherited,
        shutdown,
    }))
    .await
}

/// The search for agents, and the service that tells of it.
fn search(
    config: &SightingsConfig,
    core: &Core,
    driver: &Driver,
    targets: &Targets,
    clock: &Arc<dyn Clock>,
) -> Result<(Sweeper, SightingsApi), StartError> {
    let parts = sightings::Parts {
        driver: driver.clone(),
        targets: targets.clone(),
        upstream: core.upstream.clone(),
        clock: clock.clone(),
        node: core.node.clone(),
    };
    Sweeper::new(config, parts).map_err(failed("sightings"))
}

/// Says what is served where, and warns of what is served to more than this host.
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

/// What operators and delegates call.
fn operators(
    admin: NodeAdminServer<AdminService>,
    debug: DebugServer<DebugService>,
    level: LevelControl,
    sighted: SightingsApi,
    delegation: DelegatedIdentityServer<DelegatedIdentityApi>,
    health: HealthServer<impl Health>,
) -> Result<Routes, StartError> {
    with_reflection(
        Routes::new(admin)
            .add_service(debug)
            .add_service(LoggerServer::new(LoggerService::new(level)))
            .add_service(NodeSightingsServer::new(sighted))
            .add_service(delegation)
            .add_service(health),
        &[
            ADMIN,
            DEBUG,
            LOGGER,
            sightings::NAME,
            delegated::NAME,
            HEALTH,
        ],
    )
}

/// What tells the server of callers.
struct Reporters {
    refusals: Reporter<denials::Refusals>,
    attestations: Reporter<attestations::Attested>,
}

/// A node that is ready to run.
struct Assembled {
    driver_loop: Loop,
    link: Link,
    sweeper: Sweeper,
    reporters: Reporters,
    serving: watch::Receiver<bool>,
    figures: Option<(SocketAddr, Gauges)>,
    health: HealthReporter,
    workload: Arc<Stack>,
    admin: Arc<Stack>,
    tasks: tasks::Keeper,
    desk: tasks::Desk,
    sockets: Sockets,
    /// All listening sockets once more, for a successor.
    spare: Vec<(Kind, OwnedFd)>,
    /// Closes the doors of all of them.
    door: watch::Sender<bool>,
    brokers: Option<Broker>,
    driver: Driver,
    pause: Pause,
    upgrade: Option<Upgrade>,
    inherited: Option<Inherited>,
    shutdown: Shutdown,
}

/// Runs all parts until the first essential one ends.
async fn supervise(node: Assembled) -> Result<ExitCode, StartError> {
    let Assembled {
        sockets,
        inherited,
        shutdown,
        ..
    } = node;
    let ready = Ready::new();
    let mut supervisor = Supervisor::new(shutdown.clone(), ready.clone(), DRAIN);
    supervisor.essential("roster", node.driver_loop.run(shutdown.clone()));
    supervisor.essential("server link", node.link.run(shutdown.clone()));
    supervisor.essential("tasks", node.tasks.run(shutdown.clone()));
    supervisor.essential("sightings", node.sweeper.run(shutdown.clone()));
    let reporters = node.reporters;
    supervisor.essential("refusals", reporters.refusals.run(shutdown.clone()));
    supervisor.essential("attestations", reporters.attestations.run(shutdown.clone()));
    if let Some((address, gauges)) = node.figures {
        let exporter = exporter(address, gauges, inherited.as_ref()).await?;
        supervisor.essential("metrics", exporter.run(shutdown.clone()));
    }
    let health = report(node.health, node.serving, shutdown.clone());
    supervisor.essential("health", health);
    let up = ready.expect("Workload API");
    let end = shutdown.clone();
    supervisor.essential("Workload API", async move {
        up.declare();
        answer(node.workload, sockets.workload, end).await
    });
    if let Some(broker) = node.brokers {
        let up = ready.expect("Broker API");
        supervisor.essential("Broker API", async move {
            up.declare();
            Box::pin(broker.serve()).await
        });
    }
    let up = ready.expect("admin socket");
    let end = shutdown.clone();
    supervisor.essential("admin socket", async move {
        up.declare();
        answer(node.admin, sockets.admin, end).await
    });
    if let Some(upgrade) = node.upgrade {
        let predecessor = Predecessor {
            sockets: node.spare,
            managed: sockets.managed,
            driver: node.driver,
            tasks: node.desk,
            pause: node.pause,
            door: node.door,
            shutdown,
        };
        supervisor.essential("handover", upgrade.run(predecessor));
    }
    if let Some(inherited) = inherited {
        tokio::spawn(confirm(inherited, ready));
    }
    Ok(supervisor.run().await.exit_code())
}

/// The way to the server, not used yet.
fn upstream(config: &Config, clock: &Arc<dyn Clock>) -> Result<Upstream, StartError> {
    Upstream::new(
        config.server.clone(),
        config.trust_domain.clone(),
        clock.clone(),
        Trust::default(),
    )
    .map_err(failed("TLS"))
}

/// What workloads call, and the names that reflection lists.
fn workload_services(
    config: &Config,
    driver: &Driver,
    attesting: &Attesting,
    shutdown: &Shutdown,
) -> (Routes, Vec<&'static str>) {
    let callers = || CallerAttestor::new(attesting.clone(), config.workload_api.max_calls);
    let api = WorkloadApi::new(
        config.trust_domain.clone(),
        driver.clone(),
        callers(),
        attesting.clock.clone(),
        shutdown.clone(),
        config.wit,
    );
    let mut routes = Routes::new(api);
    let mut names = vec![workload_api::NAME, HEALTH];
    if config.sds.enabled {
        let sds = Sds::new(
            &config.sds,
            config.trust_domain.clone(),
            driver.clone(),
            callers(),
            shutdown.clone(),
        );
        routes = routes.add_service(sds.into_server());
        names.push(sds::NAME);
    }
    (routes, names)
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

/// The sockets of the Broker API, if there is to be one.
fn bind_brokers(
    config: &Config,
    before: &mut InheritedSockets,
    door: &watch::Sender<bool>,
) -> Result<Option<(BrokerConfig, BrokerSockets)>, StartError> {
    let Some(broker) = config.broker.clone() else {
        return Ok(None);
    };
    let sockets =
        BrokerSockets::bind(&broker, most(config), before, door).map_err(failed("Broker API"))?;
    Ok(Some((broker, sockets)))
}

fn broker(
    config: &BrokerConfig,
    sockets: BrokerSockets,
    around: Surroundings,
) -> Result<Broker, StartError> {
    Broker::new(config, sockets, around, |routes| {
        with_reflection(routes, &[broker::NAME])
    })
    .map_err(failed("Broker API"))
}

/// What of the configuration operators are shown.
fn settings(config: &Config) -> Settings {
    Settings {
        allow_unauthenticated_verifiers: config.workload_api.allow_unauthenticated_verifiers,
        availability_target_seconds: config
            .svid
            .availability_target
            .map_or(0, |target| target.as_secs()),
    }
}

fn most(config: &Config) -> Most {
    let api = &config.workload_api;
    Most {
        connections: api.max_connections,
        calls: api.max_calls,
        calls_per_connection: api.max_calls_per_connection,
    }
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
async fn answer(stack: Arc<Stack>, socket: Door, shutdown: Shutdown) -> Result<(), Infallible> {
    let end = shutdown.clone();
    let end = async move {
        end.begun().await;
    };
    let patience = async move {
        shutdown.begun().await;
        tokio::time::sleep(LAST_WORDS).await;
    };
    tokio::select! {
        () = connections::serve(stack, socket, end) => {}
        () = patience => {}
    }
    Ok(())
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
