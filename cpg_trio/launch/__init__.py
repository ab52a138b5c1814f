"""How plugins are started: the launchers, and the platform file. It knows both sides, host and plugin."""
