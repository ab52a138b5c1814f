"""Plugins that the host starts, keeps running, and stops: what they are, and how they are started.

launcher      how a plugin is started, for those who write launchers
readers       who reads a log that is kept in memory
output        what plugins write: their last lines, and who reads them
spec          what is known of a plugin before it is started
state         what one replica of it is doing
graph         which plugin waits for which, and what is wrong with that
impact        what others lose when a plugin goes
planning      what has to be done so that other plugins run, in which order
surroundings  what supervision needs of its host
managed       a plugin with its replicas
replacing     replicas that come in place of others, and the moment in which calls move
readiness     when a run of it is ready
runs          one run of a replica: whether it hangs, how it is stopped
supervisor    starts the runs of a replica, one after the other
plugins       which plugins there are, and what is done with them
"""

from cpg_trio.host.supervision.graph import (
    Graph as Graph,
    GraphError as GraphError,
    Registered as Registered,
)
from cpg_trio.host.supervision.impact import (
    Impact as Impact,
    LessProvided as LessProvided,
    Loser as Loser,
    Member as Member,
    Members as Members,
    RemovalRefusedError as RemovalRefusedError,
    impact_of as impact_of,
)
from cpg_trio.host.supervision.launcher import (
    EXTERNAL as EXTERNAL,
    Assignment as Assignment,
    Ended as Ended,
    Launcher as Launcher,
    LaunchError as LaunchError,
    Running as Running,
)
from cpg_trio.host.supervision.managed import (
    Managed as Managed,
    ManageError as ManageError,
    Outdated as Outdated,
    UnknownPluginError as UnknownPluginError,
)
from cpg_trio.host.supervision.output import (
    MOST_CHARACTERS as MOST_CHARACTERS,
    OutputBook as OutputBook,
    OutputLine as OutputLine,
    OutputReader as OutputReader,
    printable as printable,
)
from cpg_trio.host.supervision.planning import (
    ApplyError as ApplyError,
    ChangeKind as ChangeKind,
    OutdatedPlanError as OutdatedPlanError,
    Plan as Plan,
    SpecChange as SpecChange,
    apply as apply,
    plan as plan,
)
from cpg_trio.host.supervision.plugins import (
    ManagedPlugins as ManagedPlugins,
    PlatformSource as PlatformSource,
)
from cpg_trio.host.supervision.spec import (
    Enrol as Enrol,
    PluginSpec as PluginSpec,
    Ready as Ready,
    Restart as Restart,
    RestartPolicy as RestartPolicy,
)
from cpg_trio.host.supervision.state import Phase as Phase, Replica as Replica, replica_title as replica_title
from cpg_trio.host.supervision.supervisor import Supervisor as Supervisor
from cpg_trio.host.supervision.surroundings import (
    Surroundings as Surroundings,
    local_url as local_url,
)
