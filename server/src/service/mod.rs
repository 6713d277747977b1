//! The gRPC services, and queues over HTTP beside them: thin; each call parses, asks, and answers.

mod access;
mod admin;
mod agents;
mod context;
mod dead_letters;
mod limits;
mod projects;
mod queues;
mod session;
mod status;
mod tokens;
mod web;

pub use context::Context;
pub use limits::STRANGERS_MAX;

pub use access::AccessLayer;
use admin::AdminService;
use agents::AgentsService;
use piecework_proto::{
    DESCRIPTORS, MESSAGE_BYTES_MAX,
    v1::{
        admin_server::AdminServer, agent_session_server::AgentSessionServer, agents_server::AgentsServer,
        projects_server::ProjectsServer, queues_server::QueuesServer,
    },
};
use projects::ProjectsService;
use queues::QueuesService;
use session::AgentSessionService;
use std::time::SystemTime;
use tonic::{
    server::NamedService,
    service::Routes,
    transport::{Server, server::Router},
};
use tonic_health::{ServingStatus, server::HealthReporter};
use tower::{
    layer::util::{Identity, Stack},
    util::Either,
};
use tower_http::cors::CorsLayer;

/// The names under which health is asked for; the empty one stands for the whole coordinator.
const HEALTH_NAMES: [&str; 6] = [
    "",
    ProjectsServer::<ProjectsService>::NAME,
    AgentsServer::<AgentsService>::NAME,
    AdminServer::<AdminService>::NAME,
    AgentSessionServer::<AgentSessionService>::NAME,
    QueuesServer::<QueuesService>::NAME,
];

/// What a call passes before it comes to a service.
pub type Layers = Stack<AccessLayer, Stack<Either<CorsLayer, Identity>, Identity>>;

/// Says whether the coordinator serves.
#[derive(Clone, Debug)]
pub struct Health(HealthReporter);

impl Health {
    /// Tells everybody who watches.
    pub async fn set_serving(&self, serving: bool) {
        let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
        for name in HEALTH_NAMES {
            self.0.set_service_status(name, status).await;
        }
    }

    /// Tells everybody who watches that it serves no longer, and ends their streams.
    pub async fn close(&mut self) {
        self.set_serving(false).await;
        for name in HEALTH_NAMES {
            self.0.clear_service_status(name).await;
        }
    }
}

/// All services of a coordinator, ready to be served; not yet serving by their health.
///
/// # Errors
/// If the compiled-in schema can't be read back.
pub fn routes(context: &Context) -> Result<(Routes, Health), tonic_reflection::server::Error> {
    macro_rules! limited {
        ($server:expr) => {
            $server.max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX)
        };
    }
    let schema = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let reporter = HealthReporter::new();
    let health = tonic_health::server::HealthService::from_health_reporter(reporter.clone());
    let mut routes = Routes::builder();
    routes
        .add_service(limited!(ProjectsServer::new(ProjectsService::new(context.clone()))))
        .add_service(limited!(AgentsServer::new(AgentsService::new(context.clone()))))
        .add_service(limited!(AdminServer::new(AdminService::new(context.clone()))))
        .add_service(limited!(AgentSessionServer::new(AgentSessionService::new(context.clone()))))
        .add_service(limited!(QueuesServer::new(QueuesService::new(context.clone()))))
        .add_service(tonic_health::pb::health_server::HealthServer::new(health))
        .add_service(schema().build_v1()?)
        .add_service(schema().build_v1alpha()?);
    let routes = web::beside(routes.routes().into_axum_router(), context);
    Ok((routes.into(), Health(reporter)))
}

/// A server for the connections of one listener, gRPC and HTTP of any version. Who calls is looked at before all else, but for browsers
/// that ask whether a page of these origins may call.
#[must_use]
pub fn router(context: &Context, routes: Routes, origins: &[String]) -> Router<Layers> {
    Server::builder()
        .accept_http1(true)
        .max_concurrent_streams(limits::STREAMS_MAX)
        .http2_keepalive_interval(Some(limits::KEEP_ALIVE))
        .http2_keepalive_timeout(Some(limits::KEEP_ALIVE_WAIT))
        .layer(web::cors(origins))
        .layer(AccessLayer::new(context.clone()))
        .add_routes(routes)
}

/// The time of day, in milliseconds since 1970.
fn now_millis() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
