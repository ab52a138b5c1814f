from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class HealthState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    HEALTH_STATE_UNSPECIFIED: _ClassVar[HealthState]
    HEALTH_STATE_HEALTHY: _ClassVar[HealthState]
    HEALTH_STATE_DEGRADED: _ClassVar[HealthState]
    HEALTH_STATE_UNHEALTHY: _ClassVar[HealthState]

class ServiceState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SERVICE_STATE_UNSPECIFIED: _ClassVar[ServiceState]
    SERVICE_STATE_AVAILABLE: _ClassVar[ServiceState]
    SERVICE_STATE_UNAVAILABLE: _ClassVar[ServiceState]
    SERVICE_STATE_DEGRADED: _ClassVar[ServiceState]
HEALTH_STATE_UNSPECIFIED: HealthState
HEALTH_STATE_HEALTHY: HealthState
HEALTH_STATE_DEGRADED: HealthState
HEALTH_STATE_UNHEALTHY: HealthState
SERVICE_STATE_UNSPECIFIED: ServiceState
SERVICE_STATE_AVAILABLE: ServiceState
SERVICE_STATE_UNAVAILABLE: ServiceState
SERVICE_STATE_DEGRADED: ServiceState

class HandshakeRequest(_message.Message):
    __slots__ = ("core_protocol_version", "app_protocol_version", "magic_cookie_key", "magic_cookie_value", "requested_plugins", "client_metadata", "self_id", "self_version")
    class ClientMetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    CORE_PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    APP_PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    MAGIC_COOKIE_KEY_FIELD_NUMBER: _ClassVar[int]
    MAGIC_COOKIE_VALUE_FIELD_NUMBER: _ClassVar[int]
    REQUESTED_PLUGINS_FIELD_NUMBER: _ClassVar[int]
    CLIENT_METADATA_FIELD_NUMBER: _ClassVar[int]
    SELF_ID_FIELD_NUMBER: _ClassVar[int]
    SELF_VERSION_FIELD_NUMBER: _ClassVar[int]
    core_protocol_version: int
    app_protocol_version: int
    magic_cookie_key: str
    magic_cookie_value: str
    requested_plugins: _containers.RepeatedScalarFieldContainer[str]
    client_metadata: _containers.ScalarMap[str, str]
    self_id: str
    self_version: str
    def __init__(self, core_protocol_version: _Optional[int] = ..., app_protocol_version: _Optional[int] = ..., magic_cookie_key: _Optional[str] = ..., magic_cookie_value: _Optional[str] = ..., requested_plugins: _Optional[_Iterable[str]] = ..., client_metadata: _Optional[_Mapping[str, str]] = ..., self_id: _Optional[str] = ..., self_version: _Optional[str] = ...) -> None: ...

class HandshakeResponse(_message.Message):
    __slots__ = ("core_protocol_version", "app_protocol_version", "plugins", "server_metadata", "host_capabilities", "runtime_id", "runtime_token")
    class ServerMetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    CORE_PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    APP_PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    PLUGINS_FIELD_NUMBER: _ClassVar[int]
    SERVER_METADATA_FIELD_NUMBER: _ClassVar[int]
    HOST_CAPABILITIES_FIELD_NUMBER: _ClassVar[int]
    RUNTIME_ID_FIELD_NUMBER: _ClassVar[int]
    RUNTIME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    core_protocol_version: int
    app_protocol_version: int
    plugins: _containers.RepeatedCompositeFieldContainer[PluginInfo]
    server_metadata: _containers.ScalarMap[str, str]
    host_capabilities: _containers.RepeatedCompositeFieldContainer[Capability]
    runtime_id: str
    runtime_token: str
    def __init__(self, core_protocol_version: _Optional[int] = ..., app_protocol_version: _Optional[int] = ..., plugins: _Optional[_Iterable[_Union[PluginInfo, _Mapping]]] = ..., server_metadata: _Optional[_Mapping[str, str]] = ..., host_capabilities: _Optional[_Iterable[_Union[Capability, _Mapping]]] = ..., runtime_id: _Optional[str] = ..., runtime_token: _Optional[str] = ...) -> None: ...

