"""What an operator sees of a host, and does with it. Never served where plugins call.

Its modules:

    plugins, events          states and their histories, and what has happened
    fair_table, kept         in what that is kept, and how much of it
    figures, recent          calls, as the one table counts them, and refusals of the last minute
    managed                  the plugins that the host runs, with managed_messages and managed_actions
    dependencies, problems   what is missing, and what is wrong, in sentences
    late_loop                an event loop that runs late
    host_state, files        the host itself, its process, and its files
    hosts                    the hosts that share a directory, and the store that it is kept in
    snapshot                 what one answer is made of
    view                     the answers to all requests that only read
    messages                 what stands in them, with plugin_messages
    actions, actor, reasons  what an operator does, who that is, and why
    service, dashboard       the admin service over these, and the pages
    admin                    all of it, wired
    tokens, sessions         secrets that let somebody in: of operators, and of their browsers
    browsers, login          which requests of web pages are taken, and the page that lets a browser in
    listener                 where it is served, and to whom
    gate, loopback           a port for browsers in an operator's own program, and whose browsers those are

Nothing here is on the way of a call.
"""

from cpg_trio.host.admin.actions import Actions as Actions
from cpg_trio.host.admin.actor import acting_as as acting_as, current_actor as current_actor
from cpg_trio.host.admin.admin import Admin as Admin
from cpg_trio.host.admin.events import Event as Event, EventLog as EventLog
from cpg_trio.host.admin.files import Files as Files
from cpg_trio.host.admin.gate import AdminAddress as AdminAddress, Gate as Gate, open_gate as open_gate
from cpg_trio.host.admin.hosts import Hosts as Hosts
from cpg_trio.host.admin.listener import (
    AdminAccess as AdminAccess,
    AdminConfig as AdminConfig,
    serve_admin as serve_admin,
)
from cpg_trio.host.admin.managed import ManagedStates as ManagedStates
from cpg_trio.host.admin.plugins import Plugins as Plugins, Record as Record
from cpg_trio.host.admin.snapshot import Parts as Parts
from cpg_trio.host.admin.tokens import AdminTokens as AdminTokens
from cpg_trio.host.admin.view import View as View
