import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PluginState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PLUGIN_STATE_UNSPECIFIED: _ClassVar[PluginState]
    PLUGIN_STATE_HEALTHY: _ClassVar[PluginState]
    PLUGIN_STATE_DEGRADED: _ClassVar[PluginState]
    PLUGIN_STATE_UNHEALTHY: _ClassVar[PluginState]
    PLUGIN_STATE_LAPSED: _ClassVar[PluginState]
    PLUGIN_STATE_STARTING: _ClassVar[PluginState]
    PLUGIN_STATE_DRAINING: _ClassVar[PluginState]
    PLUGIN_STATE_GONE: _ClassVar[PluginState]
    PLUGIN_STATE_WAITING: _ClassVar[PluginState]
    PLUGIN_STATE_BACKING_OFF: _ClassVar[PluginState]
    PLUGIN_STATE_STOPPED: _ClassVar[PluginState]
    PLUGIN_STATE_FAILED: _ClassVar[PluginState]

class ReplicaPhase(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REPLICA_PHASE_UNSPECIFIED: _ClassVar[ReplicaPhase]
    REPLICA_PHASE_WAITING: _ClassVar[ReplicaPhase]
    REPLICA_PHASE_STARTING: _ClassVar[ReplicaPhase]
    REPLICA_PHASE_READY: _ClassVar[ReplicaPhase]
    REPLICA_PHASE_BACKING_OFF: _ClassVar[ReplicaPhase]
    REPLICA_PHASE_STOPPING: _ClassVar[ReplicaPhase]
    REPLICA_PHASE_STOPPED: _ClassVar[ReplicaPhase]
    REPLICA_PHASE_FAILED: _ClassVar[ReplicaPhase]

class EventKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EVENT_KIND_UNSPECIFIED: _ClassVar[EventKind]
    EVENT_KIND_ADMITTED: _ClassVar[EventKind]
    EVENT_KIND_REGISTERED: _ClassVar[EventKind]
    EVENT_KIND_UNREGISTERED: _ClassVar[EventKind]
    EVENT_KIND_HEALTHY: _ClassVar[EventKind]
    EVENT_KIND_DEGRADED: _ClassVar[EventKind]
    EVENT_KIND_UNHEALTHY: _ClassVar[EventKind]
    EVENT_KIND_LAPSED: _ClassVar[EventKind]
    EVENT_KIND_RETURNED: _ClassVar[EventKind]
    EVENT_KIND_DRAINING: _ClassVar[EventKind]
    EVENT_KIND_GONE: _ClassVar[EventKind]
    EVENT_KIND_REVOKED: _ClassVar[EventKind]
    EVENT_KIND_EXPIRED: _ClassVar[EventKind]
    EVENT_KIND_REFUSED: _ClassVar[EventKind]
    EVENT_KIND_ACTION: _ClassVar[EventKind]
    EVENT_KIND_RELOADED: _ClassVar[EventKind]
    EVENT_KIND_HOST: _ClassVar[EventKind]
    EVENT_KIND_STARTED: _ClassVar[EventKind]
    EVENT_KIND_READY: _ClassVar[EventKind]
    EVENT_KIND_ENDED: _ClassVar[EventKind]
    EVENT_KIND_LOOPING: _ClassVar[EventKind]
    EVENT_KIND_REPLACED: _ClassVar[EventKind]
PLUGIN_STATE_UNSPECIFIED: PluginState
PLUGIN_STATE_HEALTHY: PluginState
PLUGIN_STATE_DEGRADED: PluginState
PLUGIN_STATE_UNHEALTHY: PluginState
PLUGIN_STATE_LAPSED: PluginState
PLUGIN_STATE_STARTING: PluginState
PLUGIN_STATE_DRAINING: PluginState
PLUGIN_STATE_GONE: PluginState
PLUGIN_STATE_WAITING: PluginState
PLUGIN_STATE_BACKING_OFF: PluginState
PLUGIN_STATE_STOPPED: PluginState
PLUGIN_STATE_FAILED: PluginState
REPLICA_PHASE_UNSPECIFIED: ReplicaPhase
REPLICA_PHASE_WAITING: ReplicaPhase
REPLICA_PHASE_STARTING: ReplicaPhase
REPLICA_PHASE_READY: ReplicaPhase
REPLICA_PHASE_BACKING_OFF: ReplicaPhase
REPLICA_PHASE_STOPPING: ReplicaPhase
REPLICA_PHASE_STOPPED: ReplicaPhase
REPLICA_PHASE_FAILED: ReplicaPhase
EVENT_KIND_UNSPECIFIED: EventKind
EVENT_KIND_ADMITTED: EventKind
EVENT_KIND_REGISTERED: EventKind
EVENT_KIND_UNREGISTERED: EventKind
EVENT_KIND_HEALTHY: EventKind
EVENT_KIND_DEGRADED: EventKind
EVENT_KIND_UNHEALTHY: EventKind
EVENT_KIND_LAPSED: EventKind
EVENT_KIND_RETURNED: EventKind
EVENT_KIND_DRAINING: EventKind
EVENT_KIND_GONE: EventKind
EVENT_KIND_REVOKED: EventKind
EVENT_KIND_EXPIRED: EventKind
EVENT_KIND_REFUSED: EventKind
EVENT_KIND_ACTION: EventKind
EVENT_KIND_RELOADED: EventKind
EVENT_KIND_HOST: EventKind
EVENT_KIND_STARTED: EventKind
EVENT_KIND_READY: EventKind
EVENT_KIND_ENDED: EventKind
EVENT_KIND_LOOPING: EventKind
EVENT_KIND_REPLACED: EventKind

class CallStatistics(_message.Message):
    __slots__ = ("calls", "failed", "calls_per_second", "p50", "p95", "p99", "in_flight", "request_bytes", "response_bytes")
    CALLS_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    CALLS_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    P50_FIELD_NUMBER: _ClassVar[int]
    P95_FIELD_NUMBER: _ClassVar[int]
    P99_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_BYTES_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_BYTES_FIELD_NUMBER: _ClassVar[int]
    calls: int
    failed: int
    calls_per_second: float
    p50: _duration_pb2.Duration
    p95: _duration_pb2.Duration
    p99: _duration_pb2.Duration
    in_flight: int
    request_bytes: int
    response_bytes: int
    def __init__(self, calls: _Optional[int] = ..., failed: _Optional[int] = ..., calls_per_second: _Optional[float] = ..., p50: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., p95: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., p99: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., in_flight: _Optional[int] = ..., request_bytes: _Optional[int] = ..., response_bytes: _Optional[int] = ...) -> None: ...

class ProvidedService(_message.Message):
    __slots__ = ("service_type", "version", "registration_id", "metadata", "registered_at")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    SERVICE_TYPE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    REGISTRATION_ID_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    REGISTERED_AT_FIELD_NUMBER: _ClassVar[int]
    service_type: str
    version: str
    registration_id: str
    metadata: _containers.ScalarMap[str, str]
    registered_at: _timestamp_pb2.Timestamp
    def __init__(self, service_type: _Optional[str] = ..., version: _Optional[str] = ..., registration_id: _Optional[str] = ..., metadata: _Optional[_Mapping[str, str]] = ..., registered_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class RequiredService(_message.Message):
    __slots__ = ("service_type", "available", "reason", "reported_missing", "since")
    SERVICE_TYPE_FIELD_NUMBER: _ClassVar[int]
    AVAILABLE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    REPORTED_MISSING_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    service_type: str
    available: bool
    reason: str
    reported_missing: bool
    since: _timestamp_pb2.Timestamp
    def __init__(self, service_type: _Optional[str] = ..., available: _Optional[bool] = ..., reason: _Optional[str] = ..., reported_missing: _Optional[bool] = ..., since: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class Plugin(_message.Message):
    __slots__ = ("runtime_id", "name", "version", "url", "address", "state", "state_since", "reason", "lease_left", "last_heard_at", "identity_since", "token_expires_at", "provides", "requires", "calls_in", "calls_out", "connections", "watches", "grants", "host_id", "host_url", "replica")
    RUNTIME_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    URL_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    STATE_SINCE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    LEASE_LEFT_FIELD_NUMBER: _ClassVar[int]
    LAST_HEARD_AT_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_SINCE_FIELD_NUMBER: _ClassVar[int]
    TOKEN_EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    PROVIDES_FIELD_NUMBER: _ClassVar[int]
    REQUIRES_FIELD_NUMBER: _ClassVar[int]
    CALLS_IN_FIELD_NUMBER: _ClassVar[int]
    CALLS_OUT_FIELD_NUMBER: _ClassVar[int]
    CONNECTIONS_FIELD_NUMBER: _ClassVar[int]
    WATCHES_FIELD_NUMBER: _ClassVar[int]
    GRANTS_FIELD_NUMBER: _ClassVar[int]
    HOST_ID_FIELD_NUMBER: _ClassVar[int]
    HOST_URL_FIELD_NUMBER: _ClassVar[int]
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    runtime_id: str
    name: str
    version: str
    url: str
    address: str
    state: PluginState
    state_since: _timestamp_pb2.Timestamp
    reason: str
    lease_left: _duration_pb2.Duration
    last_heard_at: _timestamp_pb2.Timestamp
    identity_since: _timestamp_pb2.Timestamp
    token_expires_at: _timestamp_pb2.Timestamp
    provides: _containers.RepeatedCompositeFieldContainer[ProvidedService]
    requires: _containers.RepeatedCompositeFieldContainer[RequiredService]
    calls_in: CallStatistics
    calls_out: CallStatistics
    connections: int
    watches: int
    grants: int
    host_id: str
    host_url: str
    replica: Replica
    def __init__(self, runtime_id: _Optional[str] = ..., name: _Optional[str] = ..., version: _Optional[str] = ..., url: _Optional[str] = ..., address: _Optional[str] = ..., state: _Optional[_Union[PluginState, str]] = ..., state_since: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., reason: _Optional[str] = ..., lease_left: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., last_heard_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., identity_since: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., token_expires_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., provides: _Optional[_Iterable[_Union[ProvidedService, _Mapping]]] = ..., requires: _Optional[_Iterable[_Union[RequiredService, _Mapping]]] = ..., calls_in: _Optional[_Union[CallStatistics, _Mapping]] = ..., calls_out: _Optional[_Union[CallStatistics, _Mapping]] = ..., connections: _Optional[int] = ..., watches: _Optional[int] = ..., grants: _Optional[int] = ..., host_id: _Optional[str] = ..., host_url: _Optional[str] = ..., replica: _Optional[_Union[Replica, _Mapping]] = ...) -> None: ...

class Replica(_message.Message):
    __slots__ = ("plugin", "number", "phase", "since", "why", "where", "pid", "runtime_id", "runs", "failures", "again_at", "looping")
    PLUGIN_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    WHERE_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    RUNTIME_ID_FIELD_NUMBER: _ClassVar[int]
    RUNS_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    AGAIN_AT_FIELD_NUMBER: _ClassVar[int]
    LOOPING_FIELD_NUMBER: _ClassVar[int]
    plugin: str
    number: int
    phase: ReplicaPhase
    since: _timestamp_pb2.Timestamp
    why: str
    where: str
    pid: int
    runtime_id: str
    runs: int
    failures: int
    again_at: _timestamp_pb2.Timestamp
    looping: bool
    def __init__(self, plugin: _Optional[str] = ..., number: _Optional[int] = ..., phase: _Optional[_Union[ReplicaPhase, str]] = ..., since: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., why: _Optional[str] = ..., where: _Optional[str] = ..., pid: _Optional[int] = ..., runtime_id: _Optional[str] = ..., runs: _Optional[int] = ..., failures: _Optional[int] = ..., again_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., looping: _Optional[bool] = ...) -> None: ...

class ManagedPlugin(_message.Message):
    __slots__ = ("name", "self_id", "launcher", "state", "reason", "wanted", "replicas", "provides", "requires", "after", "restart", "source")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SELF_ID_FIELD_NUMBER: _ClassVar[int]
    LAUNCHER_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    WANTED_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    PROVIDES_FIELD_NUMBER: _ClassVar[int]
    REQUIRES_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    RESTART_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    name: str
    self_id: str
    launcher: str
    state: PluginState
    reason: str
    wanted: int
    replicas: _containers.RepeatedCompositeFieldContainer[Replica]
    provides: _containers.RepeatedScalarFieldContainer[str]
    requires: _containers.RepeatedScalarFieldContainer[str]
    after: _containers.RepeatedScalarFieldContainer[str]
    restart: str
    source: str
    def __init__(self, name: _Optional[str] = ..., self_id: _Optional[str] = ..., launcher: _Optional[str] = ..., state: _Optional[_Union[PluginState, str]] = ..., reason: _Optional[str] = ..., wanted: _Optional[int] = ..., replicas: _Optional[_Iterable[_Union[Replica, _Mapping]]] = ..., provides: _Optional[_Iterable[str]] = ..., requires: _Optional[_Iterable[str]] = ..., after: _Optional[_Iterable[str]] = ..., restart: _Optional[str] = ..., source: _Optional[str] = ...) -> None: ...

class Service(_message.Message):
    __slots__ = ("service_type", "selection", "state", "reason", "providers", "required_by", "calls")
    SERVICE_TYPE_FIELD_NUMBER: _ClassVar[int]
    SELECTION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    PROVIDERS_FIELD_NUMBER: _ClassVar[int]
    REQUIRED_BY_FIELD_NUMBER: _ClassVar[int]
    CALLS_FIELD_NUMBER: _ClassVar[int]
    service_type: str
    selection: str
    state: PluginState
    reason: str
    providers: _containers.RepeatedCompositeFieldContainer[ServiceProvider]
    required_by: _containers.RepeatedScalarFieldContainer[str]
    calls: CallStatistics
    def __init__(self, service_type: _Optional[str] = ..., selection: _Optional[str] = ..., state: _Optional[_Union[PluginState, str]] = ..., reason: _Optional[str] = ..., providers: _Optional[_Iterable[_Union[ServiceProvider, _Mapping]]] = ..., required_by: _Optional[_Iterable[str]] = ..., calls: _Optional[_Union[CallStatistics, _Mapping]] = ...) -> None: ...

class ServiceProvider(_message.Message):
    __slots__ = ("runtime_id", "name", "version", "state", "reason", "calls", "share_of_calls")
    RUNTIME_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    CALLS_FIELD_NUMBER: _ClassVar[int]
    SHARE_OF_CALLS_FIELD_NUMBER: _ClassVar[int]
    runtime_id: str
    name: str
    version: str
    state: PluginState
    reason: str
    calls: CallStatistics
    share_of_calls: float
    def __init__(self, runtime_id: _Optional[str] = ..., name: _Optional[str] = ..., version: _Optional[str] = ..., state: _Optional[_Union[PluginState, str]] = ..., reason: _Optional[str] = ..., calls: _Optional[_Union[CallStatistics, _Mapping]] = ..., share_of_calls: _Optional[float] = ...) -> None: ...

class Problem(_message.Message):
    __slots__ = ("state", "summary", "since", "runtime_id", "service_type", "what_to_do", "managed")
    STATE_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    RUNTIME_ID_FIELD_NUMBER: _ClassVar[int]
    SERVICE_TYPE_FIELD_NUMBER: _ClassVar[int]
    WHAT_TO_DO_FIELD_NUMBER: _ClassVar[int]
    MANAGED_FIELD_NUMBER: _ClassVar[int]
    state: PluginState
    summary: str
    since: _timestamp_pb2.Timestamp
    runtime_id: str
    service_type: str
    what_to_do: str
    managed: str
    def __init__(self, state: _Optional[_Union[PluginState, str]] = ..., summary: _Optional[str] = ..., since: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., runtime_id: _Optional[str] = ..., service_type: _Optional[str] = ..., what_to_do: _Optional[str] = ..., managed: _Optional[str] = ...) -> None: ...

class GetStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetStatusResponse(_message.Message):
    __slots__ = ("state", "problems", "host", "plugins", "services", "calls", "refused", "directory")
    STATE_FIELD_NUMBER: _ClassVar[int]
    PROBLEMS_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    PLUGINS_FIELD_NUMBER: _ClassVar[int]
    SERVICES_FIELD_NUMBER: _ClassVar[int]
    CALLS_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    DIRECTORY_FIELD_NUMBER: _ClassVar[int]
    state: PluginState
    problems: _containers.RepeatedCompositeFieldContainer[Problem]
    host: HostInfo
    plugins: _containers.RepeatedCompositeFieldContainer[StateCount]
    services: int
    calls: CallStatistics
    refused: int
    directory: SharedDirectory
    def __init__(self, state: _Optional[_Union[PluginState, str]] = ..., problems: _Optional[_Iterable[_Union[Problem, _Mapping]]] = ..., host: _Optional[_Union[HostInfo, _Mapping]] = ..., plugins: _Optional[_Iterable[_Union[StateCount, _Mapping]]] = ..., services: _Optional[int] = ..., calls: _Optional[_Union[CallStatistics, _Mapping]] = ..., refused: _Optional[int] = ..., directory: _Optional[_Union[SharedDirectory, _Mapping]] = ...) -> None: ...

class SharedDirectory(_message.Message):
    __slots__ = ("hosts", "store", "orphans")
    HOSTS_FIELD_NUMBER: _ClassVar[int]
    STORE_FIELD_NUMBER: _ClassVar[int]
    ORPHANS_FIELD_NUMBER: _ClassVar[int]
    hosts: _containers.RepeatedCompositeFieldContainer[DirectoryHost]
    store: StoreStanding
    orphans: int
    def __init__(self, hosts: _Optional[_Iterable[_Union[DirectoryHost, _Mapping]]] = ..., store: _Optional[_Union[StoreStanding, _Mapping]] = ..., orphans: _Optional[int] = ...) -> None: ...

class DirectoryHost(_message.Message):
    __slots__ = ("host_id", "url", "version", "since", "answers", "plugins")
    HOST_ID_FIELD_NUMBER: _ClassVar[int]
    URL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    PLUGINS_FIELD_NUMBER: _ClassVar[int]
    host_id: str
    url: str
    version: str
    since: _timestamp_pb2.Timestamp
    answers: bool
    plugins: int
    def __init__(self, host_id: _Optional[str] = ..., url: _Optional[str] = ..., version: _Optional[str] = ..., since: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., answers: _Optional[bool] = ..., plugins: _Optional[int] = ...) -> None: ...

class StoreStanding(_message.Message):
    __slots__ = ("store", "in_touch", "reason", "since", "revision", "behind")
    STORE_FIELD_NUMBER: _ClassVar[int]
    IN_TOUCH_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    BEHIND_FIELD_NUMBER: _ClassVar[int]
    store: str
    in_touch: bool
    reason: str
    since: _timestamp_pb2.Timestamp
    revision: int
    behind: _duration_pb2.Duration
    def __init__(self, store: _Optional[str] = ..., in_touch: _Optional[bool] = ..., reason: _Optional[str] = ..., since: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., revision: _Optional[int] = ..., behind: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class StateCount(_message.Message):
    __slots__ = ("state", "count")
    STATE_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    state: PluginState
    count: int
    def __init__(self, state: _Optional[_Union[PluginState, str]] = ..., count: _Optional[int] = ...) -> None: ...

class HostInfo(_message.Message):
    __slots__ = ("urls", "version", "started_at", "stopping", "loop_lag", "loop_lag_most", "memory_bytes", "file_descriptors", "file_descriptor_limit", "connections", "pool_connections", "watches", "log_lines_dropped", "unsaved", "registry_id", "pid")
    URLS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_FIELD_NUMBER: _ClassVar[int]
    STOPPING_FIELD_NUMBER: _ClassVar[int]
    LOOP_LAG_FIELD_NUMBER: _ClassVar[int]
    LOOP_LAG_MOST_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    FILE_DESCRIPTORS_FIELD_NUMBER: _ClassVar[int]
    FILE_DESCRIPTOR_LIMIT_FIELD_NUMBER: _ClassVar[int]
    CONNECTIONS_FIELD_NUMBER: _ClassVar[int]
    POOL_CONNECTIONS_FIELD_NUMBER: _ClassVar[int]
    WATCHES_FIELD_NUMBER: _ClassVar[int]
    LOG_LINES_DROPPED_FIELD_NUMBER: _ClassVar[int]
    UNSAVED_FIELD_NUMBER: _ClassVar[int]
    REGISTRY_ID_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    urls: _containers.RepeatedScalarFieldContainer[str]
    version: str
    started_at: _timestamp_pb2.Timestamp
    stopping: bool
    loop_lag: _duration_pb2.Duration
    loop_lag_most: _duration_pb2.Duration
    memory_bytes: int
    file_descriptors: int
    file_descriptor_limit: int
    connections: int
    pool_connections: int
    watches: int
    log_lines_dropped: int
    unsaved: str
    registry_id: str
    pid: int
    def __init__(self, urls: _Optional[_Iterable[str]] = ..., version: _Optional[str] = ..., started_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., stopping: _Optional[bool] = ..., loop_lag: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., loop_lag_most: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., memory_bytes: _Optional[int] = ..., file_descriptors: _Optional[int] = ..., file_descriptor_limit: _Optional[int] = ..., connections: _Optional[int] = ..., pool_connections: _Optional[int] = ..., watches: _Optional[int] = ..., log_lines_dropped: _Optional[int] = ..., unsaved: _Optional[str] = ..., registry_id: _Optional[str] = ..., pid: _Optional[int] = ...) -> None: ...

class ListPluginsRequest(_message.Message):
    __slots__ = ("states", "filter", "include_gone")
    STATES_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_GONE_FIELD_NUMBER: _ClassVar[int]
    states: _containers.RepeatedScalarFieldContainer[PluginState]
    filter: str
    include_gone: bool
    def __init__(self, states: _Optional[_Iterable[_Union[PluginState, str]]] = ..., filter: _Optional[str] = ..., include_gone: _Optional[bool] = ...) -> None: ...

class ListPluginsResponse(_message.Message):
    __slots__ = ("plugins",)
    PLUGINS_FIELD_NUMBER: _ClassVar[int]
    plugins: _containers.RepeatedCompositeFieldContainer[Plugin]
    def __init__(self, plugins: _Optional[_Iterable[_Union[Plugin, _Mapping]]] = ...) -> None: ...

class GetPluginRequest(_message.Message):
    __slots__ = ("plugin",)
    PLUGIN_FIELD_NUMBER: _ClassVar[int]
    plugin: str
    def __init__(self, plugin: _Optional[str] = ...) -> None: ...

class GetPluginResponse(_message.Message):
    __slots__ = ("plugin", "history", "edges", "events", "grants", "calls", "managed", "lines")
    PLUGIN_FIELD_NUMBER: _ClassVar[int]
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    EDGES_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    GRANTS_FIELD_NUMBER: _ClassVar[int]
    CALLS_FIELD_NUMBER: _ClassVar[int]
    MANAGED_FIELD_NUMBER: _ClassVar[int]
    LINES_FIELD_NUMBER: _ClassVar[int]
    plugin: Plugin
    history: _containers.RepeatedCompositeFieldContainer[HealthChange]
    edges: _containers.RepeatedCompositeFieldContainer[Edge]
    events: _containers.RepeatedCompositeFieldContainer[Event]
    grants: _containers.RepeatedCompositeFieldContainer[Grant]
    calls: _containers.RepeatedCompositeFieldContainer[CallSeries]
    managed: ManagedPlugin
    lines: _containers.RepeatedCompositeFieldContainer[LogLine]
    def __init__(self, plugin: _Optional[_Union[Plugin, _Mapping]] = ..., history: _Optional[_Iterable[_Union[HealthChange, _Mapping]]] = ..., edges: _Optional[_Iterable[_Union[Edge, _Mapping]]] = ..., events: _Optional[_Iterable[_Union[Event, _Mapping]]] = ..., grants: _Optional[_Iterable[_Union[Grant, _Mapping]]] = ..., calls: _Optional[_Iterable[_Union[CallSeries, _Mapping]]] = ..., managed: _Optional[_Union[ManagedPlugin, _Mapping]] = ..., lines: _Optional[_Iterable[_Union[LogLine, _Mapping]]] = ...) -> None: ...

class HealthChange(_message.Message):
    __slots__ = ("at", "state", "reason")
    AT_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    at: _timestamp_pb2.Timestamp
    state: PluginState
    reason: str
    def __init__(self, at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., state: _Optional[_Union[PluginState, str]] = ..., reason: _Optional[str] = ...) -> None: ...

class ListServicesRequest(_message.Message):
    __slots__ = ("filter",)
    FILTER_FIELD_NUMBER: _ClassVar[int]
    filter: str
    def __init__(self, filter: _Optional[str] = ...) -> None: ...

class ListServicesResponse(_message.Message):
    __slots__ = ("services",)
    SERVICES_FIELD_NUMBER: _ClassVar[int]
    services: _containers.RepeatedCompositeFieldContainer[Service]
    def __init__(self, services: _Optional[_Iterable[_Union[Service, _Mapping]]] = ...) -> None: ...

class GetGraphRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetGraphResponse(_message.Message):
    __slots__ = ("nodes", "edges")
    NODES_FIELD_NUMBER: _ClassVar[int]
    EDGES_FIELD_NUMBER: _ClassVar[int]
    nodes: _containers.RepeatedCompositeFieldContainer[GraphNode]
    edges: _containers.RepeatedCompositeFieldContainer[Edge]
    def __init__(self, nodes: _Optional[_Iterable[_Union[GraphNode, _Mapping]]] = ..., edges: _Optional[_Iterable[_Union[Edge, _Mapping]]] = ...) -> None: ...

class GraphNode(_message.Message):
    __slots__ = ("name", "missing", "state", "reason", "runtime_ids", "provides", "managed")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    RUNTIME_IDS_FIELD_NUMBER: _ClassVar[int]
    PROVIDES_FIELD_NUMBER: _ClassVar[int]
    MANAGED_FIELD_NUMBER: _ClassVar[int]
    name: str
    missing: bool
    state: PluginState
    reason: str
    runtime_ids: _containers.RepeatedScalarFieldContainer[str]
    provides: _containers.RepeatedScalarFieldContainer[str]
    managed: str
    def __init__(self, name: _Optional[str] = ..., missing: _Optional[bool] = ..., state: _Optional[_Union[PluginState, str]] = ..., reason: _Optional[str] = ..., runtime_ids: _Optional[_Iterable[str]] = ..., provides: _Optional[_Iterable[str]] = ..., managed: _Optional[str] = ...) -> None: ...

class Edge(_message.Message):
    __slots__ = ("caller", "provider", "service_type", "required", "available", "calls", "reason", "direct")
    CALLER_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    SERVICE_TYPE_FIELD_NUMBER: _ClassVar[int]
    REQUIRED_FIELD_NUMBER: _ClassVar[int]
    AVAILABLE_FIELD_NUMBER: _ClassVar[int]
    CALLS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    DIRECT_FIELD_NUMBER: _ClassVar[int]
    caller: str
    provider: str
    service_type: str
    required: bool
    available: bool
    calls: CallStatistics
    reason: str
    direct: DirectCalls
    def __init__(self, caller: _Optional[str] = ..., provider: _Optional[str] = ..., service_type: _Optional[str] = ..., required: _Optional[bool] = ..., available: _Optional[bool] = ..., calls: _Optional[_Union[CallStatistics, _Mapping]] = ..., reason: _Optional[str] = ..., direct: _Optional[_Union[DirectCalls, _Mapping]] = ...) -> None: ...

class DirectCalls(_message.Message):
    __slots__ = ("calls", "failed", "in_flight")
    CALLS_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    calls: int
    failed: int
    in_flight: int
    def __init__(self, calls: _Optional[int] = ..., failed: _Optional[int] = ..., in_flight: _Optional[int] = ...) -> None: ...

class ListCallsRequest(_message.Message):
    __slots__ = ("filter",)
    FILTER_FIELD_NUMBER: _ClassVar[int]
    filter: str
    def __init__(self, filter: _Optional[str] = ...) -> None: ...

class ListCallsResponse(_message.Message):
    __slots__ = ("series", "in_flight", "failures", "slowest")
    SERIES_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    SLOWEST_FIELD_NUMBER: _ClassVar[int]
    series: _containers.RepeatedCompositeFieldContainer[CallSeries]
    in_flight: _containers.RepeatedCompositeFieldContainer[CallInFlight]
    failures: _containers.RepeatedCompositeFieldContainer[FailedCall]
    slowest: _containers.RepeatedCompositeFieldContainer[SlowCall]
    def __init__(self, series: _Optional[_Iterable[_Union[CallSeries, _Mapping]]] = ..., in_flight: _Optional[_Iterable[_Union[CallInFlight, _Mapping]]] = ..., failures: _Optional[_Iterable[_Union[FailedCall, _Mapping]]] = ..., slowest: _Optional[_Iterable[_Union[SlowCall, _Mapping]]] = ...) -> None: ...

class CallSeries(_message.Message):
    __slots__ = ("caller", "provider", "service_type", "method", "code", "calls")
    CALLER_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    SERVICE_TYPE_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    CALLS_FIELD_NUMBER: _ClassVar[int]
    caller: str
    provider: str
    service_type: str
    method: str
    code: str
    calls: CallStatistics
    def __init__(self, caller: _Optional[str] = ..., provider: _Optional[str] = ..., service_type: _Optional[str] = ..., method: _Optional[str] = ..., code: _Optional[str] = ..., calls: _Optional[_Union[CallStatistics, _Mapping]] = ...) -> None: ...

class CallInFlight(_message.Message):
    __slots__ = ("caller_id", "provider_id", "service_type", "method", "since", "stage", "request_bytes", "response_bytes", "request_id", "trace_id")
    CALLER_ID_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_ID_FIELD_NUMBER: _ClassVar[int]
    SERVICE_TYPE_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_BYTES_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_BYTES_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TRACE_ID_FIELD_NUMBER: _ClassVar[int]
    caller_id: str
    provider_id: str
    service_type: str
    method: str
    since: _timestamp_pb2.Timestamp
    stage: str
    request_bytes: int
    response_bytes: int
    request_id: str
    trace_id: str
    def __init__(self, caller_id: _Optional[str] = ..., provider_id: _Optional[str] = ..., service_type: _Optional[str] = ..., method: _Optional[str] = ..., since: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., stage: _Optional[str] = ..., request_bytes: _Optional[int] = ..., response_bytes: _Optional[int] = ..., request_id: _Optional[str] = ..., trace_id: _Optional[str] = ...) -> None: ...

class FailedCall(_message.Message):
    __slots__ = ("at", "caller_id", "provider_id", "service_type", "method", "code", "reason", "duration", "request_id", "trace_id", "refused")
    AT_FIELD_NUMBER: _ClassVar[int]
    CALLER_ID_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_ID_FIELD_NUMBER: _ClassVar[int]
    SERVICE_TYPE_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    DURATION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TRACE_ID_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    at: _timestamp_pb2.Timestamp
    caller_id: str
    provider_id: str
    service_type: str
    method: str
    code: str
    reason: str
    duration: _duration_pb2.Duration
    request_id: str
    trace_id: str
    refused: bool
    def __init__(self, at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., caller_id: _Optional[str] = ..., provider_id: _Optional[str] = ..., service_type: _Optional[str] = ..., method: _Optional[str] = ..., code: _Optional[str] = ..., reason: _Optional[str] = ..., duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., request_id: _Optional[str] = ..., trace_id: _Optional[str] = ..., refused: _Optional[bool] = ...) -> None: ...

class SlowCall(_message.Message):
    __slots__ = ("at", "caller_id", "provider_id", "service_type", "method", "code", "duration", "request_id", "trace_id")
    AT_FIELD_NUMBER: _ClassVar[int]
    CALLER_ID_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_ID_FIELD_NUMBER: _ClassVar[int]
    SERVICE_TYPE_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    DURATION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TRACE_ID_FIELD_NUMBER: _ClassVar[int]
    at: _timestamp_pb2.Timestamp
    caller_id: str
    provider_id: str
    service_type: str
    method: str
    code: str
    duration: _duration_pb2.Duration
    request_id: str
    trace_id: str
    def __init__(self, at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., caller_id: _Optional[str] = ..., provider_id: _Optional[str] = ..., service_type: _Optional[str] = ..., method: _Optional[str] = ..., code: _Optional[str] = ..., duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., request_id: _Optional[str] = ..., trace_id: _Optional[str] = ...) -> None: ...

class ListCapabilitiesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListCapabilitiesResponse(_message.Message):
    __slots__ = ("capabilities", "grants")
    CAPABILITIES_FIELD_NUMBER: _ClassVar[int]
    GRANTS_FIELD_NUMBER: _ClassVar[int]
    capabilities: _containers.RepeatedCompositeFieldContainer[CapabilityInfo]
    grants: _containers.RepeatedCompositeFieldContainer[Grant]
    def __init__(self, capabilities: _Optional[_Iterable[_Union[CapabilityInfo, _Mapping]]] = ..., grants: _Optional[_Iterable[_Union[Grant, _Mapping]]] = ...) -> None: ...

class CapabilityInfo(_message.Message):
    __slots__ = ("capability_type", "version")
    CAPABILITY_TYPE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    capability_type: str
    version: str
    def __init__(self, capability_type: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class Grant(_message.Message):
    __slots__ = ("grant_id", "runtime_id", "capability_type", "provider_id", "expires_at", "reason")
    GRANT_ID_FIELD_NUMBER: _ClassVar[int]
    RUNTIME_ID_FIELD_NUMBER: _ClassVar[int]
    CAPABILITY_TYPE_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_ID_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    grant_id: str
    runtime_id: str
    capability_type: str
    provider_id: str
    expires_at: _timestamp_pb2.Timestamp
    reason: str
    def __init__(self, grant_id: _Optional[str] = ..., runtime_id: _Optional[str] = ..., capability_type: _Optional[str] = ..., provider_id: _Optional[str] = ..., expires_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., reason: _Optional[str] = ...) -> None: ...

class GetConfigurationRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetConfigurationResponse(_message.Message):
    __slots__ = ("settings",)
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    settings: _containers.RepeatedCompositeFieldContainer[Setting]
    def __init__(self, settings: _Optional[_Iterable[_Union[Setting, _Mapping]]] = ...) -> None: ...

class Setting(_message.Message):
    __slots__ = ("name", "value", "source", "meaning")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    MEANING_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: str
    source: str
    meaning: str
    def __init__(self, name: _Optional[str] = ..., value: _Optional[str] = ..., source: _Optional[str] = ..., meaning: _Optional[str] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("sequence", "at", "kind", "runtime_id", "name", "service_type", "text", "address", "count", "managed")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    RUNTIME_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SERVICE_TYPE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    MANAGED_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    at: _timestamp_pb2.Timestamp
    kind: EventKind
    runtime_id: str
    name: str
    service_type: str
    text: str
    address: str
    count: int
    managed: str
    def __init__(self, sequence: _Optional[int] = ..., at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., kind: _Optional[_Union[EventKind, str]] = ..., runtime_id: _Optional[str] = ..., name: _Optional[str] = ..., service_type: _Optional[str] = ..., text: _Optional[str] = ..., address: _Optional[str] = ..., count: _Optional[int] = ..., managed: _Optional[str] = ...) -> None: ...

class WatchEventsRequest(_message.Message):
    __slots__ = ("follow", "after", "plugin", "kinds")
    FOLLOW_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    PLUGIN_FIELD_NUMBER: _ClassVar[int]
    KINDS_FIELD_NUMBER: _ClassVar[int]
    follow: bool
    after: int
    plugin: str
    kinds: _containers.RepeatedScalarFieldContainer[EventKind]
    def __init__(self, follow: _Optional[bool] = ..., after: _Optional[int] = ..., plugin: _Optional[str] = ..., kinds: _Optional[_Iterable[_Union[EventKind, str]]] = ...) -> None: ...

class WatchEventsResponse(_message.Message):
    __slots__ = ("events", "missed")
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    MISSED_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[Event]
    missed: int
    def __init__(self, events: _Optional[_Iterable[_Union[Event, _Mapping]]] = ..., missed: _Optional[int] = ...) -> None: ...

class DrainPluginRequest(_message.Message):
    __slots__ = ("plugin", "undo", "reason")
    PLUGIN_FIELD_NUMBER: _ClassVar[int]
    UNDO_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    plugin: str
    undo: bool
    reason: str
    def __init__(self, plugin: _Optional[str] = ..., undo: _Optional[bool] = ..., reason: _Optional[str] = ...) -> None: ...

class DrainPluginResponse(_message.Message):
    __slots__ = ("plugin", "calls_in_flight")
    PLUGIN_FIELD_NUMBER: _ClassVar[int]
    CALLS_IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    plugin: Plugin
    calls_in_flight: int
    def __init__(self, plugin: _Optional[_Union[Plugin, _Mapping]] = ..., calls_in_flight: _Optional[int] = ...) -> None: ...

class ShutDownPluginRequest(_message.Message):
    __slots__ = ("plugin", "grace", "reason")
    PLUGIN_FIELD_NUMBER: _ClassVar[int]
    GRACE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    plugin: str
    grace: _duration_pb2.Duration
    reason: str
    def __init__(self, plugin: _Optional[str] = ..., grace: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., reason: _Optional[str] = ...) -> None: ...

class ShutDownPluginResponse(_message.Message):
    __slots__ = ("runtime_id",)
    RUNTIME_ID_FIELD_NUMBER: _ClassVar[int]
    runtime_id: str
    def __init__(self, runtime_id: _Optional[str] = ...) -> None: ...

class RevokePluginRequest(_message.Message):
    __slots__ = ("plugin", "reason")
    PLUGIN_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    plugin: str
    reason: str
    def __init__(self, plugin: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class RevokePluginResponse(_message.Message):
    __slots__ = ("runtime_id",)
    RUNTIME_ID_FIELD_NUMBER: _ClassVar[int]
    runtime_id: str
    def __init__(self, runtime_id: _Optional[str] = ...) -> None: ...

class RevokeGrantRequest(_message.Message):
    __slots__ = ("grant_id", "reason")
    GRANT_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    grant_id: str
    reason: str
    def __init__(self, grant_id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class RevokeGrantResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ReloadRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ReloadResponse(_message.Message):
    __slots__ = ("files",)
    FILES_FIELD_NUMBER: _ClassVar[int]
    files: _containers.RepeatedCompositeFieldContainer[ReloadedFile]
    def __init__(self, files: _Optional[_Iterable[_Union[ReloadedFile, _Mapping]]] = ...) -> None: ...

class ReloadedFile(_message.Message):
    __slots__ = ("name", "path", "error")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    name: str
    path: str
    error: str
    def __init__(self, name: _Optional[str] = ..., path: _Optional[str] = ..., error: _Optional[str] = ...) -> None: ...

class SetLogLevelRequest(_message.Message):
    __slots__ = ("logger", "level", "duration")
    LOGGER_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    DURATION_FIELD_NUMBER: _ClassVar[int]
    logger: str
    level: str
    duration: _duration_pb2.Duration
    def __init__(self, logger: _Optional[str] = ..., level: _Optional[str] = ..., duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class SetLogLevelResponse(_message.Message):
    __slots__ = ("until",)
    UNTIL_FIELD_NUMBER: _ClassVar[int]
    until: _timestamp_pb2.Timestamp
    def __init__(self, until: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ListManagedPluginsRequest(_message.Message):
    __slots__ = ("plugin",)
    PLUGIN_FIELD_NUMBER: _ClassVar[int]
    plugin: str
    def __init__(self, plugin: _Optional[str] = ...) -> None: ...

class ListManagedPluginsResponse(_message.Message):
    __slots__ = ("plugins", "source")
    PLUGINS_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    plugins: _containers.RepeatedCompositeFieldContainer[ManagedPlugin]
    source: str
    def __init__(self, plugins: _Optional[_Iterable[_Union[ManagedPlugin, _Mapping]]] = ..., source: _Optional[str] = ...) -> None: ...

class GetImpactRequest(_message.Message):
    __slots__ = ("plugin",)
    PLUGIN_FIELD_NUMBER: _ClassVar[int]
    plugin: str
    def __init__(self, plugin: _Optional[str] = ...) -> None: ...

class GetImpactResponse(_message.Message):
    __slots__ = ("impact",)
    IMPACT_FIELD_NUMBER: _ClassVar[int]
    impact: Impact
    def __init__(self, impact: _Optional[_Union[Impact, _Mapping]] = ...) -> None: ...

class Impact(_message.Message):
    __slots__ = ("plugin", "runs", "left", "services", "losers", "order", "refused", "lines")
    PLUGIN_FIELD_NUMBER: _ClassVar[int]
    RUNS_FIELD_NUMBER: _ClassVar[int]
    LEFT_FIELD_NUMBER: _ClassVar[int]
    SERVICES_FIELD_NUMBER: _ClassVar[int]
    LOSERS_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    LINES_FIELD_NUMBER: _ClassVar[int]
    plugin: str
    runs: int
    left: int
    services: _containers.RepeatedCompositeFieldContainer[ServiceImpact]
    losers: _containers.RepeatedCompositeFieldContainer[PluginImpact]
    order: _containers.RepeatedScalarFieldContainer[str]
    refused: bool
    lines: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, plugin: _Optional[str] = ..., runs: _Optional[int] = ..., left: _Optional[int] = ..., services: _Optional[_Iterable[_Union[ServiceImpact, _Mapping]]] = ..., losers: _Optional[_Iterable[_Union[PluginImpact, _Mapping]]] = ..., order: _Optional[_Iterable[str]] = ..., refused: _Optional[bool] = ..., lines: _Optional[_Iterable[str]] = ...) -> None: ...

class ServiceImpact(_message.Message):
    __slots__ = ("service_type", "others")
    class OthersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    SERVICE_TYPE_FIELD_NUMBER: _ClassVar[int]
    OTHERS_FIELD_NUMBER: _ClassVar[int]
    service_type: str
    others: _containers.ScalarMap[str, int]
    def __init__(self, service_type: _Optional[str] = ..., others: _Optional[_Mapping[str, int]] = ...) -> None: ...

class PluginImpact(_message.Message):
    __slots__ = ("plugin", "requires", "uses", "later", "step")
    PLUGIN_FIELD_NUMBER: _ClassVar[int]
    REQUIRES_FIELD_NUMBER: _ClassVar[int]
    USES_FIELD_NUMBER: _ClassVar[int]
    LATER_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    plugin: str
    requires: _containers.RepeatedScalarFieldContainer[str]
    uses: _containers.RepeatedScalarFieldContainer[str]
    later: _containers.RepeatedScalarFieldContainer[str]
    step: int
    def __init__(self, plugin: _Optional[str] = ..., requires: _Optional[_Iterable[str]] = ..., uses: _Optional[_Iterable[str]] = ..., later: _Optional[_Iterable[str]] = ..., step: _Optional[int] = ...) -> None: ...

class GetPlanRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetPlanResponse(_message.Message):
    __slots__ = ("plan_id", "changes", "unchanged", "source")
    PLAN_ID_FIELD_NUMBER: _ClassVar[int]
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    UNCHANGED_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    plan_id: str
    changes: _containers.RepeatedCompositeFieldContainer[PlannedChange]
    unchanged: _containers.RepeatedScalarFieldContainer[str]
    source: str
    def __init__(self, plan_id: _Optional[str] = ..., changes: _Optional[_Iterable[_Union[PlannedChange, _Mapping]]] = ..., unchanged: _Optional[_Iterable[str]] = ..., source: _Optional[str] = ...) -> None: ...

class PlannedChange(_message.Message):
    __slots__ = ("kind", "plugin", "differences", "replicas_before", "replicas_after", "source")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        KIND_UNSPECIFIED: _ClassVar[PlannedChange.Kind]
        KIND_ADD: _ClassVar[PlannedChange.Kind]
        KIND_REMOVE: _ClassVar[PlannedChange.Kind]
        KIND_REPLACE: _ClassVar[PlannedChange.Kind]
        KIND_SCALE: _ClassVar[PlannedChange.Kind]
        KIND_ADJUST: _ClassVar[PlannedChange.Kind]
    KIND_UNSPECIFIED: PlannedChange.Kind
    KIND_ADD: PlannedChange.Kind
    KIND_REMOVE: PlannedChange.Kind
    KIND_REPLACE: PlannedChange.Kind
    KIND_SCALE: PlannedChange.Kind
    KIND_ADJUST: PlannedChange.Kind
    KIND_FIELD_NUMBER: _ClassVar[int]
    PLUGIN_FIELD_NUMBER: _ClassVar[int]
    DIFFERENCES_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_BEFORE_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_AFTER_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    kind: PlannedChange.Kind
    plugin: str
    differences: _containers.RepeatedScalarFieldContainer[str]
    replicas_before: int
    replicas_after: int
    source: str
    def __init__(self, kind: _Optional[_Union[PlannedChange.Kind, str]] = ..., plugin: _Optional[str] = ..., differences: _Optional[_Iterable[str]] = ..., replicas_before: _Optional[int] = ..., replicas_after: _Optional[int] = ..., source: _Optional[str] = ...) -> None: ...

class ApplyPlanRequest(_message.Message):
    __slots__ = ("plan_id", "reason")
    PLAN_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    plan_id: str
    reason: str
    def __init__(self, plan_id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class ApplyPlanResponse(_message.Message):
    __slots__ = ("changes",)
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    changes: _containers.RepeatedCompositeFieldContainer[PlannedChange]
    def __init__(self, changes: _Optional[_Iterable[_Union[PlannedChange, _Mapping]]] = ...) -> None: ...

class AddPluginRequest(_message.Message):
    __slots__ = ("plugin", "reason")
    PLUGIN_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    plugin: str
    reason: str
    def __init__(self, plugin: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class AddPluginResponse(_message.Message):
    __slots__ = ("plugin",)
    PLUGIN_FIELD_NUMBER: _ClassVar[int]
    plugin: ManagedPlugin
    def __init__(self, plugin: _Optional[_Union[ManagedPlugin, _Mapping]] = ...) -> None: ...

class RemovePluginRequest(_message.Message):
    __slots__ = ("plugin", "force", "reason")
    PLUGIN_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    plugin: str
    force: bool
    reason: str
    def __init__(self, plugin: _Optional[str] = ..., force: _Optional[bool] = ..., reason: _Optional[str] = ...) -> None: ...

class RemovePluginResponse(_message.Message):
    __slots__ = ("impact",)
    IMPACT_FIELD_NUMBER: _ClassVar[int]
    impact: Impact
    def __init__(self, impact: _Optional[_Union[Impact, _Mapping]] = ...) -> None: ...

class ReplacePluginRequest(_message.Message):
    __slots__ = ("plugin", "reason")
    PLUGIN_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    plugin: str
    reason: str
    def __init__(self, plugin: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class ReplacePluginResponse(_message.Message):
    __slots__ = ("plugin",)
    PLUGIN_FIELD_NUMBER: _ClassVar[int]
    plugin: ManagedPlugin
    def __init__(self, plugin: _Optional[_Union[ManagedPlugin, _Mapping]] = ...) -> None: ...

class RestartPluginRequest(_message.Message):
    __slots__ = ("plugin", "reason")
    PLUGIN_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    plugin: str
    reason: str
    def __init__(self, plugin: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class RestartPluginResponse(_message.Message):
    __slots__ = ("plugin",)
    PLUGIN_FIELD_NUMBER: _ClassVar[int]
    plugin: ManagedPlugin
    def __init__(self, plugin: _Optional[_Union[ManagedPlugin, _Mapping]] = ...) -> None: ...

class ScalePluginRequest(_message.Message):
    __slots__ = ("plugin", "replicas", "reason")
    PLUGIN_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    plugin: str
    replicas: int
    reason: str
    def __init__(self, plugin: _Optional[str] = ..., replicas: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class ScalePluginResponse(_message.Message):
    __slots__ = ("plugin",)
    PLUGIN_FIELD_NUMBER: _ClassVar[int]
    plugin: ManagedPlugin
    def __init__(self, plugin: _Optional[_Union[ManagedPlugin, _Mapping]] = ...) -> None: ...

class WatchLogsRequest(_message.Message):
    __slots__ = ("plugin", "replica", "lines", "follow", "after")
    PLUGIN_FIELD_NUMBER: _ClassVar[int]
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    LINES_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    plugin: str
    replica: int
    lines: int
    follow: bool
    after: int
    def __init__(self, plugin: _Optional[str] = ..., replica: _Optional[int] = ..., lines: _Optional[int] = ..., follow: _Optional[bool] = ..., after: _Optional[int] = ...) -> None: ...

class WatchLogsResponse(_message.Message):
    __slots__ = ("lines", "missed")
    LINES_FIELD_NUMBER: _ClassVar[int]
    MISSED_FIELD_NUMBER: _ClassVar[int]
    lines: _containers.RepeatedCompositeFieldContainer[LogLine]
    missed: int
    def __init__(self, lines: _Optional[_Iterable[_Union[LogLine, _Mapping]]] = ..., missed: _Optional[int] = ...) -> None: ...

class LogLine(_message.Message):
    __slots__ = ("sequence", "at", "plugin", "replica", "text")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    PLUGIN_FIELD_NUMBER: _ClassVar[int]
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    at: _timestamp_pb2.Timestamp
    plugin: str
    replica: int
    text: str
    def __init__(self, sequence: _Optional[int] = ..., at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., plugin: _Optional[str] = ..., replica: _Optional[int] = ..., text: _Optional[str] = ...) -> None: ...
