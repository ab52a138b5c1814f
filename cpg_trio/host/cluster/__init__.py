"""Several hosts with one directory."""

from cpg_trio.host.cluster.meta import (
    META as META,
    Joined as Joined,
    check_fit as check_fit,
    check_given as check_given,
    join as join,
)
from cpg_trio.host.cluster.owners import Member as Member, Owners as Owners
