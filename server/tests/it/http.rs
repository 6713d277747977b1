//! Queues over HTTP: with any version of it, on the port of gRPC, for the same callers; what is wrong is a problem as RFC 9457 has it.

use crate::{
    bench::{Bench, within},
    tcp::{address, client_token, dial, enrolled, join_token, listen, with_token},
};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Method, Request, StatusCode,
    body::Bytes,
    client::conn::http1,
    header::{self, HeaderMap},
};
use hyper_util::rt::TokioIo;
use piecework_proto::{
    token::Token,
    trust::{Identity, Pin, client_config},
    v1::{self as pb, admin_client::AdminClient},
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::TlsConnector;

/// A page of others.
const ORIGIN: &str = "https://app.example";

async fn start() -> Bench {
    Bench::start_with(|config| {
        config.listen =
            Some(piecework_server::ListenConfig { cors_origins: vec![ORIGIN.to_owned()], ..listen() });
    })
    .await
}

/// What was answered.
#[derive(Debug)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    fn header(&self, name: header::HeaderName) -> &str {
        self.headers.get(&name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }

    /// With this status, and words that have this part.
    #[track_caller]
    fn check_problem(&self, status: u16, part: &str) {
        let problem = self.json();
        assert_eq!((self.status.as_u16(), &problem["status"]), (status, &json!(status)), "{problem}");
        assert_eq!(self.header(header::CONTENT_TYPE), "application/problem+json", "{problem}");
        assert_eq!(problem["type"], "about:blank");
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains(part)), "{part}: {problem}");
    }
}

/// One request over a connection of HTTP/1.1.
async fn ask_over<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    request: Request<Full<Bytes>>,
) -> Answer {
    let (mut sender, connection) = within(http1::handshake(TokioIo::new(stream))).await.unwrap();
    tokio::spawn(connection);
    let (parts, body) = within(sender.send_request(request)).await.unwrap().into_parts();
    let body = within(body.collect()).await.unwrap().to_bytes();
    Answer { status: parts.status, headers: parts.headers, body }
}

/// A connection with TLS that names no protocol, as plain HTTP clients do.
async fn tls(
    bench: &Bench,
    pin: Pin,
    identity: Option<Identity>,
) -> tokio_rustls::client::TlsStream<TcpStream> {
    let mut config = client_config(pin, identity).unwrap();
    config.alpn_protocols.clear();
    let stream = within(TcpStream::connect(bench.server().address().unwrap())).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    within(TlsConnector::from(Arc::new(config)).connect(name, stream)).await.unwrap()
}

/// Somebody with a token.
struct Http<'b> {
    bench: &'b Bench,
    token: Token,
}

impl<'b> Http<'b> {
    async fn new(bench: &'b Bench) -> Self {
        Self { bench, token: client_token(bench, 0).await.0 }
    }

    async fn send(&self, request: hyper::http::request::Builder, body: impl Into<Bytes>) -> Answer {
        let request = request.header(header::HOST, "localhost").body(Full::new(body.into())).unwrap();
        ask_over(tls(self.bench, self.token.pin, None).await, request).await
    }

    fn request(&self, method: Method, path: &str) -> hyper::http::request::Builder {
        let request = Request::builder().method(method).uri(path);
        request.header(header::AUTHORIZATION, format!("Bearer {}", self.token))
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(self.request(Method::GET, path), "").await
    }

    async fn delete(&self, path: &str) -> Answer {
        self.send(self.request(Method::DELETE, path), "").await
    }

    async fn post(&self, path: &str, body: &Value) -> Answer {
        let request = self.request(Method::POST, path).header(header::CONTENT_TYPE, "application/json");
        self.send(request, body.to_string()).await
    }

    async fn post_as(&self, path: &str, content_type: &str, body: &'static [u8]) -> Answer {
        let request = self.request(Method::POST, path).header(header::CONTENT_TYPE, content_type);
        self.send(request, body).await
    }
}

