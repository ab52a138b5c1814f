"""Several hosts with one directory."""

from cpg_trio.host.cluster.barrier import Barrier as Barrier, BehindError as BehindError
from cpg_trio.host.cluster.cluster import Cluster as Cluster, Local as Local, peer_url as peer_url
from cpg_trio.host.cluster.forwarding import Arrival as Arrival, Forwarding as Forwarding
from cpg_trio.host.cluster.host_calls import HostCalls as HostCalls
from cpg_trio.host.cluster.meta import (
    META as META,
    Joined as Joined,
    check_fit as check_fit,
    check_given as check_given,
    join as join,
)
from cpg_trio.host.cluster.others import ALONE as ALONE, Others as Others, others_of as others_of
from cpg_trio.host.cluster.owners import HOSTS as HOSTS, Member as Member, Owners as Owners
from cpg_trio.host.cluster.standing import (
    Stand as Stand,
    Standing as Standing,
    membership as membership,
)
from cpg_trio.host.cluster.suspicions import Suspicions as Suspicions
