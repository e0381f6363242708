"""Messages between the supervisor and its worker process: typed frames over a socket pair.

A frame is four bytes of length, one byte with the number of file descriptors that come with it, and a
msgpack body. Parameters never stand in a frame; the file descriptor of the shared memory in which they lie
travels beside it. The worker runs the researcher's code, so the supervisor trusts nothing that comes from it.
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
import struct
import threading
from collections.abc import Mapping, Sequence
from typing import Generic, TypeVar

import msgspec

from fedplug.core.block_stock import BlockStock
from fedplug.core.dataset_type import DatasetRecord
from fedplug.core.errors import CodecError, ConnectionLostError, UsageError
from fedplug.core.local_state import MAX_VALUES, LocalState
from fedplug.core.messages import LogLine, Progress, TaskFailure, TrainReply, TrainRequest
from fedplug.core.params import Params, ParamsSpec
from fedplug.node.isolation.layers import Layer
from fedplug.node.policy.terms import Terms
from fedplug.node.shared import SharedBuffer, share, shared_stock

MAX_FRAME = 16 * 1024 * 1024
"""Largest frame in bytes: a plan may have 4 MiB of source, and its arguments come with it."""

MAX_BLOCKS = 200
"""Most sets of parameters beside one frame; the kernel passes at most 253 descriptors at once."""

_HEADER = struct.Struct("<IB")


class Block(msgspec.Struct, frozen=True, array_like=True):
    """Parameters in the shared memory whose descriptor comes with the frame.

    Attributes:
        name: Empty for the parameters of the model, else the name of extra arrays.
        spec: The table.
        offset: First byte in the shared memory.
    """

    name: str
    spec: ParamsSpec
    offset: int


class StateBlock(msgspec.Struct, frozen=True, array_like=True):
    """A state between rounds: `LocalState.values`, and its arrays as in `Block`."""

    values: bytes
    spec: ParamsSpec
    offset: int


class Start(msgspec.Struct, frozen=True, tag=True):
    """To the worker: train.

    The descriptors are those of the blocks, that of ``state`` if there is one, and, if ``spare`` is not 0, that of
    memory of so many bytes in which the result may be built.
    """

    request: TrainRequest
    bundle: bytes
    dataset: DatasetRecord
    blocks: tuple[Block, ...]
    state: StateBlock | None = None
    spare: int = 0
    noise_key: bytes = b""
    terms: Terms = Terms()


class Sign(msgspec.Struct, frozen=True, tag=True):
    """From the worker: a sign of life; without content, that another batch has begun.

    Attributes:
        progress: How far the training is.
        line: A line for the researcher.
        layers: How far the process is shut in, said before its first plan runs.
        tried: What the plan tried in Python and may not do.
    """

    progress: Progress | None = None
    line: LogLine | None = None
    layers: tuple[Layer, ...] = ()
    tried: str = ""


class Done(msgspec.Struct, frozen=True, tag=True):
    """From the worker: trained. The descriptor of ``state``, if there is one, is the last."""

    reply: TrainReply
    blocks: tuple[Block, ...]
    state: StateBlock | None = None


class Failed(msgspec.Struct, frozen=True, tag=True):
    """From the worker: not trained. ``fatal`` says that the process must be replaced."""

    failure: TaskFailure
    fatal: bool = False


T = TypeVar("T")


class Pipe(Generic[T]):
    """One end of the socket pair. `receive` belongs to one thread; `send` to any.

    Args:
        sock: The socket; closed by `close`.
        incoming: The type (or union) of frames that this end accepts.
    """

    def __init__(self, sock: socket.socket, incoming: type[T]) -> None:
        self._socket = sock
        self._decoder = msgspec.msgpack.Decoder(incoming)
        self._lock = threading.Lock()
        self._receiving = threading.Lock()

    def send(self, message: msgspec.Struct, fds: Sequence[int] = ()) -> None:
        """Send a frame.

        Raises:
            UsageError: It is too large, or more than `MAX_BLOCKS` descriptors come with it.
            ConnectionLostError: The other end is gone.
        """
        body = msgspec.msgpack.encode(message)
        if len(body) > MAX_FRAME:
            raise UsageError(f"The arguments of a training make {len(body):,} bytes; {MAX_FRAME:,} are allowed.")
        if len(fds) > MAX_BLOCKS:
            raise UsageError(f"A training may have {MAX_BLOCKS} sets of extra arrays; this one has {len(fds)}.")
        header = _HEADER.pack(len(body), len(fds))
        try:
            with self._lock:
                sent = socket.send_fds(self._socket, [header], list(fds)) if fds else self._socket.send(header)
                self._socket.sendall(header[sent:])
                self._socket.sendall(body)
        except OSError as error:
            raise ConnectionLostError(f"The other process is gone: {error.strerror}.") from None

    def receive(self) -> tuple[T, list[int]]:
        """The next frame and the file descriptors that came with it, which now belong to the caller.

        Raises:
            ConnectionLostError: The other end is gone.
            CodecError: What came is not a frame.
        """
        with self._receiving:
            return self._received()

    def _received(self) -> tuple[T, list[int]]:
        fds: list[int] = []
        try:
            length, count = _HEADER.unpack(self._exactly(_HEADER.size, fds))
            if length > MAX_FRAME:
                raise CodecError(f"The worker announced a message of {length:,} bytes.")
            body = self._exactly(length, fds)
            if len(fds) != count:
                raise CodecError(f"{count} descriptors were announced, {len(fds)} came.")
            try:
                return self._decoder.decode(body), fds
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                raise CodecError(f"A message between the processes of this node is malformed: {error}.") from None
        except BaseException:
            close_all(fds)
            raise

    def close(self) -> None:
        """Close the socket; a `receive` that waits ends. May be called twice."""
        self.hang_up()
        # Not under the hands of another thread: the number of the socket may be that of another file at once.
        with self._receiving, self._lock:
            self._socket.close()

    def hang_up(self) -> None:
        """End a `receive` that waits in another thread; the socket stays to be closed by its owner."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _exactly(self, count: int, fds: list[int]) -> bytearray:
        data = bytearray(count)
        view = memoryview(data)
        room = socket.CMSG_SPACE(MAX_BLOCKS * array.array("i").itemsize)
        while view:
            try:
                if count == _HEADER.size:
                    size, ancillary, _, _ = self._socket.recvmsg_into(
                        [view], room, getattr(socket, "MSG_CMSG_CLOEXEC", 0)
                    )
                    _collect(ancillary, fds)
                else:
                    size = self._socket.recv_into(view)
            except OSError as error:
                raise ConnectionLostError(f"The other process is gone: {error.strerror}.") from None
            if not size:
                raise ConnectionLostError("The other process is gone.")
            view = view[size:]
        return data


