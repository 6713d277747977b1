//! What a foreign client needs: health, and the schema by reflection in both of its versions.

use crate::bench::{Bench, within};
use tokio_stream::StreamExt as _;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

const SERVICES: [&str; 6] = [
    "grpc.health.v1.Health",
    "piecework.v1.Admin",
    "piecework.v1.AgentSession",
    "piecework.v1.Agents",
    "piecework.v1.Projects",
    "piecework.v1.Queues",
];

#[tokio::test]
async fn health_is_told_for_every_service() {
    let bench = Bench::start().await;
    let mut client = HealthClient::new(bench.channel.clone());
    for service in [
        "",
        "piecework.v1.Projects",
        "piecework.v1.Agents",
        "piecework.v1.Admin",
        "piecework.v1.AgentSession",
        "piecework.v1.Queues",
    ] {
        let request = HealthCheckRequest { service: service.to_owned() };
        let answer = within(client.check(request)).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service:?}");
    }
}

#[tokio::test]
async fn whoever_watches_health_is_told_of_the_stop_and_does_not_hold_it_up() {
    let bench = Bench::start().await;
    let mut client = HealthClient::new(bench.channel.clone());
    let request = HealthCheckRequest { service: "piecework.v1.Projects".to_owned() };
    let mut watch = within(client.watch(request)).await.unwrap().into_inner();
    assert_eq!(within(watch.next()).await.unwrap().unwrap().status(), ServingStatus::Serving);
    bench.shutdown().await;
    assert_eq!(within(watch.next()).await.unwrap().unwrap().status(), ServingStatus::NotServing);
    assert!(within(watch.next()).await.is_none());
}

macro_rules! check_reflection {
    ($version:ident) => {{
        use tonic_reflection::pb::$version::{
            ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
            server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
        };
        let bench = Bench::start().await;
        let mut client = ServerReflectionClient::new(bench.channel.clone());
        let ask = |message| ServerReflectionRequest { host: String::new(), message_request: Some(message) };
        let mut requests = vec![ask(MessageRequest::ListServices(String::new()))];
        requests.extend(
            SERVICES.iter().map(|name| ask(MessageRequest::FileContainingSymbol((*name).to_owned()))),
        );
        let answers = within(client.server_reflection_info(tokio_stream::iter(requests))).await.unwrap();
        let mut answers = answers.into_inner();
        let list = within(answers.next()).await.unwrap().unwrap().message_response.unwrap();
        let MessageResponse::ListServicesResponse(list) = list else { panic!("{list:?}") };
        let names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
        for service in SERVICES {
            assert!(names.iter().any(|name| name == service), "{service} in {names:?}");
            let file = within(answers.next()).await.unwrap().unwrap().message_response.unwrap();
            assert!(matches!(file, MessageResponse::FileDescriptorResponse(_)), "{service}: {file:?}");
        }
    }};
}

#[tokio::test]
async fn reflection_v1_lists_all_services() {
    check_reflection!(v1);
}

#[tokio::test]
async fn reflection_v1alpha_lists_all_services() {
    check_reflection!(v1alpha);
}