class PluginInfo(_message.Message):
    __slots__ = ("name", "version", "service_path", "provides", "requires")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SERVICE_PATH_FIELD_NUMBER: _ClassVar[int]
    PROVIDES_FIELD_NUMBER: _ClassVar[int]
    REQUIRES_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    service_path: str
    provides: _containers.RepeatedCompositeFieldContainer[ServiceDeclaration]
    requires: _containers.RepeatedCompositeFieldContainer[ServiceDependency]
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., service_path: _Optional[str] = ..., provides: _Optional[_Iterable[_Union[ServiceDeclaration, _Mapping]]] = ..., requires: _Optional[_Iterable[_Union[ServiceDependency, _Mapping]]] = ...) -> None: ...

class Capability(_message.Message):
    __slots__ = ("type", "version", "endpoint")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    type: str
    version: str
    endpoint: str
    def __init__(self, type: _Optional[str] = ..., version: _Optional[str] = ..., endpoint: _Optional[str] = ...) -> None: ...

class ServiceDeclaration(_message.Message):
    __slots__ = ("type", "version", "path")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    type: str
    version: str
    path: str
    def __init__(self, type: _Optional[str] = ..., version: _Optional[str] = ..., path: _Optional[str] = ...) -> None: ...

class ServiceDependency(_message.Message):
    __slots__ = ("type", "min_version", "required_for_startup", "watch_for_changes")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    MIN_VERSION_FIELD_NUMBER: _ClassVar[int]
    REQUIRED_FOR_STARTUP_FIELD_NUMBER: _ClassVar[int]
    WATCH_FOR_CHANGES_FIELD_NUMBER: _ClassVar[int]
    type: str
    min_version: str
    required_for_startup: bool
    watch_for_changes: bool
    def __init__(self, type: _Optional[str] = ..., min_version: _Optional[str] = ..., required_for_startup: _Optional[bool] = ..., watch_for_changes: _Optional[bool] = ...) -> None: ...

class ServiceEndpoint(_message.Message):
    __slots__ = ("provider_id", "version", "endpoint_url", "metadata")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    PROVIDER_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_URL_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    provider_id: str
    version: str
    endpoint_url: str
    metadata: _containers.ScalarMap[str, str]
    def __init__(self, provider_id: _Optional[str] = ..., version: _Optional[str] = ..., endpoint_url: _Optional[str] = ..., metadata: _Optional[_Mapping[str, str]] = ...) -> None: ...

class GetPluginInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetPluginInfoResponse(_message.Message):
    __slots__ = ("self_id", "self_version", "provides", "requires", "metadata")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    SELF_ID_FIELD_NUMBER: _ClassVar[int]
    SELF_VERSION_FIELD_NUMBER: _ClassVar[int]
    PROVIDES_FIELD_NUMBER: _ClassVar[int]
    REQUIRES_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    self_id: str
    self_version: str
    provides: _containers.RepeatedCompositeFieldContainer[ServiceDeclaration]
    requires: _containers.RepeatedCompositeFieldContainer[ServiceDependency]
    metadata: _containers.ScalarMap[str, str]
    def __init__(self, self_id: _Optional[str] = ..., self_version: _Optional[str] = ..., provides: _Optional[_Iterable[_Union[ServiceDeclaration, _Mapping]]] = ..., requires: _Optional[_Iterable[_Union[ServiceDependency, _Mapping]]] = ..., metadata: _Optional[_Mapping[str, str]] = ...) -> None: ...

