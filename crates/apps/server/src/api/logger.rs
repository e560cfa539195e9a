//! `spire.api.server.logger.v1.Logger`: the log level of the running server.

use std::sync::{Arc, Mutex, PoisonError};

use muster_policy as policy;
use muster_proto::spire::api::server::logger::v1::{
    GetLoggerRequest, ResetLogLevelRequest, SetLogLevelRequest, logger_server,
};
use muster_proto::spire::api::types::{LogLevel, Logger};
use muster_rt::telemetry::LevelControl;
use muster_wire::log_level;
use tonic::{Request, Response, Status};

use crate::operation::{Operation, operate};
use crate::server::Server;

/// The service.
pub(crate) struct LoggerService {
    server: Arc<Server>,
    level: LevelControl,
    /// What was asked for last, in SPIRE's finer words.
    named: Mutex<Option<LogLevel>>,
}

impl LoggerService {
    pub(crate) fn new(server: Arc<Server>, level: LevelControl) -> Self {
        Self {
            server,
            level,
            named: Mutex::new(None),
        }
    }

    fn name(&self, named: Option<LogLevel>) -> Logger {
        *self.named.lock().unwrap_or_else(PoisonError::into_inner) = named;
        log_level::write(&self.level, named)
    }
}

#[tonic::async_trait]
impl logger_server::Logger for LoggerService {
    /// # Path
    ///
    /// `core/policy` (operators may), `edge/rt/telemetry.rs`.
    async fn get_logger(
        &self,
        request: Request<GetLoggerRequest>,
    ) -> Result<Response<Logger>, Status> {
        operate(
            &self.server,
            request,
            async |_: Operation<policy::GetLogger>, _| {
                let named = *self.named.lock().unwrap_or_else(PoisonError::into_inner);
                Ok(log_level::write(&self.level, named))
            },
        )
        .await
    }

    /// # Path
    ///
    /// `core/policy` (operators may), `edge/rt/telemetry.rs`.
    async fn set_log_level(
        &self,
        request: Request<SetLogLevelRequest>,
    ) -> Result<Response<Logger>, Status> {
        operate(
            &self.server,
            request,
            async |_: Operation<policy::SetLogLevel>, message: SetLogLevelRequest| {
                let named = log_level::parse(message.new_level)?;
                let level = log_level::read(named)?;
                self.level.set(level);
                tracing::info!(level = level.as_str(), "an operator changed the log level");
                Ok(self.name(Some(named)))
            },
        )
        .await
    }

    /// # Path
    ///
    /// `core/policy` (operators may), `edge/rt/telemetry.rs`.
    async fn reset_log_level(
        &self,
        request: Request<ResetLogLevelRequest>,
    ) -> Result<Response<Logger>, Status> {
        operate(
            &self.server,
            request,
            async |_: Operation<policy::ResetLogLevel>, _| {
                self.level.reset();
                let level = self.level.current().as_str();
                tracing::info!(level, "an operator reset the log level");
                Ok(self.name(None))
            },
        )
        .await
    }
}
