"""The dashboard in a real browser, before real processes. Run by `nox -s browser`."""