class SetRuntimeIdentityRequest(_message.Message):
    __slots__ = ("runtime_id", "runtime_token", "host_url")
    RUNTIME_ID_FIELD_NUMBER: _ClassVar[int]
    RUNTIME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    HOST_URL_FIELD_NUMBER: _ClassVar[int]
    runtime_id: str
    runtime_token: str
    host_url: str
    def __init__(self, runtime_id: _Optional[str] = ..., runtime_token: _Optional[str] = ..., host_url: _Optional[str] = ...) -> None: ...

class SetRuntimeIdentityResponse(_message.Message):
    __slots__ = ("acknowledged",)
    ACKNOWLEDGED_FIELD_NUMBER: _ClassVar[int]
    acknowledged: bool
    def __init__(self, acknowledged: _Optional[bool] = ...) -> None: ...

class ReportHealthRequest(_message.Message):
    __slots__ = ("state", "reason", "unavailable_dependencies", "direct_calls", "leaving")
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    UNAVAILABLE_DEPENDENCIES_FIELD_NUMBER: _ClassVar[int]
    DIRECT_CALLS_FIELD_NUMBER: _ClassVar[int]
    LEAVING_FIELD_NUMBER: _ClassVar[int]
    state: HealthState
    reason: str
    unavailable_dependencies: _containers.RepeatedScalarFieldContainer[str]
    direct_calls: _containers.RepeatedCompositeFieldContainer[DirectCalls]
    leaving: bool
    def __init__(self, state: _Optional[_Union[HealthState, str]] = ..., reason: _Optional[str] = ..., unavailable_dependencies: _Optional[_Iterable[str]] = ..., direct_calls: _Optional[_Iterable[_Union[DirectCalls, _Mapping]]] = ..., leaving: _Optional[bool] = ...) -> None: ...

class DirectCalls(_message.Message):
    __slots__ = ("service_type", "provider_id", "series", "calls", "failed", "in_flight")
    SERVICE_TYPE_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_ID_FIELD_NUMBER: _ClassVar[int]
    SERIES_FIELD_NUMBER: _ClassVar[int]
    CALLS_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    service_type: str
    provider_id: str
    series: int
    calls: int
    failed: int
    in_flight: int
    def __init__(self, service_type: _Optional[str] = ..., provider_id: _Optional[str] = ..., series: _Optional[int] = ..., calls: _Optional[int] = ..., failed: _Optional[int] = ..., in_flight: _Optional[int] = ...) -> None: ...

class ReportHealthResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetHealthRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetHealthResponse(_message.Message):
    __slots__ = ("state", "reason", "unavailable_dependencies")
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    UNAVAILABLE_DEPENDENCIES_FIELD_NUMBER: _ClassVar[int]
    state: HealthState
    reason: str
    unavailable_dependencies: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, state: _Optional[_Union[HealthState, str]] = ..., reason: _Optional[str] = ..., unavailable_dependencies: _Optional[_Iterable[str]] = ...) -> None: ...

