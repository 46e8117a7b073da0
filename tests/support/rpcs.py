"""Every RPC of pavane.v1, from the descriptors of its protos: one that is added is in here by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from pavane.protos.v1 import admin_pb2, pavane_pb2

PATIENCE = 20.0


@dataclass(frozen=True)
class Rpc:
    """`name` is Service/Method."""

    descriptor: MethodDescriptor

    @property
    def name(self) -> str:
        return f"{self.descriptor.containing_service.name}/{self.descriptor.name}"

    @property
    def path(self) -> str:
        return f"/{self.descriptor.containing_service.full_name}/{self.descriptor.name}"

    @property
    def request(self) -> type[Message]:
        return GetMessageClass(self.descriptor.input_type)

    async def call(
        self,
        channel: grpc.aio.Channel,
        data: bytes,
        metadata: tuple[tuple[str, str], ...] = (),
        patience: float = PATIENCE,
    ) -> Message:
        """The answer, of a stream the first frame. Raises AioRpcError."""
        decode: Any = GetMessageClass(self.descriptor.output_type).FromString
        if not self.descriptor.server_streaming:
            unary: Any = channel.unary_unary(self.path, response_deserializer=decode)
            answer = await unary(data, metadata=metadata, timeout=patience)
        else:
            stream: Any = channel.unary_stream(self.path, response_deserializer=decode)
            call = stream(data, metadata=metadata, timeout=patience)
            try:
                answer = await call.read()
            finally:
                call.cancel()
            if answer is grpc.aio.EOF:
                answer = GetMessageClass(self.descriptor.output_type)()
        assert isinstance(answer, Message)
        return answer


RPCS = {
    rpc.name: rpc
    for file in (pavane_pb2.DESCRIPTOR, admin_pb2.DESCRIPTOR)
    for service in file.services_by_name.values()
    for rpc in map(Rpc, service.methods)
}
