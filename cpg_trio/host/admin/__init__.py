"""What an operator sees of a host, and does with it. Never served where plugins call.

plugins, events      what is kept: states and their histories, and what has happened
dependencies         why a service is missing
problems             what is wrong, in a sentence
view                 the answers to all requests that only read
actions              what an operator does
service              the admin service over these
admin                all of it, wired
"""

from cpg_trio.host.admin.actions import Actions as Actions
from cpg_trio.host.admin.admin import Admin as Admin
from cpg_trio.host.admin.events import Event as Event, EventLog as EventLog
from cpg_trio.host.admin.view import HostState as HostState, Parts as Parts, View as View
