//! SPIRE's logger API: the log level of the running node.

use std::sync::Mutex;

use muster_proto::spire::api::agent::logger::v1::{
    GetLoggerRequest, ResetLogLevelRequest, SetLogLevelRequest, logger_server,
};
use muster_proto::spire::api::types::{LogLevel, Logger};
use muster_rt::telemetry::LevelControl;
use muster_wire::log_level;
use tonic::{Request, Response, Status};

/// The service; the mode of the socket's file is the authorization.
pub(crate) struct LoggerService {
    level: LevelControl,
    /// What was asked for last, in SPIRE's finer words.
    named: Mutex<Option<LogLevel>>,
}

impl LoggerService {
    pub(crate) fn new(level: LevelControl) -> Self {
        Self {
            level,
            named: Mutex::new(None),
        }
    }

    fn name(&self, named: Option<LogLevel>) -> Response<Logger> {
        *self
            .named
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = named;
        Response::new(log_level::write(&self.level, named))
    }
}

#[tonic::async_trait]
impl logger_server::Logger for LoggerService {
    /// # Path
    ///
    /// `edge/rt/telemetry.rs`.
    async fn get_logger(
        &self,
        _request: Request<GetLoggerRequest>,
    ) -> Result<Response<Logger>, Status> {
        let named = *self
            .named
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        Ok(Response::new(log_level::write(&self.level, named)))
    }

    /// # Path
    ///
    /// `edge/rt/telemetry.rs`.
    async fn set_log_level(
        &self,
        request: Request<SetLogLevelRequest>,
    ) -> Result<Response<Logger>, Status> {
        let named = log_level::parse(request.into_inner().new_level)?;
        let level = log_level::read(named)?;
        self.level.set(level);
        tracing::info!(level = level.as_str(), "an operator changed the log level");
        Ok(self.name(Some(named)))
    }

    /// # Path
    ///
    /// `edge/rt/telemetry.rs`.
    async fn reset_log_level(
        &self,
        _request: Request<ResetLogLevelRequest>,
    ) -> Result<Response<Logger>, Status> {
        self.level.reset();
        tracing::info!(
            level = self.level.current().as_str(),
            "an operator reset the log level"
        );
        Ok(self.name(None))
    }
}