def pack(params: Params, aux: Mapping[str, Params]) -> tuple[tuple[Block, ...], list[SharedBuffer]]:
    """Describe parameters for a frame; they are copied only if they do not lie in shared memory yet."""
    blocks: list[Block] = []
    buffers: list[SharedBuffer] = []
    for name, each in [("", params), *aux.items()]:
        buffer, offset = share(each)
        blocks.append(Block(name, each.spec, offset))
        buffers.append(buffer)
    return tuple(blocks), buffers


def unpack(
    blocks: Sequence[Block], fds: list[int], *, most: int | None = None, stock: BlockStock[SharedBuffer] | None = None
) -> tuple[Params, dict[str, Params]]:
    """The parameters that a frame describes, read-only and without a copy. Takes all of ``fds`` over.

    Args:
        blocks: The descriptions.
        fds: One descriptor for each.
        most: Most bytes that they may have together.
        stock: Where the memory goes when the parameters are gone.

    Raises:
        CodecError: Descriptions and memory do not fit, or there is too much.
        ParamsError: A table is impossible.
    """
    stock = stock or shared_stock(keep=0)
    total = 0
    try:
        if len(blocks) != len(fds) or not blocks or blocks[0].name:
            raise CodecError(f"{len(blocks)} sets of parameters came with {len(fds)} blocks of memory.")
        found: dict[str, Params] = {}
        for block in blocks:
            total += block.spec.nbytes
            _check_table(block, total, most)
            if block.name in found:
                raise CodecError(f"Two sets of parameters are named {block.name!r}.")
            found[block.name] = _attach(block, fds.pop(0), stock)
    finally:
        close_all(fds)
    return found.pop(""), found


def pack_state(state: LocalState | None) -> tuple[StateBlock | None, list[SharedBuffer]]:
    """Describe a state for a frame, as `pack` does parameters."""
    if state is None:
        return None, []
    buffer, offset = share(state.arrays)
    return StateBlock(state.values, state.arrays.spec, offset), [buffer]


def unpack_state(block: StateBlock | None, fds: list[int], *, most: int | None = None) -> LocalState | None:
    """The state that a frame describes. Takes the last of ``fds`` over if there is one.

    Raises:
        CodecError: Description and memory do not fit, or there is too much.
        ParamsError: The table is impossible.
    """
    if block is None:
        return None
    try:
        if not fds or len(block.values) > MAX_VALUES:
            raise CodecError("A state between rounds came without its memory, or is too large.")
        _check_table(block, block.spec.nbytes, most)
        return LocalState(_attach(block, fds.pop(), shared_stock(keep=0)), block.values)
    except BaseException:
        close_all(fds)
        raise


def _check_table(block: Block | StateBlock, total: int, most: int | None) -> None:
    entries = [(tensor.name, tensor.shape, tensor.dtype) for tensor in block.spec.tensors]
    if any(length < 0 for _, shape, _ in entries for length in shape):
        raise CodecError("An array has a negative length.")
    if ParamsSpec.build(entries) != block.spec or block.offset < 0:
        raise CodecError("A table of parameters is malformed.")
    if most is not None and total > most:
        raise CodecError(f"The parameters have more than {most:,} bytes, which is the most that is taken.")


def _attach(block: Block | StateBlock, fd: int, stock: BlockStock[SharedBuffer]) -> Params:
    raw = stock.lend(SharedBuffer.attach(fd, block.offset + block.spec.nbytes))
    return Params(block.spec, raw[block.offset : block.offset + block.spec.nbytes])


def close_all(fds: list[int]) -> None:
    """Close file descriptors and forget them."""
    while fds:
        os.close(fds.pop())


def _collect(ancillary: list[tuple[int, int, bytes]], fds: list[int]) -> None:
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            numbers = array.array("i")
            numbers.frombytes(data[: len(data) - len(data) % numbers.itemsize])
            fds.extend(numbers)
