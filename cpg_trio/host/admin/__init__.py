"""What an operator sees of a host, and does with it. Never served where plugins call.

plugins, events          what is kept: states and their histories, and what has happened
figures                  calls, as the one table counts them
dependencies, problems   what is missing, and what is wrong, in sentences
host_state               the host itself and its process
snapshot                 what one answer is made of
view                     the answers to all requests that only read
actions, actor           what an operator does, and who that is
service                  the admin service over these
admin                    all of it, wired
"""

from cpg_trio.host.admin.actions import Actions as Actions
from cpg_trio.host.admin.admin import Admin as Admin
from cpg_trio.host.admin.events import Event as Event, EventLog as EventLog
from cpg_trio.host.admin.snapshot import Parts as Parts
from cpg_trio.host.admin.view import View as View
