//! `muster.agent.v1.Registry`: agent classes, agents, and who answers for them.

mod classes;
mod instances;

use std::sync::Arc;

use muster_model::{FieldError, Note};
use muster_policy as policy;
use muster_policy::Principal;
use muster_proto::muster::agent::v1::{
    AgentClass, AgentInstance, ClassStepRequest, CreateClassRequest, GetClassRequest,
    GetInstanceRequest, InstanceStepRequest, ListClassesRequest, ListClassesResponse,
    ListInstancesRequest, ListInstancesResponse, ListPersonsGoneRequest, ListPersonsGoneResponse,
    MarkPersonGoneResponse, MarkPersonRequest, MarkPersonReturnedResponse, ReviewClassRequest,
    UpdateClassRequest, registry_server,
};
use muster_roll::agents::instance::InstanceError;
use muster_roll::agents::lifecycle::{ClassStep, InstanceStep};
use muster_roll::agents::rules::ClassError;
use muster_wire::agent;
use tonic::{Code, Request, Response, Status};

use crate::agents::refusal;
use crate::server::Server;

/// The service.
pub(crate) struct RegistryService(pub Arc<Server>);

/// How many characters of a text that a caller chose are repeated to it.
const SHOWN: usize = 128;

#[tonic::async_trait]
impl registry_server::Registry for RegistryService {
    /// # Path
    ///
    /// `core/policy` (operators may), `core/roll/agents/rules.rs`, `apps/server/writer.rs`.
    async fn create_class(
        &self,
        request: Request<CreateClassRequest>,
    ) -> Result<Response<AgentClass>, Status> {
        classes::create(&self.0, request).await
    }

    /// # Path
    ///
    /// `core/policy` (operators may), `core/roll/agents/rules.rs`, `apps/server/writer.rs`.
    async fn update_class(
        &self,
        request: Request<UpdateClassRequest>,
    ) -> Result<Response<AgentClass>, Status> {
        classes::update(&self.0, request).await
    }

    /// # Path
    ///
    /// `core/policy` (operators may), `core/roll/agents`, `edge/wire/agent.rs`.
    async fn get_class(
        &self,
        request: Request<GetClassRequest>,
    ) -> Result<Response<AgentClass>, Status> {
        classes::show(&self.0, request).await
    }

    /// # Path
    ///
    /// `core/policy` (operators may), `core/roll/agents/list.rs`, `edge/wire/agent.rs`.
    async fn list_classes(
        &self,
        request: Request<ListClassesRequest>,
    ) -> Result<Response<ListClassesResponse>, Status> {
        classes::list(&self.0, request).await
    }

    /// # Path
    ///
    /// `core/policy` (operators may), `core/roll/agents/lifecycle.rs`, `apps/server/writer.rs`.
    async fn approve_class(
        &self,
        request: Request<ClassStepRequest>,
    ) -> Result<Response<AgentClass>, Status> {
        classes::step::<policy::ApproveClass>(&self.0, request, ClassStep::Approve).await
    }

    /// # Path
    ///
    /// `core/policy` (operators may), `core/roll/agents/lifecycle.rs`, `apps/server/writer.rs`,
    /// `core/roll/concern.rs` (whose view changes).
    async fn suspend_class(
        &self,
        request: Request<ClassStepRequest>,
    ) -> Result<Response<AgentClass>, Status> {
        classes::step::<policy::SuspendClass>(&self.0, request, ClassStep::Suspend).await
    }

    /// # Path
    ///
    /// As [`Self::suspend_class`].
    async fn quarantine_class(
        &self,
        request: Request<ClassStepRequest>,
    ) -> Result<Response<AgentClass>, Status> {
        classes::step::<policy::QuarantineClass>(&self.0, request, ClassStep::Quarantine).await
    }

    /// # Path
    ///
    /// As [`Self::suspend_class`].
    async fn reinstate_class(
        &self,
        request: Request<ClassStepRequest>,
    ) -> Result<Response<AgentClass>, Status> {
        classes::step::<policy::ReinstateClass>(&self.0, request, ClassStep::Reinstate).await
    }

    /// # Path
    ///
    /// As [`Self::suspend_class`].
    async fn retire_class(
        &self,
        request: Request<ClassStepRequest>,
    ) -> Result<Response<AgentClass>, Status> {
        classes::step::<policy::RetireClass>(&self.0, request, ClassStep::Retire).await
    }

    /// # Path
    ///
    /// `core/policy` (operators may), `core/roll/agents/rules.rs`, `apps/server/writer.rs`.
    async fn review_class(
        &self,
        request: Request<ReviewClassRequest>,
    ) -> Result<Response<AgentClass>, Status> {
        classes::review(&self.0, request).await
    }

