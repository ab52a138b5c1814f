"""For those who write parts of their own: checks that put an implementation through its paces."""

from cpg_trio.testing.launchers import check_launcher as check_launcher
from cpg_trio.testing.stores import check_store as check_store
