"""h2's connection, on which an error of one stream ends that stream alone (RFC 9113, section 5.4.2). No I/O.

h2 ends the connection for most of them, which section 5.4.1 allows; then one bad request takes all others of
its client with it. What leaves the two sides with different ideas of the connection (a block of fields that
cannot be unpacked, a frame where none may be) is an error of the connection here, too.

Uses inner parts of h2, to whose minor version the package is held.
"""

from __future__ import annotations

import sys

from h2.config import H2Configuration
from h2.connection import (
    AllowedStreamIDs,
    ConnectionInputs,
    ConnectionState,
    H2Connection,
    _decode_headers,
)
from h2.errors import ErrorCodes
from h2.events import Event, StreamReset
from h2.exceptions import (
    DenialOfServiceError,
    InvalidBodyLengthError,
    ProtocolError,
    StreamClosedError,
    StreamIDTooLowError,
    TooManyStreamsError,
)
from h2.frame_buffer import FrameBuffer
from h2.settings import SettingCodes, Settings
from h2.stream import StreamClosedBy, StreamState
from hpack.exceptions import HPACKError
from hyperframe.frame import (
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PriorityFrame,
    RstStreamFrame,
    WindowUpdateFrame,
)

from cpg_trio._lines import one_line
from cpg_trio.http.server.http2_hpack import BlockDecoder, BlockEncoder, Remembered

_MOST_STREAM_ERRORS = 100  # of one connection; a client that makes more of them means no good
_HEAD_BYTES = 9
_PRIORITY_BYTES = 5
_NO_INCREMENT = bytes(4)


class _MalformedFrame(Frame):
    """A frame that is an error of its stream."""

    type = None

    def __init__(self, stream_id: int, error_code: ErrorCodes) -> None:
        super().__init__(stream_id)
        self.error_code = error_code

    def serialize_body(self) -> bytes:
        return b""


class _Frames(FrameBuffer):
    """Frames as they come; those that are errors of a stream are no errors of the connection."""

    def __next__(self) -> Frame:
        frame = self._malformed()
        return super().__next__() if frame is None else frame

    def _malformed(self) -> Frame | None:
        if len(self._data) < _HEAD_BYTES or self._headers_buffer:
            return None
        length, kind = int.from_bytes(self._data[:3], "big"), self._data[3]
        stream_id = int.from_bytes(self._data[5:_HEAD_BYTES], "big") & 0x7FFFFFFF
        payload = self._data[_HEAD_BYTES : _HEAD_BYTES + min(length, self.max_frame_size)]
        if not stream_id or len(payload) < length:
            return None
        if kind == WindowUpdateFrame.type and payload == _NO_INCREMENT:
            code = ErrorCodes.PROTOCOL_ERROR
        elif kind == PriorityFrame.type and length != _PRIORITY_BYTES:
            code = ErrorCodes.FRAME_SIZE_ERROR
        else:
            return None
        del self._data[: _HEAD_BYTES + length]
        return _MalformedFrame(stream_id, code)