#[tokio::test]
async fn a_message_lives_its_life_over_http() {
    let bench = start().await;
    let http = Http::new(&bench).await;
    let made = http.post("/queues", &json!({"name": "jobs"})).await;
    assert_eq!((made.status, made.header(header::LOCATION)), (StatusCode::CREATED, "/queues/jobs"));
    assert_eq!(http.post("/queues", &json!({"name": "jobs"})).await.status, StatusCode::OK);

    let messages = json!({"messages": [
        {"text": "a", "content_type": "text/plain", "headers": {"k": "v"}}, {"base64": "/w=="}, {}
    ]});
    let sent = http.post("/queues/jobs/messages", &messages).await;
    assert_eq!(sent.status, StatusCode::CREATED);
    let ids = sent.json()["ids"].clone();
    let peeked = http.get("/queues/jobs/peek?max=9").await.json();
    assert_eq!(peeked["messages"].as_array().unwrap().len(), 3);
    let received = http.get("/queues/jobs/messages?max=2&visibility_millis=60000").await;
    assert_eq!(received.header(header::CACHE_CONTROL), "no-store");
    let received = received.json();
    let [first, second] = [0, 1].map(|n| received["messages"][n].clone());
    assert_eq!((&first["id"], &first["text"], &first["headers"]["k"]), (&ids[0], &json!("a"), &json!("v")));
    assert_eq!((&second["base64"], &second["redeliveries"]), (&json!("/w=="), &json!(0)));
    let queue = http.get("/queues/jobs").await.json();
    assert_eq!((&queue["ready"], &queue["unacked"], &queue["system"]), (&json!(1), &json!(2), &json!(false)));

    let receipts = json!({"receipts": [first["receipt"], "x"]});
    let acked = http.post("/queues/jobs/acks", &receipts).await.json();
    assert_eq!(acked, json!({"settled": 1, "unknown": ["x"]}));
    let receipts = |more: Value| json!({"receipts": [second["receipt"]], "extend_millis": more});
    for more in [json!(60_000.0), json!(null)] {
        let answer = http.post("/queues/jobs/nacks", &receipts(more)).await.json();
        assert_eq!(answer, json!({"settled": 1, "unknown": []}));
    }
    let again = http.get("/queues/jobs/messages?ack=auto").await.json();
    assert_eq!(again["messages"][0]["id"], second["id"]);
    assert_eq!(again["messages"][0].get("receipt"), None);
    http.delete("/queues/jobs?if_empty=true").await.check_problem(409, "not empty");
    assert_eq!(http.delete("/queues/jobs/messages").await.json(), json!({"messages": 1}));
    let none = http.get("/queues/jobs/messages?wait_millis=50").await.json();
    assert_eq!(none, json!({"messages": []}));
    assert_eq!(http.delete("/queues/jobs?if_empty=true").await.json(), json!({"messages": 0}));
    http.get("/queues/jobs").await.check_problem(404, "no queue `jobs`");
}

#[tokio::test]
async fn queues_are_listed_in_pages() {
    let bench = start().await;
    let http = Http::new(&bench).await;
    for name in ["c", "a", "b"] {
        http.post("/queues", &json!({"name": name})).await;
    }
    let names = |page: &Value| -> Vec<String> {
        let queues = page["queues"].as_array().unwrap().iter();
        queues.map(|queue| queue["name"].as_str().unwrap().to_owned()).collect()
    };
    let first = http.get("/queues?limit=2").await.json();
    assert_eq!((names(&first), &first["next"]), (vec!["a".to_owned(), "b".to_owned()], &json!("b")));
    let second = http.get("/queues?limit=2&after=b").await.json();
    assert_eq!((names(&second), second.get("next")), (vec!["c".to_owned()], None));
}

