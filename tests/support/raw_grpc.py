"""One gRPC request on a TCP connection of its own, in frames written by hand (RFC 9113, RFC 7541): a client that can do
what no library does, like to stop reading or to be gone between two bytes."""

from __future__ import annotations

import socket
import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS = 0, 1, 4
END_STREAM, END_HEADERS, ACK = 1, 4, 1
STREAM = 1


class RawRequest:
    """Sent at once; the answer stays where it is until it is read."""

    def __init__(self, target: str, method: str, request: bytes) -> None:
        """`method` is /package.Service/Name, `request` the serialised message. Raises OSError."""
        host, _, port = target.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=60.0)
        fields = {
            ":method": "POST",
            ":scheme": "http",
            ":path": method,
            ":authority": target,
            "content-type": "application/grpc",
            "te": "trailers",
        }
        block = b"".join(b"\x00" + _string(name) + _string(value) for name, value in fields.items())
        self.socket.sendall(
            PREFACE
            + _frame(SETTINGS, 0, 0, b"")
            + _frame(HEADERS, END_HEADERS, STREAM, block)
            + _frame(DATA, END_STREAM, STREAM, struct.pack(">BI", 0, len(request)) + request)
            + _frame(SETTINGS, ACK, 0, b"")  # of what the server is about to send
        )

    def reset(self) -> None:
        """Gone, by RST: nothing that is on its way matters any more."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def closed_by_server(self, within: float) -> bool:
        """Reads what is there; whether the end of it comes in so many seconds of silence."""
        self.socket.settimeout(within)
        try:
            while self.socket.recv(1 << 16):
                pass
        except TimeoutError:
            return False
        except ConnectionResetError:
            return True
        return True

    def close(self) -> None:
        self.socket.close()


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _string(text: str) -> bytes:
    """A literal without Huffman coding."""
    data = text.encode("ascii")
    assert len(data) < 127, "longer ones have their length in several bytes"
    return bytes([len(data)]) + data
