"""A store in etcd, for hosts that share a directory.

_url         what the URL says: endpoints, prefix, user, TLS
_gateway     etcd's JSON gateway: endpoints and failover, tokens of users, errors
_operations  reads, writes and comparisons, as the gateway takes them
_keyspace    the keys of one directory, and whether it is still the one that was opened
_watch       changes from a revision
_lease       an entry that is there for as long as it is renewed
_store       `EtcdStore`, made of these
"""

from cpg_trio.store.etcd._store import EtcdStore as EtcdStore
from cpg_trio.store.etcd._url import EtcdUrl as EtcdUrl
