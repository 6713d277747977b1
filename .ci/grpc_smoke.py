"""A foreign client, which knows nothing but the server's Unix socket and its certificate authority: what grpcurl would see.

Usage: grpc_smoke.py SOCKET CA. Lists the services over both versions of reflection, reads a message's fields from the schema
it is sent, asks for the health, and calls one method with it. Then it makes itself a token, and calls over TCP with TLS.
"""

import sys

import grpc
from google.protobuf import descriptor_pool, message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2 as wire
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

TIMEOUT_SECS = 10
SERVICES = {f"piecework.v1.{name}" for name in ("Admin", "Agents", "AgentSession", "Projects", "Queues")}
# The messages of v1 and v1alpha are the same on the wire; only the service's name differs.
VERSIONS = ("v1", "v1alpha")


def reflect(channel, version, request):
    """One question to the reflection service of this version."""
    call = channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=wire.ServerReflectionRequest.SerializeToString,
        response_deserializer=wire.ServerReflectionResponse.FromString,
    )
    return next(call(iter([request]), timeout=TIMEOUT_SECS))


def check_reflection(channel):
    """Every service is listed, and its schema is sent."""
    for version in VERSIONS:
        answer = reflect(channel, version, wire.ServerReflectionRequest(list_services=""))
        listed = {service.name for service in answer.list_services_response.service}
        missing = SERVICES - listed
        assert not missing, f"{version} lists no {missing}, only {listed}"
        symbol = wire.ServerReflectionRequest(file_containing_symbol="piecework.v1.Projects")
        files = reflect(channel, version, symbol).file_descriptor_response.file_descriptor_proto
        assert files, f"{version} sends no schema of piecework.v1.Projects"
        print(f"reflection {version}: {', '.join(sorted(listed))}")


def check_health(channel):
    """The server as a whole is serving."""
    answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_SECS)
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    assert status == "SERVING", f"health is {status}"
    print(f"health: {status}")


def caller(channel):
    """What calls methods with what reflection says of them."""
    pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(channel))

    def call(service, method, **fields):
        described = pool.FindServiceByName(f"piecework.v1.{service}").FindMethodByName(method)
        request = message_factory.GetMessageClass(described.input_type)(**fields)
        answer = message_factory.GetMessageClass(described.output_type)
        stub = channel.unary_unary(
            f"/piecework.v1.{service}/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answer.FromString,
        )
        return stub(request, timeout=TIMEOUT_SECS)

    return call


def check_call(channel):
    """A method can be called, and a fault has the fitting code."""
    call = caller(channel)
    info = call("Admin", "GetServerInfo")
    assert info.version and info.coordinator_epoch > 0, info
    print(f"Admin.GetServerInfo: version {info.version}, coordinator epoch {info.coordinator_epoch}")
    try:
        call("Projects", "Get", project="999999")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.NOT_FOUND, error
        print(f"Projects.Get of an unknown project: {error.code().name}: {error.details()}")
    else:
        raise AssertionError("a project that never was is found")
    check_queue(call)


def check_queue(call):
    """A message goes through a queue, and the system's queues are left alone."""
    call("Queues", "Create", name="smoke")
    body = bytes(range(256))
    (sent,) = call("Queues", "Send", queue="smoke", messages=[{"body": body, "headers": {"a": "b"}}]).ids
    (received,) = call("Queues", "Receive", queue="smoke", wait_millis=5000).messages
    assert (received.message.id, received.message.body) == (sent, body), received
    assert call("Queues", "Ack", queue="smoke", receipts=[received.receipt]).settled == 1
    call("Queues", "Delete", name="smoke", if_empty=True)
    print(f"Queues: message {sent} was sent, received and acknowledged")
    try:
        call("Queues", "Purge", name="piecework.todo")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.PERMISSION_DENIED, error
        print(f"Queues.Purge of the system's: {error.code().name}: {error.details()}")
    else:
        raise AssertionError("a queue of the system is purged")


def check_tls(socket_channel, authority):
    """Over TCP, a client that has the certificate authority's certificate and a token is served as over the socket."""
    made = caller(socket_channel)("Admin", "CreateClientToken", name="smoke")
    target = made.address.removeprefix("https://")
    tls = grpc.ssl_channel_credentials(authority)
    with grpc.secure_channel(target, tls) as channel:
        # The schema is not for everybody either.
        try:
            reflect(channel, "v1", wire.ServerReflectionRequest(list_services=""))
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.UNAUTHENTICATED, error
            print(f"TLS without a token: {error.code().name}: {error.details()}")
        else:
            raise AssertionError("a client without a token is served")
    known = grpc.composite_channel_credentials(tls, grpc.access_token_call_credentials(made.token))
    with grpc.secure_channel(target, known) as channel:
        check_reflection(channel)
        check_call(channel)
    print(f"TLS with a token: served at {made.address}")


def main():
    # grpcio would send the socket's path as the authority, which HTTP/2 servers in Rust refuse as malformed.
    options = [("grpc.default_authority", "localhost")]
    with grpc.insecure_channel(f"unix://{sys.argv[1]}", options=options) as channel:
        grpc.channel_ready_future(channel).result(timeout=TIMEOUT_SECS)
        check_reflection(channel)
        check_health(channel)
        check_call(channel)
        with open(sys.argv[2], "rb") as authority:
            check_tls(channel, authority.read())


main()
