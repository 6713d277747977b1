//! Who may do what over TCP: clients by their tokens, agents by their certificates, and nobody else anything.

use crate::{
    agent::{Agent, hello, open_on, report},
    bench::{Bench, check_refused, spec, within},
    running::with_stdin,
    tcp::{Joining, address, client_token, dial, enrolled, join_token, listen, start, with_token},
};
use piecework_proto::{
    token::Token,
    trust::{NameCheck, Pin, client_config},
    v1::{
        self as pb, agent_message::Message as Say, agent_session_client::AgentSessionClient,
        agents_client::AgentsClient, coordinator_message::Message as Hear, projects_client::ProjectsClient,
    },
};
use piecework_server::CertificateFiles;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use std::{error::Error as _, time::Duration};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tonic::{Code, Status, transport::Channel};

async fn list(channel: &Channel, token: Option<&Token>) -> Result<(), Status> {
    let request = pb::ListProjectsRequest::default();
    let mut client = ProjectsClient::new(channel.clone());
    match token {
        Some(token) => within(client.list(with_token(request, token))).await.map(|_| ()),
        None => within(client.list(request)).await.map(|_| ()),
    }
}

async fn agents(bench: &Bench) -> Vec<pb::Agent> {
    within(bench.agents().list(pb::ListAgentsRequest {})).await.unwrap().into_inner().agents
}

#[tokio::test]
async fn a_client_needs_a_token() {
    let bench = start().await;
    let (token, id) = client_token(&bench, 0).await;
    let channel = dial(address(&bench), token.pin, None).await.unwrap();
    check_refused(list(&channel, None).await, Code::Unauthenticated, "a token is needed");
    list(&channel, Some(&token)).await.unwrap();

    let join = join_token(&bench, pb::CreateJoinTokenRequest::default()).await;
    check_refused(list(&channel, Some(&join)).await, Code::Unauthenticated, "for agents to join with");
    let wrong = Token { secret: [0; 20], ..token.clone() };
    check_refused(list(&channel, Some(&wrong)).await, Code::Unauthenticated, "this token is not known here");
    let (short, _) = client_token(&bench, 1).await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    check_refused(list(&channel, Some(&short)).await, Code::Unauthenticated, "this token has expired");

    // What agents do, no token allows.
    let renew = with_token(pb::RenewRequest::default(), &token);
    let refused = within(AgentSessionClient::new(channel.clone()).renew(renew)).await;
    check_refused(refused, Code::PermissionDenied, "this is for agents");

    within(bench.admin().remove_client_token(pb::RemoveClientTokenRequest { id })).await.unwrap();
    check_refused(list(&channel, Some(&token)).await, Code::Unauthenticated, "this token is not known here");
    // Anybody may ask whether the coordinator is well: what balances load has no token.
    let health = tonic_health::pb::HealthCheckRequest::default();
    within(tonic_health::pb::health_client::HealthClient::new(channel).check(health)).await.unwrap();
}

#[tokio::test]
async fn a_coordinator_without_tcp_makes_no_tokens() {
    let bench = Bench::start().await;
    let refused = within(bench.agents().create_join_token(pb::CreateJoinTokenRequest::default())).await;
    check_refused(refused, Code::FailedPrecondition, "--listen");
}

