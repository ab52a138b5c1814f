"""Connect RPC on Trio.

The client side is ours (the connectrpc library's is bound to asyncio); the server side is connectrpc's ASGI
application, which runs on Trio, behind one interceptor and a few edges of our own, with a short way past it
for the calls that are most of them. Nothing in this package knows about plugins. What stands on what:

    faults      whose failure it is that a call has failed
    errors      the one error, its codes, and what an HTTP status means
    response_code the code that a response ends with, for those that pass it on
    recording   the record of a call that an application answers
    http_client what requests are sent with: httpx, or a pool of connections
    codecs      messages as bytes
    envelope    the framing of streams
    interceptors code around calls, on both sides
    response    what a call gets
    intercepted the interceptors of a client
    client      calls, and the base class of generated typed clients
    inprocess   an httpx transport that calls an ASGI application, streaming, without a socket
    app_server  an application that is called within its process, each call a task of its own
    app_client  what calls it: a client for requests, and for websockets
    context     what a method is given beside its request
    room        how much memory the messages of all calls take
    hardening   what is set right about connectrpc's application
    unary       plain unary calls, answered without connectrpc's application
    stubs       what generated stubs are made of
    given       what people give to it: mistakes are named where they are made
    server      services served as one ASGI application
    dynamic     services and messages that are known by their descriptors alone
    proto_text  descriptors as text for people
    reflection  what services there are, for gRPC tools (imported where it is switched on)
    reflection_client what services another server has
"""

from connectrpc.code import Code
from connectrpc.errors import ConnectError, ErrorDetail
from connectrpc.interceptor import (
    BidiStreamInterceptor,
    ClientStreamInterceptor,
    MetadataInterceptor,
    ServerStreamInterceptor,
    UnaryInterceptor,
)
from connectrpc.method import IdempotencyLevel, StreamType
from connectrpc.request import Headers

from cpg_trio.asgi import App
from cpg_trio.rpc.app_client import LocalHost
from cpg_trio.rpc.client import CallOptions, ClientConfig, ServiceClient
from cpg_trio.rpc.context import Caller, Context
from cpg_trio.rpc.errors import pack_detail, unpack_detail
from cpg_trio.rpc.faults import CallError, Fault, fault_of
from cpg_trio.rpc.http_client import (
    CallTraits,
    Duplex,
    HttpClient,
    HttpRequest,
    HttpResponse,
    HttpResponseHead,
    HttpxClient,
    PoolClient,
    WholeResponse,
)
from cpg_trio.rpc.inprocess import AsgiTransport
from cpg_trio.rpc.interceptors import Interceptor
from cpg_trio.rpc.response import ResponseMetadata, ResponseStream
from cpg_trio.rpc.server import MAX_MESSAGE_BYTES, Service, application
from cpg_trio.rpc.stubs import Rpc, check_stubs

__all__ = [
    "MAX_MESSAGE_BYTES",
    "App",
    "AsgiTransport",
    "BidiStreamInterceptor",
    "CallError",
    "CallOptions",
    "CallTraits",
    "Caller",
    "ClientConfig",
    "ClientStreamInterceptor",
    "Code",
    "ConnectError",
    "Context",
    "Duplex",
    "ErrorDetail",
    "Fault",
    "Headers",
    "HttpClient",
    "HttpRequest",
    "HttpResponse",
    "HttpResponseHead",
    "HttpxClient",
    "IdempotencyLevel",
    "Interceptor",
    "LocalHost",
    "MetadataInterceptor",
    "PoolClient",
    "ResponseMetadata",
    "ResponseStream",
    "Rpc",
    "ServerStreamInterceptor",
    "Service",
    "ServiceClient",
    "StreamType",
    "UnaryInterceptor",
    "WholeResponse",
    "application",
    "check_stubs",
    "fault_of",
    "pack_detail",
    "unpack_detail",
]
