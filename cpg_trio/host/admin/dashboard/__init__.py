"""The dashboard: pages over the view, the events and the actions of a host.

app            addresses, methods, answers, and the stream of what changes on a page
_pages         what each page shows        _forms      what an operator does there
_tables        sorting, and pages of rows  _query      what an address says
_graph         the graph as it is drawn    _layout     where its nodes are
_rendering     templates and their filters _live       what is new since it was sent
_assets        style sheet and script

Pages are whole without JavaScript: the host sorts, filters and draws. The script keeps an open page up to
date with parts that the host has rendered by the same templates.
"""

from cpg_trio.host.admin.dashboard.app import Dashboard as Dashboard
