"""In images only: end on SIGTERM until the program installs its own handler.

The kernel does not deliver a signal to process 1 of a container unless that has a handler for it. A program
that is stopped while it still imports modules would be killed only at the end of its grace period. Python
imports this module before any other.
"""

import os
import signal

signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
