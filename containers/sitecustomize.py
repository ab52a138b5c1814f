"""In an image only: what SIGTERM does until the process handles it itself.

The kernel delivers to process 1 of a container no signal that it does not handle: a process that is stopped
while it still imports would not hear of it, and be killed when its grace is over. Python imports this module
before any other.
"""

import os
import signal

signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
