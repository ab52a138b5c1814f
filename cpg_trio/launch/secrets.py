"""Secrets of plugins by reference: the platform file names where one is, and never has it."""

from __future__ import annotations

import os
from pathlib import Path

import attrs

from cpg_trio._reload import reason
from cpg_trio.host.supervision import LaunchError


@attrs.frozen
class SecretReference:
    """Where a secret is: in a file, or in a variable of the host's environment."""

    file: Path | None = None
    variable: str = ""

    def read(self) -> str:
        """Return the secret as it is now. Raises: LaunchError, without it."""
        secret = self._of_file(self.file) if self.file else os.environ.get(self.variable, "")
        if not secret:
            where = f"{self.file} is empty" if self.file else f"{self.variable} is not set for the host"
            raise LaunchError(f"a secret is not there: {where}")
        return secret

    @staticmethod
    def _of_file(path: Path) -> str:
        try:
            return path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeError) as error:
            raise LaunchError(f"a secret cannot be read in {path}: {reason(error)}") from None
