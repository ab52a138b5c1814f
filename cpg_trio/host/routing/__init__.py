"""Calls from one plugin to another: headers, routes, and what is counted of them."""

from cpg_trio.host.routing.call_log import CallLog as CallLog
from cpg_trio.host.routing.direct_grants import (
    GRANT_S as GRANT_S,
    DirectGrants as DirectGrants,
    NotDirectlyError as NotDirectlyError,
)
from cpg_trio.host.routing.direct_statistics import (
    DirectCounter as DirectCounter,
    DirectReports as DirectReports,
    DirectStatistics as DirectStatistics,
)
from cpg_trio.host.routing.headers import (
    RequestHeaderRules as RequestHeaderRules,
    forwarded_in_request as forwarded_in_request,
    forwarded_in_response as forwarded_in_response,
)
from cpg_trio.host.routing.own_calls import OwnCalls as OwnCalls
from cpg_trio.host.routing.router import Router as Router
from cpg_trio.host.routing.router_app import RouterApp as RouterApp
from cpg_trio.host.routing.routes import Routes as Routes
from cpg_trio.host.routing.statistics import (
    RouterStatistics as RouterStatistics,
    SharedRoom as SharedRoom,
    router_statistics as router_statistics,
)