#[tokio::test]
async fn what_is_wrong_is_told_as_a_problem() {
    let bench = start().await;
    let http = Http::new(&bench).await;
    http.post("/queues", &json!({"name": "jobs"})).await;
    let bad = http.post("/queues", &json!({"name": "a b"})).await;
    bad.check_problem(400, "name");
    assert_eq!(bad.json()["errors"][0]["field"], "name");
    http.post("/queues", &json!({"name": "piecework.mine"}))
        .await
        .check_problem(403, "belongs to the system");
    http.delete("/queues/piecework.todo/messages").await.check_problem(403, "belongs to the system");
    http.post("/queues", &json!({"nom": "a"})).await.check_problem(422, "nom");
    http.post("/queues", &json!(["a"])).await.check_problem(422, "an object");
    http.post_as("/queues", "application/json", b"{").await.check_problem(400, "JSON");
    http.post_as("/queues", "text/plain", b"{\"name\":\"a\"}").await.check_problem(415, "application/json");
    http.get("/queues?limit=0").await.check_problem(400, "1 to 1000");
    http.get("/queues?colour=red").await.check_problem(400, "colour");
    http.get("/queues/jobs/messages?max=1001").await.check_problem(400, "1 to 1000");
    http.get("/queues/jobs/messages?wait_millis=60001").await.check_problem(400, "wait_millis");
    http.get("/queues/jobs/messages?visibility_millis=1").await.check_problem(400, "visibility_millis");
    http.get("/queues/%ff").await.check_problem(400, "UTF-8");
    http.get("/nothing").await.check_problem(404, "/openapi.json");
    let put = http.send(http.request(Method::PUT, "/queues"), "").await;
    put.check_problem(405, "Allow");
    assert_eq!(put.header(header::ALLOW), "GET,HEAD,POST");
    let both = json!({"messages": [{}, {"text": "a", "base64": ""}]});
    http.post("/queues/jobs/messages", &both).await.check_problem(400, "messages[1]");
    http.post("/queues/jobs/messages", &json!({"messages": []})).await.check_problem(400, "1 to 1000");
    let long = json!({"messages": [{"text": "x".repeat((1 << 20) + 1)}]});
    http.post("/queues/jobs/messages", &long).await.check_problem(400, "messages[0].body");
    let huge = json!({"messages": [{"text": "x".repeat(9 << 20)}]});
    http.post("/queues/jobs/messages", &huge).await.check_problem(413, "");
    // Nothing of all that is in the queue.
    assert_eq!(http.get("/queues/jobs").await.json()["ready"], 0);
}

#[tokio::test]
async fn http_asks_for_what_grpc_asks_for() {
    let bench = start().await;
    let http = Http::new(&bench).await;
    let as_shown = |value: Option<String>| {
        let request = Request::get("/queues");
        let request =
            if let Some(value) = value { request.header(header::AUTHORIZATION, value) } else { request };
        http.send(request, "")
    };
    let nobody = as_shown(None).await;
    nobody.check_problem(401, "a token is needed");
    assert_eq!(nobody.header(header::WWW_AUTHENTICATE), "Bearer");
    as_shown(Some("Basic eDp5".to_owned())).await.check_problem(401, "Bearer TOKEN");
    let joining = join_token(&bench, pb::CreateJoinTokenRequest::default()).await;
    as_shown(Some(format!("Bearer {joining}"))).await.check_problem(401, "for agents to join with");
    let (removed, id) = client_token(&bench, 0).await;
    within(bench.admin().remove_client_token(pb::RemoveClientTokenRequest { id })).await.unwrap();
    as_shown(Some(format!("Bearer {removed}"))).await.check_problem(401, "not known");

    // A certificate of an agent is for what agents do.
    let (_channel, agent, certificate) = enrolled(&bench, "host").await;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(agent.key.serialize_der()));
    let identity = Identity { chain: vec![CertificateDer::from(certificate)], key };
    let stream = tls(&bench, http.token.pin, Some(identity)).await;
    let request = Request::get("/queues").header(header::HOST, "localhost").body(Full::default()).unwrap();
    ask_over(stream, request).await.check_problem(403, "an agent may not do this");

    // gRPC on the same port, with the same token.
    let channel = dial(address(&bench), http.token.pin, None).await.unwrap();
    let ask = with_token(pb::GetServerInfoRequest {}, &http.token);
    within(AdminClient::new(channel).get_server_info(ask)).await.unwrap();
    // Over the socket only its owner calls.
    let stream = within(UnixStream::connect(bench.server().socket())).await.unwrap();
    let request = Request::get("/queues").header(header::HOST, "localhost").body(Full::default()).unwrap();
    assert_eq!(ask_over(stream, request).await.json(), json!({"queues": []}));
}

