# SPDX-License-Identifier: MIT
"""What calls raise: an exception for each code of the library."""
from __future__ import annotations

from typing import Any

from . import _abi


class QchainError(Exception):
    """A call of the library failed. str() is one sentence: what was tried, on which layer, and why.

    code        QCHAIN_E_*, a negative number; name has it in words, as "CORRUPT"
    sys_errno   the system's error behind it, or None; also errno of those that are an OSError
    http_status the server's answer behind it, or None
    layer       the layer it happened in (0 is the top), or None
    offset      the byte of the layer's file it happened at, or None
    """

    code: int = _abi.QCHAIN_E_INTERNAL

    def __init__(self, message: str, code: int | None = None, sys_errno: int | None = None,
                 http_status: int | None = None, layer: int | None = None, offset: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code
        self.sys_errno = sys_errno
        if isinstance(self, OSError):
            setattr(self, "errno", sys_errno)
        self.http_status = http_status
        self.layer = layer
        self.offset = offset

    @property
    def name(self) -> str:
        """The code in words: "CORRUPT"."""
        said: bytes = _abi.qchain_code_name(self.code)
        return said.decode()

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message, self.code, self.sys_errno, self.http_status, self.layer, self.offset)


class NoMemory(QchainError, MemoryError):
    """There is no memory."""
    code = _abi.QCHAIN_E_NOMEM


class InvalidArgument(QchainError, ValueError):
    """The call is wrong; also: a chain that was opened before a fork is used in the child."""
    code = _abi.QCHAIN_E_INVAL


class OutOfRange(QchainError, ValueError):
    """Offset or length beyond the disk."""
    code = _abi.QCHAIN_E_RANGE


class LimitExceeded(QchainError):
    """Legal, but over a limit of the library."""
    code = _abi.QCHAIN_E_LIMIT


class MediumError(QchainError, OSError):
    """The medium failed, or a file shrank."""
    code = _abi.QCHAIN_E_IO


class NetworkError(QchainError, ConnectionError):
    """The network failed, after retries."""
    code = _abi.QCHAIN_E_NET


class Timeout(QchainError, TimeoutError):
    """No answer within the deadline."""
    code = _abi.QCHAIN_E_TIMEOUT


class Throttled(QchainError, ConnectionError):
    """The server asks to slow down, after retries."""
    code = _abi.QCHAIN_E_THROTTLED


class NotFound(QchainError, FileNotFoundError):
    """No such file, object, snapshot, bitmap or layer."""
    code = _abi.QCHAIN_E_NOTFOUND


class AccessDenied(QchainError, PermissionError):
    """Policy or permission forbids it; the message names what would allow it."""
    code = _abi.QCHAIN_E_ACCESS


class AuthenticationFailed(QchainError, PermissionError):
    """Credentials are missing, wrong or expired."""
    code = _abi.QCHAIN_E_AUTH


class NoSpace(QchainError, OSError):
    """No space; make some and call again."""
    code = _abi.QCHAIN_E_NOSPACE


class ReadOnly(QchainError, OSError):
    """Opened for reading, or a flush has failed before."""
    code = _abi.QCHAIN_E_READONLY


class Busy(QchainError):
    """Another operation holds what this one needs."""
    code = _abi.QCHAIN_E_BUSY


class Exists(QchainError, FileExistsError):
    """There is a file or bitmap of that name already."""
    code = _abi.QCHAIN_E_EXISTS


class Locked(QchainError, OSError):
    """Another process holds the image."""
    code = _abi.QCHAIN_E_LOCKED


class Corrupt(QchainError):
    """The image violates its format."""
    code = _abi.QCHAIN_E_CORRUPT


class Unsupported(QchainError):
    """Valid, but not known to the library."""
    code = _abi.QCHAIN_E_UNSUPPORTED


class BrokenChain(QchainError):
    """Layers do not fit: a loop, a missing layer."""
    code = _abi.QCHAIN_E_CHAIN


class Changed(QchainError):
    """A layer is not what it was; open the chain again."""
    code = _abi.QCHAIN_E_CHANGED


class Cancelled(QchainError):
    """Cancelled by Job.cancel, or a request whose queue was closed."""
    code = _abi.QCHAIN_E_CANCELLED


class InternalError(QchainError):
    """A bug in the library; please report it."""
    code = _abi.QCHAIN_E_INTERNAL


BY_CODE: dict[int, type[QchainError]] = {
    c.code: c for c in (NoMemory, InvalidArgument, OutOfRange, LimitExceeded, MediumError, NetworkError, Timeout,
                        Throttled, NotFound, AccessDenied, AuthenticationFailed, NoSpace, ReadOnly, Busy, Exists,
                        Locked, Corrupt, Unsupported, BrokenChain, Changed, Cancelled, InternalError)}


def from_code(code: int, message: str) -> QchainError:
    """The exception of a code, for failures that come without an error object."""
    return BY_CODE.get(code, QchainError)(message, code)


def from_error(code: int, err: int | None) -> QchainError:
    """The exception of a failed call; err is its qchain_error."""
    if err is None or _abi.qchain_error_code(err) != code:
        return from_code(code, str(_abi.qchain_code_name(code), "ascii"))
    layer, offset = _abi.qchain_error_layer(err), _abi.qchain_error_offset(err)
    return BY_CODE.get(code, QchainError)(
        _abi.qchain_error_message(err).decode("utf-8", "backslashreplace"), code,
        _abi.qchain_error_errno(err) or None, _abi.qchain_error_http_status(err) or None,
        layer if layer >= 0 else None, offset if offset >= 0 else None)