class ShutdownRequest(_message.Message):
    __slots__ = ("grace_period_seconds", "reason")
    GRACE_PERIOD_SECONDS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    grace_period_seconds: int
    reason: str
    def __init__(self, grace_period_seconds: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class ShutdownResponse(_message.Message):
    __slots__ = ("acknowledged",)
    ACKNOWLEDGED_FIELD_NUMBER: _ClassVar[int]
    acknowledged: bool
    def __init__(self, acknowledged: _Optional[bool] = ...) -> None: ...

class RegisterServiceRequest(_message.Message):
    __slots__ = ("service_type", "version", "endpoint_path", "metadata")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    SERVICE_TYPE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_PATH_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    service_type: str
    version: str
    endpoint_path: str
    metadata: _containers.ScalarMap[str, str]
    def __init__(self, service_type: _Optional[str] = ..., version: _Optional[str] = ..., endpoint_path: _Optional[str] = ..., metadata: _Optional[_Mapping[str, str]] = ...) -> None: ...

class RegisterServiceResponse(_message.Message):
    __slots__ = ("registration_id",)
    REGISTRATION_ID_FIELD_NUMBER: _ClassVar[int]
    registration_id: str
    def __init__(self, registration_id: _Optional[str] = ...) -> None: ...

class UnregisterServiceRequest(_message.Message):
    __slots__ = ("registration_id",)
    REGISTRATION_ID_FIELD_NUMBER: _ClassVar[int]
    registration_id: str
    def __init__(self, registration_id: _Optional[str] = ...) -> None: ...

class UnregisterServiceResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DiscoverServiceRequest(_message.Message):
    __slots__ = ("service_type", "min_version", "version_range")
    SERVICE_TYPE_FIELD_NUMBER: _ClassVar[int]
    MIN_VERSION_FIELD_NUMBER: _ClassVar[int]
    VERSION_RANGE_FIELD_NUMBER: _ClassVar[int]
    service_type: str
    min_version: str
    version_range: str
    def __init__(self, service_type: _Optional[str] = ..., min_version: _Optional[str] = ..., version_range: _Optional[str] = ...) -> None: ...

class DiscoverServiceResponse(_message.Message):
    __slots__ = ("endpoint", "single_provider")
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    SINGLE_PROVIDER_FIELD_NUMBER: _ClassVar[int]
    endpoint: ServiceEndpoint
    single_provider: bool
    def __init__(self, endpoint: _Optional[_Union[ServiceEndpoint, _Mapping]] = ..., single_provider: _Optional[bool] = ...) -> None: ...

class WatchServiceRequest(_message.Message):
    __slots__ = ("service_type",)
    SERVICE_TYPE_FIELD_NUMBER: _ClassVar[int]
    service_type: str
    def __init__(self, service_type: _Optional[str] = ...) -> None: ...

class WatchServiceEvent(_message.Message):
    __slots__ = ("service_type", "state", "endpoint", "reason")
    SERVICE_TYPE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    service_type: str
    state: ServiceState
    endpoint: ServiceEndpoint
    reason: str
    def __init__(self, service_type: _Optional[str] = ..., state: _Optional[_Union[ServiceState, str]] = ..., endpoint: _Optional[_Union[ServiceEndpoint, _Mapping]] = ..., reason: _Optional[str] = ...) -> None: ...

class RequestCapabilityRequest(_message.Message):
    __slots__ = ("capability_type", "min_version", "reason", "provider_id")
    CAPABILITY_TYPE_FIELD_NUMBER: _ClassVar[int]
    MIN_VERSION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_ID_FIELD_NUMBER: _ClassVar[int]
    capability_type: str
    min_version: str
    reason: str
    provider_id: str
    def __init__(self, capability_type: _Optional[str] = ..., min_version: _Optional[str] = ..., reason: _Optional[str] = ..., provider_id: _Optional[str] = ...) -> None: ...

class RequestCapabilityResponse(_message.Message):
    __slots__ = ("grant",)
    GRANT_FIELD_NUMBER: _ClassVar[int]
    grant: CapabilityGrant
    def __init__(self, grant: _Optional[_Union[CapabilityGrant, _Mapping]] = ...) -> None: ...

class CapabilityGrant(_message.Message):
    __slots__ = ("grant_id", "endpoint_url", "bearer_token", "capability_type", "version", "expires_in_ms", "provider_id")
    GRANT_ID_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_URL_FIELD_NUMBER: _ClassVar[int]
    BEARER_TOKEN_FIELD_NUMBER: _ClassVar[int]
    CAPABILITY_TYPE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_IN_MS_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_ID_FIELD_NUMBER: _ClassVar[int]
    grant_id: str
    endpoint_url: str
    bearer_token: str
    capability_type: str
    version: str
    expires_in_ms: int
    provider_id: str
    def __init__(self, grant_id: _Optional[str] = ..., endpoint_url: _Optional[str] = ..., bearer_token: _Optional[str] = ..., capability_type: _Optional[str] = ..., version: _Optional[str] = ..., expires_in_ms: _Optional[int] = ..., provider_id: _Optional[str] = ...) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ("subscribe", "unsubscribe", "seen_revision")
    SUBSCRIBE_FIELD_NUMBER: _ClassVar[int]
    UNSUBSCRIBE_FIELD_NUMBER: _ClassVar[int]
    SEEN_REVISION_FIELD_NUMBER: _ClassVar[int]
    subscribe: _containers.RepeatedCompositeFieldContainer[WatchSubscription]
    unsubscribe: _containers.RepeatedScalarFieldContainer[str]
    seen_revision: int
    def __init__(self, subscribe: _Optional[_Iterable[_Union[WatchSubscription, _Mapping]]] = ..., unsubscribe: _Optional[_Iterable[str]] = ..., seen_revision: _Optional[int] = ...) -> None: ...

class WatchSubscription(_message.Message):
    __slots__ = ("service_type", "min_version", "version_range", "max_providers")
    SERVICE_TYPE_FIELD_NUMBER: _ClassVar[int]
    MIN_VERSION_FIELD_NUMBER: _ClassVar[int]
    VERSION_RANGE_FIELD_NUMBER: _ClassVar[int]
    MAX_PROVIDERS_FIELD_NUMBER: _ClassVar[int]
    service_type: str
    min_version: str
    version_range: str
    max_providers: int
    def __init__(self, service_type: _Optional[str] = ..., min_version: _Optional[str] = ..., version_range: _Optional[str] = ..., max_providers: _Optional[int] = ...) -> None: ...

class WatchUpdate(_message.Message):
    __slots__ = ("revision", "events", "refusals", "gone", "providers")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    REFUSALS_FIELD_NUMBER: _ClassVar[int]
    GONE_FIELD_NUMBER: _ClassVar[int]
    PROVIDERS_FIELD_NUMBER: _ClassVar[int]
    revision: int
    events: _containers.RepeatedCompositeFieldContainer[WatchServiceEvent]
    refusals: _containers.RepeatedCompositeFieldContainer[WatchRefusal]
    gone: _containers.RepeatedScalarFieldContainer[str]
    providers: _containers.RepeatedCompositeFieldContainer[ProviderChanges]
    def __init__(self, revision: _Optional[int] = ..., events: _Optional[_Iterable[_Union[WatchServiceEvent, _Mapping]]] = ..., refusals: _Optional[_Iterable[_Union[WatchRefusal, _Mapping]]] = ..., gone: _Optional[_Iterable[str]] = ..., providers: _Optional[_Iterable[_Union[ProviderChanges, _Mapping]]] = ...) -> None: ...

class ProviderChanges(_message.Message):
    __slots__ = ("service_type", "complete", "changed", "removed", "reason")
    SERVICE_TYPE_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    service_type: str
    complete: bool
    changed: _containers.RepeatedCompositeFieldContainer[ProviderStatus]
    removed: _containers.RepeatedScalarFieldContainer[str]
    reason: str
    def __init__(self, service_type: _Optional[str] = ..., complete: _Optional[bool] = ..., changed: _Optional[_Iterable[_Union[ProviderStatus, _Mapping]]] = ..., removed: _Optional[_Iterable[str]] = ..., reason: _Optional[str] = ...) -> None: ...

class ProviderStatus(_message.Message):
    __slots__ = ("endpoint", "degraded")
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    DEGRADED_FIELD_NUMBER: _ClassVar[int]
    endpoint: ServiceEndpoint
    degraded: bool
    def __init__(self, endpoint: _Optional[_Union[ServiceEndpoint, _Mapping]] = ..., degraded: _Optional[bool] = ...) -> None: ...

class WatchRefusal(_message.Message):
    __slots__ = ("service_type", "message")
    SERVICE_TYPE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    service_type: str
    message: str
    def __init__(self, service_type: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...
