"""Streams of a device that runs what is launched late: in any order that streams and events allow, drawn at random."""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Callable

import torch

from pavane.kernels.gpu.side_streams import Event, Streams


class LateDevice:
    """Runs something only when somebody waits or asks. `error`: what an operation raised; nothing runs any more then,
    and all events raise, as CUDA's do."""

    def __init__(self, rng: random.Random, *, step_at_once: bool = False) -> None:
        self.error: Exception | None = None
        self._rng = rng
        self._lock = threading.RLock()
        self._step = LateStream(self, at_once=step_at_once)
        self._queues = [self._step, LateStream(self), LateStream(self)]
        self._favoured = self._step  # one stream for a while, so that others lag behind
        self.streams = Streams(*self._queues, lambda count: torch.empty(count, dtype=torch.int64))

    def advance(self, *, most: int) -> None:
        """Runs up to `most` operations."""
        with self._lock:
            for _ in range(self._rng.randint(0, most)):
                self._run_one()

    def run_until(self, event: LateEvent) -> None:
        with self._lock:
            while not event.passed:
                assert self._run_one(), "streams wait for each other"

    def drain(self) -> None:
        with self._lock:
            while self._run_one():
                pass

    def add(self, stream: LateStream, operation: Callable[[], None] | LateEvent, *, wait: bool = False) -> None:
        with self._lock:
            stream.queue.append((operation, wait))
            while stream.at_once and stream.queue:
                assert self._run_one(stream) or self._run_one(), "streams wait for each other"

    def _run_one(self, *chosen: LateStream) -> bool:
        self.raise_error()
        able = [s for s in chosen or self._queues if s.queue and not s.waits()]
        if not able:
            return False
        if self._rng.random() < 0.05:
            self._favoured = self._rng.choice(self._queues)
        stream = self._favoured if self._favoured in able else self._rng.choice(able)
        operation, waits = stream.queue.popleft()
        if not isinstance(operation, LateEvent):
            try:
                with torch.inference_mode():
                    operation()
            except Exception as error:
                self.error = error
                raise RuntimeError("the device has failed") from error
        elif not waits:
            operation.passed = True
        return True

    def raise_error(self) -> None:
        if self.error is not None:
            raise RuntimeError("the device has failed") from self.error


class LateEvent:
    def __init__(self, device: LateDevice) -> None:
        self._device = device
        self.passed = False

    def done(self) -> bool:
        self._device.advance(most=3)
        self._device.raise_error()
        return self.passed

    def wait(self) -> None:
        self._device.raise_error()
        self._device.run_until(self)

    def since(self, earlier: Event) -> float:
        assert isinstance(earlier, LateEvent)
        assert self.passed
        assert earlier.passed
        return 1e-3


class LateStream:
    def __init__(self, device: LateDevice, *, at_once: bool = False) -> None:
        self.queue: deque[tuple[Callable[[], None] | LateEvent, bool]] = deque()
        self.at_once = at_once
        self._device = device

    def waits(self) -> bool:
        """For an event of another stream."""
        operation, wait = self.queue[0]
        return wait and isinstance(operation, LateEvent) and not operation.passed

    def launch(self, work: Callable[[], None]) -> None:
        self._device.add(self, work)

    def record(self) -> LateEvent:
        event = LateEvent(self._device)
        self._device.add(self, event)
        return event

    def follow(self, event: Event) -> None:
        assert isinstance(event, LateEvent)
        self._device.add(self, event, wait=True)
