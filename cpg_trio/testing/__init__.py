"""For those who test plugins, and for those who write parts of their own.

open_host       a host in memory, without sockets, for a plugin under test
check_plugin    puts a plugin through its paces
check_launcher  puts a launcher through its paces
check_store     puts a store through its paces
"""

from cpg_trio.testing._memory_host import MemoryHost, StartedPlugin, open_host
from cpg_trio.testing.launchers import check_launcher
from cpg_trio.testing.plugins import check_plugin
from cpg_trio.testing.stores import check_store

__all__ = ["MemoryHost", "StartedPlugin", "check_launcher", "check_plugin", "check_store", "open_host"]