    /// # Path
    ///
    /// `core/policy` (operators may), `core/roll/agents/list.rs`, `edge/wire/agent.rs`.
    async fn list_instances(
        &self,
        request: Request<ListInstancesRequest>,
    ) -> Result<Response<ListInstancesResponse>, Status> {
        instances::list(&self.0, request).await
    }

    /// # Path
    ///
    /// `core/policy` (operators may), `core/roll/agents`, `edge/wire/agent.rs`.
    async fn get_instance(
        &self,
        request: Request<GetInstanceRequest>,
    ) -> Result<Response<AgentInstance>, Status> {
        instances::show(&self.0, request).await
    }

    /// # Path
    ///
    /// `core/policy` (operators may), `core/roll/agents/lifecycle.rs`, `apps/server/writer.rs`,
    /// `core/roll/concern.rs` (whose view changes).
    async fn quarantine_instance(
        &self,
        request: Request<InstanceStepRequest>,
    ) -> Result<Response<AgentInstance>, Status> {
        instances::step::<policy::QuarantineInstance>(&self.0, request, InstanceStep::Quarantine)
            .await
    }

    /// # Path
    ///
    /// As [`Self::quarantine_instance`].
    async fn release_instance(
        &self,
        request: Request<InstanceStepRequest>,
    ) -> Result<Response<AgentInstance>, Status> {
        instances::step::<policy::ReleaseInstance>(&self.0, request, InstanceStep::Release).await
    }

    /// # Path
    ///
    /// As [`Self::quarantine_instance`].
    async fn retire_instance(
        &self,
        request: Request<InstanceStepRequest>,
    ) -> Result<Response<AgentInstance>, Status> {
        instances::step::<policy::RetireInstance>(&self.0, request, InstanceStep::Retire).await
    }

    /// # Path
    ///
    /// `core/policy` (operators may), `core/roll/agents/reconcile.rs` (who is orphaned),
    /// `apps/server/writer.rs`.
    async fn mark_person_gone(
        &self,
        request: Request<MarkPersonRequest>,
    ) -> Result<Response<MarkPersonGoneResponse>, Status> {
        classes::person_gone(&self.0, request).await
    }

    /// # Path
    ///
    /// `core/policy` (operators may), `apps/server/writer.rs`.
    async fn mark_person_returned(
        &self,
        request: Request<MarkPersonRequest>,
    ) -> Result<Response<MarkPersonReturnedResponse>, Status> {
        classes::person_returned(&self.0, request).await
    }

    /// # Path
    ///
    /// `core/policy` (operators may), `core/roll/agents`.
    async fn list_persons_gone(
        &self,
        request: Request<ListPersonsGoneRequest>,
    ) -> Result<Response<ListPersonsGoneResponse>, Status> {
        classes::persons_gone(&self.0, request).await
    }
}

/// Who did something, as a class keeps it.
pub(crate) fn by(principal: &Principal) -> String {
    match (&principal.id, principal.process) {
        (Some(id), _) => id.to_string(),
        (None, Some((_, uid))) => format!("uid {uid}"),
        (None, None) => principal.work.unwrap_or("the server").to_owned(),
    }
}

fn field(error: &FieldError) -> Status {
    refusal(Code::InvalidArgument, error.to_string(), "INVALID_FIELD")
}

pub(super) fn note(reason: &str) -> Result<Note, Status> {
    agent::one("reason", reason, Note::parse).map_err(|error| field(&error))
}

fn class_refusal(error: &ClassError) -> Status {
    let code = match error {
        ClassError::AlreadyExists(_) => Code::AlreadyExists,
        ClassError::NotFound(_) => Code::NotFound,
        ClassError::Version { .. } => Code::Aborted,
        ClassError::Field(_)
        | ClassError::OwnerIsSponsor(_)
        | ClassError::ValidUntilPassed
        | ClassError::ReviewByPassed
        | ClassError::ReviewAfterEnd
        | ClassError::TtlOverMaximum
        | ClassError::NoReason => Code::InvalidArgument,
        ClassError::PersonGone { .. } | ClassError::Retired(_) | ClassError::NotPossible { .. } => {
            Code::FailedPrecondition
        }
    };
    refusal(code, error.to_string(), error.reason())
}

fn instance_refusal(error: &InstanceError) -> Status {
    let code = match error {
        InstanceError::NotFound(_) => Code::NotFound,
        InstanceError::NotPossible { .. } => Code::FailedPrecondition,
    };
    refusal(code, error.to_string(), error.reason())
}

/// The beginning of a text that a caller chose.
fn shown(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}
