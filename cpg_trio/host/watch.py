"""The watch hub: every watcher of a service type hears of what changes for it, and of nothing else.

Each watch is a conflating cell. The registry announces a change once; the hub works out what it means for
each watcher of that type.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cpg_trio._cell import Cell, Reader

from .registry import Registry, ServiceStatus


class WatchHub:
    """Fans the changes of a registry out to watchers."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._cells: dict[str, set[Cell[ServiceStatus]]] = {}
        self._closed = False
        registry.subscribe(self._changed)

    @contextmanager
    def watch(self, service_type: str) -> Iterator[Reader[ServiceStatus]]:
        """Yield a reader of a type's status: that of now, then each change until the hub closes."""
        cell = Cell(self._registry.status(service_type))
        if self._closed:
            cell.close()
        cells = self._cells.setdefault(service_type, set())
        cells.add(cell)
        try:
            yield cell.reader()
        finally:
            cells.discard(cell)
            if not cells and self._cells.get(service_type) is cells:
                del self._cells[service_type]

    def close(self) -> None:
        """End every watch: the host is stopping."""
        self._closed = True
        for cells in self._cells.values():
            for cell in cells:
                cell.close()

    def watchers(self, service_type: str) -> int:
        """Return how many watch a type."""
        return len(self._cells.get(service_type, ()))

    def _changed(self, service_type: str) -> None:
        for cell in self._cells.get(service_type, ()):
            cell.set(self._registry.status(service_type, cell.value.provider))
