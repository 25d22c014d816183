"""One system call that sends the same bytes to many sockets: io_uring, where the kernel has it and lets us.

A fan-out spends nearly all of its time in the kernel, and a good part of that on the way in and out again, once for
each client. Here one call takes a whole slice of clients.

Nothing about this use of io_uring is asynchronous. Each send is marked MSG_DONTWAIT: it is over, one way or the other,
when the call returns, exactly like `socket.send`. See io_uring(7), io_uring_setup(2), io_uring_enter(2) and
<linux/io_uring.h>: we write *submissions* into one ring, and find as many *completions* in another.
"""

import contextlib
import ctypes
import errno
import mmap
import os
import socket
import struct
from array import array
from collections.abc import Sequence

__all__ = ["BUFFER_BYTES", "ENTRIES", "Ring"]

ENTRIES = 256
"""Sockets for one call at the most."""

BUFFER_BYTES = 1 << 18
"""The longest data that a ring takes."""

_SETUP, _ENTER = map(ctypes.c_long, (425, 426))  # system calls: so numbered wherever CPython has wheels
_PARAMETERS = struct.Struct("=10I 8IQ 8IQ")  # struct io_uring_params, with the two structs of offsets in it
_CQ_ENTRIES, _FEATURES = 1, 5  # places in the parameters: cq_entries, features
_SQ_TAIL, _SQ_ARRAY = 11, 16  # sq_off.tail, sq_off.array
_CQ_HEAD, _CQ_TAIL, _CQES = 19, 20, 24  # cq_off.head, cq_off.tail, cq_off.cqes
_SINGLE_MMAP = 1 << 0
_GETEVENTS = 1 << 0
_OFFSET_OF_SUBMISSIONS = 0x10000000
_SEND = 26
_SUBMISSION_BYTES = 64
_DESCRIPTOR, _ADDRESS, _SIZE, _FLAGS, _USER_DATA = 4, 16, 24, 28, 32  # places in a submission, in bytes
_COMPLETION = struct.Struct("=QiI")  # user data, what the system call would have returned, flags
_RESULT = 8  # place in a completion, in bytes
_COUNT = 1 << 32  # the rings' counters are 32 bits wide
_LATER = (errno.EAGAIN, errno.EINTR)

_NO_WAITING = (ctypes.c_uint(0), ctypes.c_uint(_GETEVENTS), None, ctypes.c_size_t(0))
"""The last arguments of io_uring_enter: see to what is done without a wait for anything, and leave signals alone."""

_syscall = ctypes.CDLL(None, use_errno=True).syscall