#[tokio::test]
async fn a_join_token_lets_in_whom_it_was_made_for() {
    let bench = start().await;
    let token = join_token(
        &bench,
        pb::CreateJoinTokenRequest {
            names: "build-*".to_owned(),
            labels: [("zone".to_owned(), "a".to_owned())].into(),
            uses: 1,
            life_millis: 0,
        },
    )
    .await;
    let joining = Joining::new(&bench, token.pin);
    check_refused(joining.enrol(&token, "other").await, Code::PermissionDenied, "name");
    check_refused(joining.enrol(&token, "no name").await, Code::InvalidArgument, "not a name");
    let wrong = Token { secret: [0; 20], ..token.clone() };
    check_refused(joining.enrol(&wrong, "build-1").await, Code::PermissionDenied, "token");
    joining.enrol(&token, "build-1").await.unwrap();
    // The answer may have been lost: the same key may ask again, and is no second agent.
    let certificate = joining.enrol(&token, "build-1").await.unwrap();
    let late = Joining::new(&bench, token.pin);
    check_refused(late.enrol(&token, "build-2").await, Code::PermissionDenied, "used as often as it may be");
    let other = join_token(&bench, pb::CreateJoinTokenRequest::default()).await;
    check_refused(late.enrol(&other, "build-1").await, Code::AlreadyExists, "another agent has this name");

    // With its key, and another token, it is the same agent: its certificate may have ended.
    let certificate_again = joining.enrol(&other, "build-1").await.unwrap();
    assert_ne!(certificate, certificate_again);

    let channel = joining.dial(&certificate_again).await;
    let labels = [("zone", "b"), ("disk", "ssd")].map(|(key, value)| (key.to_owned(), value.to_owned()));
    let said = pb::Hello { labels: labels.into(), ..hello("somebody-else") };
    let _agent = Agent::connect_on(AgentSessionClient::new(channel.clone()), said, 1).await;
    let agents = agents(&bench).await;
    assert_eq!(agents.len(), 1);
    assert_eq!(agents[0].name, "build-1", "its certificate says who it is, not Hello");
    assert_eq!((agents[0].labels["zone"].as_str(), agents[0].labels["disk"].as_str()), ("a", "ssd"));
    assert_eq!(agents[0].address, "127.0.0.1");
    check_refused(list(&channel, None).await, Code::PermissionDenied, "an agent may not do this");
}

#[tokio::test]
async fn an_agent_touches_only_what_it_holds() {
    let bench = start().await;
    let (first, ..) = enrolled(&bench, "first").await;
    let (second, ..) = enrolled(&bench, "second").await;
    let mut first = Agent::connect_on(AgentSessionClient::new(first), hello("first"), 1).await;
    let stdin = pb::stdin::Source::Template("secret {item}".to_owned());
    let id = bench.submit_good(pb::ProjectSpec { task: Some(with_stdin(stdin)), ..spec(1) }).await;
    let attempt = first.assigned(1).await.remove(0).attempt.unwrap();

    let mut client = AgentSessionClient::new(second.clone());
    let request = pb::ReadInputRequest { attempt: Some(attempt), offset: 0 };
    let refused = within(client.read_input(request)).await.map(|_| ());
    check_refused(refused, Code::FailedPrecondition, "is not wanted any longer");
    // Nor can its output be thrown away.
    let first_chunk = pb::OutputChunk {
        attempt: Some(attempt),
        stream: pb::OutputStream::Stdout.into(),
        ..Default::default()
    };
    let mut acks =
        within(client.upload_output(tokio_stream::iter([first_chunk]))).await.unwrap().into_inner();
    check_refused(within(acks.message()).await, Code::PermissionDenied, "is with another agent");
    let mut second = Agent::connect_on(AgentSessionClient::new(second), hello("second"), 1).await;
    second.report(report(attempt, 0, b"forged\n")).await;
    // It is told to forget about it, and nothing is recorded.
    second.settled(1).await;
    assert_eq!(bench.get(&id.to_string()).await.unwrap().state(), pb::ProjectState::Running);
    first.report(report(attempt, 0, b"true\n")).await;
    first.settled(1).await;
}

#[tokio::test]
async fn a_removed_agent_is_out_at_once() {
    let bench = start().await;
    let (channel, ..) = enrolled(&bench, "gone").await;
    let mut agent = Agent::connect_on(AgentSessionClient::new(channel.clone()), hello("gone"), 4).await;
    bench.submit_good(spec(1)).await;
    agent.assigned(1).await;
    let remove = |force| pb::RemoveAgentRequest { name: "gone".to_owned(), force };
    check_refused(
        within(bench.agents().remove(remove(false))).await,
        Code::FailedPrecondition,
        "agent gone holds 1 attempt",
    );
    within(bench.agents().remove(remove(true))).await.unwrap();
    let ended = loop {
        match within(agent.heard.message()).await {
            Ok(Some(_)) => {}
            Ok(None) => break "closed".to_owned(),
            Err(status) => break status.message().to_owned(),
        }
    };
    assert!(ended.contains("removed") || ended == "closed", "{ended}");
    assert!(agents(&bench).await.is_empty());
    // The same connection, which is still open.
    let again = open_on(AgentSessionClient::new(channel), Say::Hello(hello("gone"))).await;
    check_refused(again.map(|_| ()), Code::PermissionDenied, "agent gone was removed");
    // The name is free, and what it held runs elsewhere.
    let (channel, ..) = enrolled(&bench, "gone").await;
    let mut back = Agent::connect_on(AgentSessionClient::new(channel), hello("gone"), 4).await;
    assert_eq!(back.assigned(1).await[0].attempt.unwrap().attempt, 2);
}