class Http2Engine(H2Connection):
    """See the module."""

    def __init__(self, max_streams: int, max_head_bytes: int) -> None:
        """Be a server's, with so many streams at once, and heads of so many bytes."""
        super().__init__(
            H2Configuration(
                client_side=False,
                header_encoding=None,
                validate_outbound_headers=False,  # `OutgoingHead` has checked them
                normalize_outbound_headers=False,
            )
        )
        self.incoming_buffer = _Frames(server=True)
        self._frame_dispatch_table[_MalformedFrame] = self._receive_malformed_frame
        self._stream_errors = 0
        limits = {
            SettingCodes.MAX_CONCURRENT_STREAMS: max_streams,
            SettingCodes.MAX_HEADER_LIST_SIZE: max_head_bytes,
        }
        self.local_settings = Settings(client=False, initial_values=limits)
        self.decoder, self.encoder = BlockDecoder(max_head_bytes), BlockEncoder()
        self._valid = Remembered[bytes, bool](self.decoder.table)  # blocks that are a request's

    def _terminate_connection(self, error_code: ErrorCodes) -> None:
        """End the connection for an error, and tell the client which (RFC 9113, section 6.8)."""
        goaway = GoAwayFrame(0, last_stream_id=self.highest_inbound_stream_id, error_code=error_code)
        goaway.additional_data = one_line(str(sys.exc_info()[1] or "")).encode()
        self.state_machine.process_input(ConnectionInputs.SEND_GOAWAY)
        self._prepare_for_sending([goaway])

    def _receive_headers_frame(self, frame: HeadersFrame) -> tuple[list[Frame], list[Event]]:
        begins, block = frame.stream_id not in self.streams, frame.data
        is_known = begins and self._valid.get(block) is not None
        self.config.validate_inbound_headers = not is_known  # which costs as much as to unpack it
        try:
            received = super()._receive_headers_frame(frame)
        except TooManyStreamsError:
            return self._refuse(frame)
        except (StreamClosedError, StreamIDTooLowError, DenialOfServiceError):
            raise
        except ProtocolError as error:
            if isinstance(error.__cause__, HPACKError) or frame.stream_id not in self.streams:
                raise
            return self._end_stream(frame.stream_id, ErrorCodes.PROTOCOL_ERROR)
        if begins and not is_known:
            self._valid.add(block, True)  # noqa: FBT003 - there is nothing else to remember
        return received

    def _refuse(self, frame: HeadersFrame) -> tuple[list[Frame], list[Event]]:
        """Refuse a stream beyond the limit. Its fields are unpacked, as those of others depend on them."""
        _decode_headers(self.decoder, frame.data)
        self.state_machine.process_input(ConnectionInputs.RECV_HEADERS)
        self._begin_new_stream(frame.stream_id, AllowedStreamIDs.ODD)
        return self._end_stream(frame.stream_id, ErrorCodes.REFUSED_STREAM)

    def _receive_data_frame(self, frame: DataFrame) -> tuple[list[Frame], list[Event]]:
        try:
            return super()._receive_data_frame(frame)
        except InvalidBodyLengthError:
            self.acknowledge_received_data(frame.flow_controlled_length, frame.stream_id)
            return self._end_stream(frame.stream_id, ErrorCodes.PROTOCOL_ERROR)

    def _receive_priority_frame(self, frame: HeadersFrame | PriorityFrame) -> tuple[list[Frame], list[Event]]:
        try:
            return super()._receive_priority_frame(frame)
        except ProtocolError:
            # What HEADERS say is for the one that receives those to see to.
            if isinstance(frame, HeadersFrame) or self.state_machine.state is ConnectionState.CLOSED:
                raise
            return self._end_stream(frame.stream_id, ErrorCodes.PROTOCOL_ERROR)

    def _receive_malformed_frame(self, frame: _MalformedFrame) -> tuple[list[Frame], list[Event]]:
        return self._end_stream(frame.stream_id, frame.error_code)

    def _end_stream(self, stream_id: int, code: ErrorCodes) -> tuple[list[Frame], list[Event]]:
        """Reset a stream; one that has ended is left alone. Raises: ProtocolError if it never began."""
        self._stream_errors += 1
        if self._stream_errors > _MOST_STREAM_ERRORS:
            raise DenialOfServiceError("too many errors of streams")
        try:
            stream = self._get_stream_by_id(stream_id)
        except StreamClosedError:
            return [], []
        machine = stream.state_machine
        machine.state, machine.stream_closed_by = StreamState.CLOSED, StreamClosedBy.SEND_RST_STREAM
        reset = RstStreamFrame(stream_id)
        reset.error_code = code
        return [reset], [StreamReset(stream_id=stream_id, error_code=code, remote_reset=False)]
