"""For those who test plugins, and for those who write parts of their own.

open_host       a host in memory, without sockets, for a plugin under test
check_plugin    puts a plugin through its paces
check_launcher  puts a launcher through its paces
check_store     puts a store through its paces
"""

from cpg_trio.testing._memory_host import (
    MemoryHost as MemoryHost,
    StartedPlugin as StartedPlugin,
    open_host as open_host,
)
from cpg_trio.testing.launchers import check_launcher as check_launcher
from cpg_trio.testing.plugins import check_plugin as check_plugin
from cpg_trio.testing.stores import check_store as check_store