class Ring:
    """Sends the same bytes to up to `ENTRIES` sockets with one system call. For one thread; `close` it.

    Args:
        flags: of each send; without MSG_DONTWAIT a full socket breaks the ring.

    Attributes:
        works: it may be used. False for good once the kernel did not do, at once, all that it was asked to: a send that
            is still under way may read the ring's memory later, which therefore nobody writes to again.

    Raises:
        OSError: the kernel has no io_uring, does not let us use it, or is too old for sends that never wait.
    """

    def __init__(self, flags: int = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL) -> None:
        parameters = (ctypes.c_char * _PARAMETERS.size)()
        self._descriptor: int = _syscall(_SETUP, ctypes.c_uint(ENTRIES), ctypes.byref(parameters))
        if self._descriptor < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        self._held = contextlib.ExitStack()
        self._held.callback(os.close, self._descriptor)
        self._itself = ctypes.c_uint(self._descriptor)
        try:
            self._map(_PARAMETERS.unpack(parameters), flags)
            self._prove()
        except BaseException:
            self.close()
            raise

    def _map(self, parameters: tuple[int, ...], flags: int) -> None:
        if not parameters[_FEATURES] & _SINGLE_MMAP:
            raise OSError(errno.ENOSYS, "the io_uring of this kernel is too old")
        hold = self._held.enter_context
        self._completions = parameters[_CQ_ENTRIES]
        self._completions_at = parameters[_CQES]
        completions_end = self._completions_at + _COMPLETION.size * self._completions
        self._rings = hold(mmap.mmap(self._descriptor, max(parameters[_SQ_ARRAY] + 4 * ENTRIES, completions_end)))
        self._words = hold(memoryview(self._rings).cast("I"))
        for place in range(ENTRIES):
            self._words[parameters[_SQ_ARRAY] // 4 + place] = place
        self._sq_tail = parameters[_SQ_TAIL] // 4
        self._cq_head, self._cq_tail = parameters[_CQ_HEAD] // 4, parameters[_CQ_TAIL] // 4
        completions = memoryview(self._rings)[self._completions_at : completions_end].cast("i")
        self._results = hold(completions[_RESULT // 4 :: _COMPLETION.size // 4])

        self._buffer = hold(mmap.mmap(-1, BUFFER_BYTES))
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._buffer))
        submissions = hold(mmap.mmap(self._descriptor, _SUBMISSION_BYTES * ENTRIES, offset=_OFFSET_OF_SUBMISSIONS))
        for place in range(ENTRIES):
            at = _SUBMISSION_BYTES * place
            struct.pack_into("=B", submissions, at, _SEND)
            struct.pack_into("=Q", submissions, at + _ADDRESS, address)
            struct.pack_into("=I", submissions, at + _FLAGS, flags)
            struct.pack_into("=Q", submissions, at + _USER_DATA, place)
        numbers = memoryview(submissions).cast("i")
        self._descriptors = hold(numbers[_DESCRIPTOR // 4 :: _SUBMISSION_BYTES // 4])
        self._sizes = hold(numbers[_SIZE // 4 :: _SUBMISSION_BYTES // 4])
        self._expected = memoryview(array("i", [0]) * ENTRIES)  # the results when every socket takes all
        self._asked = self._answered = 0
        self.works = True

    def _prove(self) -> None:
        """See that the kernel sends, and answers at once where a socket is full: old ones may wait until it is not."""
        full, other = socket.socketpair()
        with full, other:
            full.setblocking(False)
            try:
                while True:
                    full.send(bytes(BUFFER_BYTES))
            except BlockingIOError:
                pass
            other.setblocking(False)
            if self.send([full.fileno(), other.fileno(), -1], b"123") != [0, 3, -1] or full.recv(3) != b"123":
                raise OSError(errno.ENOSYS, "the io_uring of this kernel does not send as socket.send does")

    def close(self) -> None:
        """Give everything back to the kernel. Safe to call again."""
        self.works = False
        self._held.close()

    def takes(self, data: bytes) -> bool:
        """Tell whether `send` is for this."""
        return self.works and len(data) <= BUFFER_BYTES

    def send(self, descriptors: Sequence[int], data: bytes) -> list[int]:
        """Write `data` to each of up to `ENTRIES` sockets, and return for each how many bytes it took.

        It is 0 where the socket is full, and -1 where it is gone; -1, too, for a descriptor that is none.
        """
        count, size = len(descriptors), len(data)
        wanted = memoryview(struct.pack(f"{count}i", *descriptors)).cast("i")  # twice as quick as an array is made
        self._buffer[:size] = data
        if self._expected[0] != size:
            self._expected = memoryview(array("i", [size]) * ENTRIES)
            self._sizes[:] = self._expected
        first, answered = self._asked, self._answered
        for places, part in _stretches(first, count, ENTRIES):
            self._descriptors[places] = wanted[part]
        asked = self._enter(count)
        arrived = (self._words[self._cq_tail] - answered) % _COUNT
        taken: list[int] = []
        if arrived == count:
            for places, part in _stretches(answered, count, self._completions):
                if self._results[places] == self._expected[part]:
                    taken += [size] * (part.stop - part.start)
        if len(taken) < count:
            taken = [-1] * asked + [0] * (count - asked)
            for number in range(answered, answered + arrived):
                place, result = self._completion(number)
                taken[(place - first) % ENTRIES] = result
            self.works = self.works and arrived == count
        self._answered = self._words[self._cq_head] = (answered + arrived) % _COUNT
        return taken

    def _enter(self, count: int) -> int:
        """Have the kernel do the next `count` submissions; returns how many it did: all, if it has memory."""
        self._asked = self._words[self._sq_tail] = (self._asked + count) % _COUNT
        left = count
        while left:
            done = _syscall(_ENTER, self._itself, ctypes.c_uint(left), *_NO_WAITING)
            if done > 0:
                left -= done
            elif done == 0 or ctypes.get_errno() != errno.EINTR:
                self._asked = self._words[self._sq_tail] = (self._asked - left) % _COUNT
                break
        return count - left

    def _completion(self, number: int) -> tuple[int, int]:
        """Return the place of a submission, and what came of it, as `send` tells it."""
        at = self._completions_at + _COMPLETION.size * (number % self._completions)
        place, result, _flags = _COMPLETION.unpack_from(self._rings, at)
        if result < 0:
            result = 0 if -result in _LATER else -1
        return place, result


def _stretches(start: int, count: int, size: int) -> list[tuple[slice, slice]]:
    """Return where `count` things from number `start` on lie in a ring, and which they are: one stretch, or two."""
    start %= size
    end = start + count
    if end <= size:
        return [(slice(start, end), slice(0, count))]
    before_end = size - start
    return [(slice(start, size), slice(0, before_end)), (slice(0, end - size), slice(before_end, count))]
