//! Composition: from a configuration to a serving node, and down again.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use muster_attest::workload::unix::UnixAttestor;
use muster_crypto::random;
use muster_model::TrustDomain;
use muster_peer::{Incoming, Limits, ListenOptions, Listener};
use muster_plugin::workload::WorkloadAttestor;
use muster_proto::muster::node::admin::v1::node_admin_server::NodeAdminServer;
use muster_roster::{Config as RosterConfig, Roster};
use muster_rt::lifecycle::{Ready, Shutdown, Supervisor};
use muster_rt::{Clock, SystemClock, telemetry};
use muster_svid::x509::X509Svid;
use tokio::sync::watch;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::admin::AdminService;
use crate::config::Config;
use crate::driver::{Loop, Parts, Unstarted};
use crate::events::Events;
use crate::link::Link;
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
    if let Err(error) = telemetry::start(config.log) {
        return fail(&error);
    }
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
    match serve(config, SystemClock::shared(), shutdown).await {
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
    clock: Arc<dyn Clock>,
    shutdown: Shutdown,
) -> Result<ExitCode, StartError> {
    let state = State::open(&config.data_dir, config.trust_domain.clone())
        .map_err(failed("data directory"))?;
    let (workload_socket, admin_socket) = bind_both(&config)?;
    let events = Events::new();
    let unstarted = Unstarted::new();
    let driver = unstarted.driver.clone();
    let started_at = clock.now().wall;
    let attestors: Vec<Arc<dyn WorkloadAttestor>> = vec![Arc::new(UnixAttestor::new(config.unix))];
    let api = WorkloadApi::new(
        config.trust_domain.clone(),
        driver.clone(),
        attestors,
        events.clone(),
        clock.clone(),
        shutdown.clone(),
        config.workload_api.max_calls,
    );
    let (health_reporter, health) = tonic_health::server::health_reporter();
    let workload_routes = with_reflection(
        Routes::new(api).add_service(health.clone()),
        &[workload_api::NAME, HEALTH],
    )?;
    let (trust_domain, per_connection) = (
        config.trust_domain.clone(),
        config.workload_api.max_calls_per_connection,
    );
    tracing::info!(
        %trust_domain,
        server = %config.server,
        workload_socket = %config.workload_socket.display(),
        admin_socket = %config.admin_socket.display(),
        "serving"
    );
    let core = Core::new(config, state, unstarted, &events, &clock)?;
    let admin = NodeAdminServer::new(AdminService {
        trust_domain,
        started_at,
        node: core.node,
        driver,
        events,
        clock,
        shutdown: shutdown.clone(),
    });
    let admin_routes = with_reflection(Routes::new(admin).add_service(health), &[ADMIN, HEALTH])?;

    let ready = Ready::new();
    let mut supervisor = Supervisor::new(shutdown.clone(), ready.clone(), DRAIN);
    supervisor.essential("roster", core.driver_loop.run(shutdown.clone()));
    supervisor.essential("server link", core.link.run(shutdown.clone()));
    let health = report(health_reporter, core.in_step, shutdown.clone());
    supervisor.essential("health", health);
    let up = ready.expect("Workload API");
    let end = shutdown.clone();
    supervisor.essential("Workload API", async move {
        up.declare();
        answer(workload_routes, workload_socket, per_connection, end).await
    });
    let up = ready.expect("admin socket");
    supervisor.essential("admin socket", async move {
        up.declare();
        answer(admin_routes, admin_socket, per_connection, shutdown).await
    });
    Ok(supervisor.run().await.exit_code())
}

/// The parts behind the sockets: the roster's loop, and the link to the server.
struct Core {
    driver_loop: Loop,
    link: Link,
    /// The node's own SVID.
    node: watch::Receiver<Option<X509Svid>>,
    in_step: watch::Receiver<bool>,
}

impl Core {
    fn new(
        config: Config,
        state: State,
        unstarted: Unstarted,
        events: &Events,
        clock: &Arc<dyn Clock>,
    ) -> Result<Self, StartError> {
        let trust = Trust::default();
        let upstream = Upstream::new(
            config.server,
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
        let roster = Roster::new(
            RosterConfig {
                trust_domain: config.trust_domain,
                seed,
                hold: api.hold,
                allow_unauthenticated_verifiers: api.allow_unauthenticated_verifiers,
                x509_cache_max: config.svid.x509_cache_max,
                jwt_cache_max: config.svid.jwt_cache_max,
            },
            clock.now(),
        );
        let parts = Parts {
            clock: clock.clone(),
            signer: Signer::new(
                upstream.clone(),
                driver.clone(),
                config.svid.key_type,
                node.clone(),
                verdict_sender,
            ),
            events: events.clone(),
            trust,
            bundle_file: state.bundle_file(),
            resync: resync_sender,
            in_step: in_step_sender,
        };
        let link = Link {
            upstream,
            state,
            join: config.join,
            driver,
            seed,
            node: node_sender,
            resync,
            verdicts,
        };
        Ok(Self {
            driver_loop: unstarted.start(roster, parts),
            link,
            node,
            in_step,
        })
    }
}

/// The sockets: the Workload API's for everyone, the operator's in a directory of its own.
fn bind_both(config: &Config) -> Result<(Incoming, Incoming), StartError> {
    let admin_options = ListenOptions {
        mode: 0o770,
        dir_mode: 0o750,
        ..ListenOptions::default()
    };
    let workload = bind(config, &config.workload_socket, &ListenOptions::default())
        .map_err(failed("Workload API"))?;
    let admin =
        bind(config, &config.admin_socket, &admin_options).map_err(failed("admin socket"))?;
    Ok((workload, admin))
}

fn bind(
    config: &Config,
    path: &Path,
    options: &ListenOptions,
) -> Result<Incoming, Box<dyn std::error::Error>> {
    let limits = Limits {
        open: config.workload_api.max_connections,
        open_per_uid: config.limits.connections_per_user,
        allowance: config.limits.allowance,
        ..Limits::default()
    };
    Ok(Listener::bind(path, options)?.incoming(limits)?)
}

/// Serves a socket until the shutdown, and until its calls have ended, but not for long: our own
/// streams end at once (WAPI-14), and what is left then are watchers of health and the like, whose
/// connection is closed.
async fn answer(
    routes: Routes,
    socket: Incoming,
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
