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

from connectrpc.code import Code as Code
from connectrpc.errors import ConnectError as ConnectError, ErrorDetail as ErrorDetail
from connectrpc.interceptor import (
    BidiStreamInterceptor as BidiStreamInterceptor,
    ClientStreamInterceptor as ClientStreamInterceptor,
    MetadataInterceptor as MetadataInterceptor,
    ServerStreamInterceptor as ServerStreamInterceptor,
    UnaryInterceptor as UnaryInterceptor,
)
from connectrpc.method import IdempotencyLevel as IdempotencyLevel, StreamType as StreamType
from connectrpc.request import Headers as Headers

from cpg_trio.asgi import App as App
from cpg_trio.rpc.app_client import (
    AppClient as AppClient,
    LocalHost as LocalHost,
    LocalWebSocket as LocalWebSocket,
)
from cpg_trio.rpc.app_server import (
    AppServer as AppServer,
    ServedCall as ServedCall,
    serving_app as serving_app,
)
from cpg_trio.rpc.client import (
    CallOptions as CallOptions,
    ClientConfig as ClientConfig,
    ServiceClient as ServiceClient,
)
from cpg_trio.rpc.context import Caller as Caller, Context as Context
from cpg_trio.rpc.errors import pack_detail as pack_detail, unpack_detail as unpack_detail
from cpg_trio.rpc.faults import (
    CallError as CallError,
    Fault as Fault,
    fault_of as fault_of,
    fault_of_answer as fault_of_answer,
)
from cpg_trio.rpc.given import (
    check_client_class as check_client_class,
    check_service as check_service,
    check_service_type as check_service_type,
    check_texts as check_texts,
    described as described,
)
from cpg_trio.rpc.http_client import (
    CallTraits as CallTraits,
    Duplex as Duplex,
    HttpClient as HttpClient,
    HttpRequest as HttpRequest,
    HttpResponse as HttpResponse,
    HttpResponseHead as HttpResponseHead,
    HttpxClient as HttpxClient,
    PoolClient as PoolClient,
    WholeResponse as WholeResponse,
    code_of as code_of,
    http_client_of as http_client_of,
    send_duplex as send_duplex,
)
from cpg_trio.rpc.inprocess import AsgiTransport as AsgiTransport
from cpg_trio.rpc.interceptors import (
    Interceptor as Interceptor,
    checked_interceptors as checked_interceptors,
)
from cpg_trio.rpc.recording import RecordedCall as RecordedCall
from cpg_trio.rpc.response import (
    ResponseMetadata as ResponseMetadata,
    ResponseStream as ResponseStream,
)
from cpg_trio.rpc.response_code import code_of_end as code_of_end, code_of_head as code_of_head
from cpg_trio.rpc.room import Room as Room, room_of_process as room_of_process
from cpg_trio.rpc.server import (
    MAX_MESSAGE_BYTES as MAX_MESSAGE_BYTES,
    Service as Service,
    application as application,
)
from cpg_trio.rpc.stubs import Rpc as Rpc, check_stubs as check_stubs