#[tokio::test]
async fn a_renewed_certificate_ends_the_one_before() {
    let bench = start().await;
    let (channel, old, certificate) = enrolled(&bench, "host").await;
    let new = Joining::new(&bench, old.pin);
    let request = pb::RenewRequest { certificate_request: new.request() };
    let renewed = within(AgentSessionClient::new(channel.clone()).renew(request)).await.unwrap().into_inner();
    // Until the new one is shown, the answer may have been lost, and the old one is good.
    let agent = Agent::connect_on(AgentSessionClient::new(channel), hello("host"), 1).await;
    drop(agent);
    let with_new = new.dial(&renewed.certificate).await;
    let _agent = Agent::connect_on(AgentSessionClient::new(with_new), hello("host"), 1).await;
    let with_old = old.dial(&certificate).await;
    let refused = open_on(AgentSessionClient::new(with_old), Say::Hello(hello("host"))).await;
    check_refused(refused.map(|_| ()), Code::Unauthenticated, "has a newer certificate");
    let warning = &agents(&bench).await[0].warning;
    assert!(warning.contains("an old certificate of it was shown from 127.0.0.1"), "{warning}");
}

#[tokio::test]
async fn a_copy_of_an_agent_is_refused_while_the_first_is_connected() {
    let bench = start().await;
    let (channel, joining, certificate) = enrolled(&bench, "host").await;
    let _first = Agent::connect_on(AgentSessionClient::new(channel), hello("host"), 1).await;
    let copy = joining.dial(&certificate).await;
    let second = pb::Hello { instance: "2".to_owned(), ..hello("host") };
    let refused = open_on(AgentSessionClient::new(copy), Say::Hello(second)).await;
    let (_sender, mut heard) = refused.unwrap();
    let refused = within(heard.message()).await;
    check_refused(refused, Code::Aborted, "another process of agent host is connected");
}

#[tokio::test]
async fn a_drained_agent_is_given_nothing() {
    let bench = start().await;
    let (channel, ..) = enrolled(&bench, "host").await;
    let mut agent = Agent::connect_on(AgentSessionClient::new(channel), hello("host"), 4).await;
    let name = || "host".to_owned();
    let drained = within(bench.agents().drain(pb::DrainAgentRequest { name: name() })).await.unwrap();
    assert_eq!(drained.into_inner().state(), pb::AgentState::Draining);
    bench.submit_good(spec(1)).await;
    agent.say(Say::Heartbeat(pb::Heartbeat {})).await;
    // A drained agent's heartbeats are answered; no assignment comes before.
    assert!(matches!(agent.hear().await, Hear::Heartbeat(_)));
    let undrained = within(bench.agents().undrain(pb::UndrainAgentRequest { name: name() })).await.unwrap();
    assert_eq!(undrained.into_inner().state(), pb::AgentState::Ready);
    agent.assigned(1).await;
    let nobody = within(bench.agents().drain(pb::DrainAgentRequest { name: "x".to_owned() })).await;
    check_refused(nobody, Code::NotFound, "x");
}

#[tokio::test]
async fn agents_tokens_and_draining_outlive_a_restart() {
    let mut bench = start().await;
    let (channel, joining, certificate) = enrolled(&bench, "host").await;
    drop(Agent::connect_on(AgentSessionClient::new(channel), hello("host"), 1).await);
    within(bench.agents().drain(pb::DrainAgentRequest { name: "host".to_owned() })).await.unwrap();
    let (token, _) = client_token(&bench, 0).await;
    bench.restart_with(|config| config.listen = Some(listen())).await;
    let channel = dial(address(&bench), token.pin, None).await.unwrap();
    list(&channel, Some(&token)).await.unwrap();
    let joining = Joining { address: address(&bench), ..joining };
    let channel = joining.dial(&certificate).await;
    let _agent = Agent::connect_on(AgentSessionClient::new(channel), hello("host"), 1).await;
    assert_eq!(agents(&bench).await[0].state(), pb::AgentState::Draining);
}

