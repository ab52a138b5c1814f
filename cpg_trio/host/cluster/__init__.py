"""Several hosts with one directory."""

from cpg_trio.host.cluster.owners import Member as Member, Owners as Owners