#[tokio::test]
async fn pages_of_named_origins_alone_may_call() {
    let bench = start().await;
    let http = Http::new(&bench).await;
    let preflight = |origin: &'static str| {
        let request =
            Request::builder().method(Method::OPTIONS).uri("/queues").header(header::ORIGIN, origin);
        http.send(request.header(header::ACCESS_CONTROL_REQUEST_METHOD, "POST"), "")
    };
    let allowed = preflight(ORIGIN).await;
    assert_eq!(
        (allowed.status, allowed.header(header::ACCESS_CONTROL_ALLOW_ORIGIN)),
        (StatusCode::OK, ORIGIN)
    );
    assert_eq!(allowed.header(header::ACCESS_CONTROL_ALLOW_HEADERS), "authorization,content-type");
    assert_eq!(preflight("https://evil.example").await.header(header::ACCESS_CONTROL_ALLOW_ORIGIN), "");
    // A refusal can be read by the page, too.
    let refused = http.send(Request::get("/queues").header(header::ORIGIN, ORIGIN), "").await;
    assert_eq!((refused.status.as_u16(), refused.header(header::ACCESS_CONTROL_ALLOW_ORIGIN)), (401, ORIGIN));

    // Without an origin that is named, nobody is asked before who calls.
    let closed = crate::tcp::start().await;
    let http = Http::new(&closed).await;
    let request = Request::builder().method(Method::OPTIONS).uri("/queues").header(header::ORIGIN, ORIGIN);
    http.send(request.header(header::ACCESS_CONTROL_REQUEST_METHOD, "POST"), "")
        .await
        .check_problem(401, "token");
}

/// Whatever is described is there.
#[tokio::test]
async fn the_interface_is_described() {
    let bench = start().await;
    let http = Http::new(&bench).await;
    let document = http.get("/openapi.json").await.json();
    assert_eq!(document["openapi"], "3.1.0");
    let paths = document["paths"].as_object().unwrap();
    assert_eq!(paths.len(), 6);
    for (path, methods) in paths {
        for method in methods.as_object().unwrap().keys() {
            let method = Method::from_bytes(method.to_ascii_uppercase().as_bytes()).unwrap();
            let answer = http.send(http.request(method.clone(), &path.replace("{name}", "x")), "").await;
            assert_ne!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
            let is_there =
                !answer.json()["detail"].as_str().is_some_and(|detail| detail.contains("/openapi.json"));
            assert!(is_there, "{method} {path}");
        }
    }
}

#[tokio::test]
async fn older_paths_are_served() {
    const FORM: &str = "application/x-www-form-urlencoded";
    let bench = start().await;
    let http = Http::new(&bench).await;
    let check = |answer: Answer, status: u16, state: &str, part: &str| {
        let body = answer.json();
        assert_eq!((answer.status.as_u16(), &body["state"]), (status, &json!(state)), "{body}");
        assert!(body["msg"].as_str().is_some_and(|msg| msg.contains(part)), "{part}: {body}");
    };
    check(http.post_as("/rabbit/", FORM, b"nom_queue=jobs").await, 201, "OK", "jobs");
    check(http.post_as("/rabbit/", FORM, b"nom_queue=jobs").await, 200, "OK", "already");
    check(http.post_as("/rabbit/", FORM, b"nom_queue=a+b").await, 400, "NO", "nom_queue");
    check(http.post_as("/rabbit/", FORM, b"nom=jobs").await, 422, "NO", "nom_queue");
    check(http.post_as("/rabbit/jobs", FORM, b"message=hello+world").await, 201, "OK", "");
    check(http.post_as("/rabbit/jobs", "application/json", b"{\"n\": 1}").await, 201, "OK", "");
    check(http.post_as("/rabbit/jobs", "image/png", b"\xff").await, 201, "OK", "");
    check(http.post_as("/rabbit/jobs", FORM, b"text=hello").await, 400, "NO", "message");
    check(http.get("/rabbit/jobs").await, 200, "OK", "hello world");
    check(http.get("/rabbit/jobs").await, 200, "OK", "{\"n\": 1}");
    let bytes = http.get("/rabbit/jobs").await.json();
    assert_eq!(bytes, json!({"state": "OK", "msg": "/w==", "encoding": "base64"}));
    check(http.get("/rabbit/jobs").await, 200, "NO", "empty");
    check(http.delete("/rabbit/piecework.todo").await, 403, "NO", "belongs to the system");
    check(http.delete("/rabbit/jobs").await, 200, "OK", "removed");
    check(http.get("/rabbit/jobs").await, 404, "NO", "no queue");
    http.send(Request::get("/rabbit/jobs"), "").await.check_problem(401, "token");
}
