"""The admin API of one node by reflection alone: list services, apply, read back, query usage.

usage: admin_by_reflection.py ADDRESS TOKEN TENANT
"""

import sys

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

address, token, tenant = sys.argv[1:]
channel = grpc.insecure_channel(address)
database = ProtoReflectionDescriptorDatabase(channel)
pool = DescriptorPool(database)

services = set(database.get_services())
expected = {f"modeenvoy.admin.v1.{name}" for name in ("Config", "Keys", "Tokens", "Usage", "Cluster")}
assert expected <= services, f"{expected - services} are not among {services}"
assert "grpc.health.v1.Health" in services, services


def call(service, method, request, credential=token):
    descriptor = pool.FindServiceByName(service).methods_by_name[method]
    invoke = channel.unary_unary(
        f"/{service}/{method}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=GetMessageClass(descriptor.output_type).FromString,
    )
    metadata = [("authorization", f"Bearer {credential}")] if credential else []
    message = GetMessageClass(descriptor.input_type)(**request)
    return invoke(message, timeout=20, metadata=metadata)


health = call("grpc.health.v1.Health", "Check", {}, credential=None)
assert health.status == 1, health  # SERVING

document = f"tenants: [{{name: {tenant}}}]"
applied = call("modeenvoy.admin.v1.Config", "Apply", {"document": document, "wait": True})
assert [(c.kind, c.name, c.change) for c in applied.changes] == [("tenant", tenant, "created")], applied
again = call("modeenvoy.admin.v1.Config", "Apply", {"document": document})
assert again.changes[0].change == "unchanged" and again.revision == applied.revision, again
exported = call("modeenvoy.admin.v1.Config", "Export", {})
assert tenant in exported.document, exported

usage = call("modeenvoy.admin.v1.Usage", "QueryUsage", {"group_by": ["tenant"], "linearizable": True})
assert usage.interval == "total" and usage.applied_index > 0 and not usage.missing_nodes, usage
status = call("modeenvoy.admin.v1.Cluster", "Status", {})
assert len(status.nodes) == 3 and status.leader in (1, 2, 3), status

for request, credential, code in [
    ({"document": "tenants: [{nam: x}]"}, token, grpc.StatusCode.INVALID_ARGUMENT),
    ({"document": document}, None, grpc.StatusCode.UNAUTHENTICATED),
    ({"document": document}, "met-nobody", grpc.StatusCode.UNAUTHENTICATED),
]:
    try:
        call("modeenvoy.admin.v1.Config", "Apply", request, credential)
        raise AssertionError(f"{request} was taken")
    except grpc.RpcError as error:
        assert error.code() == code, (code, error)
