"""The clients of the capabilities that a host offers by default: `logger`, which writes to the host's log."""

from cpg_trio.protos.capability.logger.v1.logger_pb2 import LogRequest
from cpg_trio.protos.capability.logger.v1.logger_trio import LoggerClient

__all__ = ["LogRequest", "LoggerClient"]
