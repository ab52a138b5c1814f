"""Which plugins there are: registrations, leases, the store behind them, and watches."""

from cpg_trio.host.directory.address_proof import AddressProof as AddressProof
from cpg_trio.host.directory.base_url import base_url as base_url, knowing_base_url as knowing_base_url
from cpg_trio.host.directory.calls_in_flight import CallsInFlight as CallsInFlight, InFlight as InFlight
from cpg_trio.host.directory.endpoint_validation import (
    BaseUrls as BaseUrls,
    EndpointValidator as EndpointValidator,
    resolve as resolve,
)
from cpg_trio.host.directory.journal import Journal as Journal
from cpg_trio.host.directory.leases import (
    LEFT as LEFT,
    SILENT as SILENT,
    CannotAskError as CannotAskError,
    LeaseConfig as LeaseConfig,
    LeaseTimes as LeaseTimes,
    Liveness as Liveness,
)
from cpg_trio.host.directory.local_plugins import (
    LocalPlugin as LocalPlugin,
    LocalPlugins as LocalPlugins,
    is_local as is_local,
)
from cpg_trio.host.directory.plugin_control import (
    MAX_ANSWER_BYTES as MAX_ANSWER_BYTES,
    ControlClients as ControlClients,
    Proof as Proof,
    SignedClient as SignedClient,
    client_at as client_at,
)
from cpg_trio.host.directory.probe import Prober as Prober
from cpg_trio.host.directory.registration import (
    Change as Change,
    ChangeKind as ChangeKind,
    Health as Health,
    NoProviderError as NoProviderError,
    Registration as Registration,
    ServiceStatus as ServiceStatus,
    UnknownRegistrationError as UnknownRegistrationError,
    health_of as health_of,
)
from cpg_trio.host.directory.registration_policy import RegistrationPolicy as RegistrationPolicy
from cpg_trio.host.directory.registry import Registry as Registry
from cpg_trio.host.directory.saving import Saved as Saved, Undo as Undo
from cpg_trio.host.directory.selection import Selection as Selection
from cpg_trio.host.directory.succession import Succession as Succession
from cpg_trio.host.directory.unix_sockets import Sockets as Sockets
from cpg_trio.host.directory.watch import Delivery as Delivery, Update as Update, Watch as Watch
from cpg_trio.host.directory.watch_hub import WatchHub as WatchHub
from cpg_trio.host.directory.watched_service import (
    Follower as Follower,
    ProviderNews as ProviderNews,
    ProviderView as ProviderView,
)
