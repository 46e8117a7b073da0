"""The Python client: needs grpcio and protobuf, nothing else. `Client` for asyncio, `SyncClient` without."""

from pavane.clients.admin import Admin
from pavane.clients.calls import DecodeOptions, PrefillOptions
from pavane.clients.client import Client
from pavane.clients.draft import Draft, Plan
from pavane.clients.edges import Edge, Fidelity, Layout, Parent
from pavane.clients.errors import (
    AlreadyExists,
    CallCancelled,
    CallFailed,
    DeadlineExceeded,
    FailedPrecondition,
    InternalError,
    InvalidRequest,
    NotFound,
    PavaneError,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
    WorkflowClosed,
)
from pavane.clients.group import Group
from pavane.clients.message import Message
from pavane.clients.results import Delta, ParentUse, Receipt, Result, ServerInfo
from pavane.clients.retry import RetryPolicy
from pavane.clients.score import Score
from pavane.clients.security import TLS
from pavane.clients.sync import SyncClient, SyncMessage, SyncWorkflow
from pavane.clients.workflow import Workflow

__all__ = [
    "TLS",
    "Admin",
    "AlreadyExists",
    "CallCancelled",
    "CallFailed",
    "Client",
    "DeadlineExceeded",
    "DecodeOptions",
    "Delta",
    "Draft",
    "Edge",
    "FailedPrecondition",
    "Fidelity",
    "Group",
    "InternalError",
    "InvalidRequest",
    "Layout",
    "Message",
    "NotFound",
    "Parent",
    "ParentUse",
    "PavaneError",
    "PermissionDenied",
    "Plan",
    "PrefillOptions",
    "Receipt",
    "ResourceExhausted",
    "Result",
    "RetryPolicy",
    "Score",
    "ServerInfo",
    "SyncClient",
    "SyncMessage",
    "SyncWorkflow",
    "Unavailable",
    "Workflow",
    "WorkflowClosed",
]