#[tokio::test]
async fn only_the_coordinator_of_the_token_is_believed() {
    let (bench, other) = (start().await, start().await);
    let (token, _) = client_token(&other, 0).await;
    let error = dial(address(&bench), token.pin, None).await.unwrap_err();
    let mut causes = vec![error.to_string()];
    let mut cause = error.source();
    while let Some(inner) = cause {
        causes.push(inner.to_string());
        cause = inner.source();
    }
    assert!(causes.join(": ").contains("it is not the coordinator that the token was made by"), "{causes:?}");
}

#[tokio::test]
async fn a_certificate_of_another_coordinator_is_refused() {
    let (bench, other) = (start().await, start().await);
    let (_, foreign, certificate) = enrolled(&other, "host").await;
    let (token, _) = client_token(&bench, 0).await;
    let joining = Joining { pin: token.pin, address: address(&bench), ..foreign };
    // TLS 1.3 tells a refused certificate only when something is read.
    let channel = joining.dial(&certificate).await;
    assert!(open_on(AgentSessionClient::new(channel), Say::Hello(hello("host"))).await.is_err());
    assert!(agents(&bench).await.is_empty());
}

#[tokio::test]
async fn strangers_can_take_neither_memory_nor_places() {
    let bench = start().await;
    let (token, _) = client_token(&bench, 0).await;
    let channel = dial(address(&bench), token.pin, None).await.unwrap();
    let request = pb::EnrolRequest { token: "x".repeat(1 << 20), ..Default::default() };
    let refused = within(AgentSessionClient::new(channel).enrol(request)).await;
    assert!(refused.is_err());
    // One who has shown a token stays.
    let known = dial(address(&bench), token.pin, None).await.unwrap();
    list(&known, Some(&token)).await.unwrap();
    // One who shakes hands, and shows nothing.
    let tls = client_config(token.pin, None).unwrap();
    let mut silent = piecework_proto::dial::connect(&address(&bench), Some(tls.into())).await.unwrap();
    let mut heard = Vec::new();
    // The settings of HTTP/2, perhaps, and then the end.
    let _ = within(silent.read_to_end(&mut heard)).await;
    list(&known, Some(&token)).await.unwrap();
}

#[tokio::test]
async fn plain_tcp_is_not_spoken() {
    let bench = start().await;
    let mut stream = TcpStream::connect(bench.server().address().unwrap()).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    let mut heard = Vec::new();
    // It may be an alert of TLS, or the end at once.
    let _ = within(stream.read_to_end(&mut heard)).await;
    assert!(heard.len() < 16 && heard.first().is_none_or(|&kind| kind == 21), "{heard:?}");
}

#[tokio::test]
async fn an_operators_own_certificate_is_used_by_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let own =
        CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
    let files = CertificateFiles { chain: dir.path().join("chain.pem"), key: dir.path().join("key.pem") };
    std::fs::write(&files.chain, format!("{}{}", own.pem(), authority.pem())).unwrap();
    std::fs::write(&files.key, key.serialize_pem()).unwrap();
    let bench = Bench::start_with(|config| {
        config.listen = Some(piecework_server::ListenConfig { certificate: Some(files), ..listen() });
    })
    .await;
    let (token, _) = client_token(&bench, 0).await;
    assert_eq!(token.pin.name, NameCheck::Host);
    let port = bench.server().address().unwrap().port();
    let by = |host: &str| piecework_proto::address::Address::Tls { host: host.to_owned(), port };
    let channel = dial(by("localhost"), token.pin, None).await.unwrap();
    list(&channel, Some(&token)).await.unwrap();
    // It has a certificate for another name.
    assert!(dial(by("127.0.0.1"), token.pin, None).await.is_err());
    // Agents join there as everywhere.
    let token = join_token(&bench, pb::CreateJoinTokenRequest::default()).await;
    let joining = Joining { address: by("localhost"), ..Joining::new(&bench, Pin { ..token.pin }) };
    let certificate = joining.enrol(&token, "host").await.unwrap();
    let channel = joining.dial(&certificate).await;
    Agent::connect_on(AgentSessionClient::new(channel.clone()), hello("host"), 1).await;
    let drain = pb::DrainAgentRequest { name: "host".to_owned() };
    let refused = within(AgentsClient::new(channel).drain(drain)).await;
    check_refused(refused, Code::PermissionDenied, "an agent may not do this");
}
