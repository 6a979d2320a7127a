import threading
import time
from concurrent.futures import CancelledError

import numpy as np
import pytest
from support.color_engine import ColorEngine

from semseg_app.inference.engines.halves import Halves
from semseg_app.serve.scheduling.queue import Batcher


class Gated(ColorEngine):
    """Notes the first pixel of every image of every call; waits in each for `gate`."""

    def __init__(self, gate: threading.Event | None = None, seconds: float = 0.0):
        super().__init__(seconds)
        self.gate = gate
        self.entered = threading.Event()
        self.calls: list[list[int]] = []

    def infer(self, images):
        self.calls.append(images[:, 0, 0, 0].tolist())
        self.entered.set()
        assert self.gate is None or self.gate.wait(10)
        return super().infer(images)


def image(value: int, height: int = 4, width: int = 6) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


class Half(Gated):
    """Takes two calls at once: each waits in `together` for another."""

    def __init__(self):
        super().__init__()
        self.together = threading.Barrier(2)

    def infer(self, images):
        self.calls.append(images[:, 0, 0, 0].tolist())
        self.together.wait(10)
        return ColorEngine().infer(images)


@pytest.fixture(params=[1, 2], ids=["one worker", "two workers"])
def make(request):
    """Make batchers that are closed in the end. An engine without a half has the same from any number of workers."""
    made = []

    def make(**options) -> Batcher:
        made.append(Batcher(**{"workers": request.param} | options))
        return made[-1]

    yield make
    for batcher in made:
        batcher.close()


def occupied(make, **options):
    """A batcher, a queue and an engine that is busy with image 0 until `gate` opens."""
    gate = threading.Event()
    engine = Gated(gate)
    batcher = make(**options)
    queue = batcher.queue(engine, "one")
    first = queue.submit(image(0))
    assert engine.entered.wait(10)
    return batcher, queue, engine, gate, first


def test_what_waits_goes_together_by_size_oldest_first(make):
    sizes = []
    _, queue, engine, gate, first = occupied(make, max_batch=3, observe=lambda name, images: sizes.append(images))
    futures = [queue.submit(image(value, height)) for value, height in enumerate([4, 8, 4, 4, 4, 8], start=1)]
    gate.set()
    runs = [future.result(10) for future in futures]
    assert first.result(10).batch == 1
    assert engine.calls == [[0], [1, 3, 4], [2, 6], [5]]
    assert [run.batch for run in runs] == [3, 2, 3, 3, 1, 2]
    assert sizes == [1, 3, 2, 1]
    for value, height, run in zip(range(1, 7), [4, 8, 4, 4, 4, 8], runs, strict=True):
        np.testing.assert_array_equal(run.confidence, np.full((height, 6), value))
    assert runs[0].wait_ms > 0


def test_one_that_comes_alone_does_not_wait_and_one_of_several_does(make):
    engine = Gated()
    queue = make(max_batch=4, max_delay_s=5).queue(engine, "one")
    start = time.perf_counter()
    queue.submit(image(1)).result(10)
    assert time.perf_counter() - start < 1

    queue.expect(1)
    queue.expect(1)
    early = queue.submit(image(2))
    queue.expect(-1)
    time.sleep(0.05)
    assert not early.done()  # another one is on its way
    queue.submit(image(3))
    queue.expect(-1)
    early.result(10)
    # On its way, and then it does not come.
    queue.expect(1)
    lone = queue.submit(image(4))
    queue.expect(-1)
    lone.result(10)
    assert engine.calls == [[1], [2, 3], [4]]
    assert time.perf_counter() - start < 2


def test_nobody_waits_longer_than_the_delay(make):
    engine = Gated()
    queue = make(max_batch=4, max_delay_s=0.05).queue(engine, "one")
    queue.expect(1)  # stuck
    start = time.perf_counter()
    queue.submit(image(1)).result(10)
    assert 0.045 < time.perf_counter() - start < 1


def test_earlier_images_go_first_whenever_they_are_handed_in(make):
    """A tile of a large image that is behind its pace overtakes."""
    _, queue, engine, gate, first = occupied(make)
    now = time.perf_counter()
    futures = [queue.submit(image(1)), queue.submit(image(2)), queue.submit(image(3), asked=now - 5)]
    futures += [queue.submit(image(4), asked=now - 9), queue.submit(image(5))]
    gate.set()
    for future in [first, *futures]:
        future.result(10)
    assert engine.calls == [[0], [4], [3], [1], [2], [5]]
    assert 9000 < futures[3].result().wait_ms < 11_000


def test_cancelled_in_time_never_enters_the_engine_and_makes_room(make):
    _, queue, engine, gate, first = occupied(make)
    waiting = [queue.submit(image(value)) for value in (1, 2)]
    assert waiting[0].cancel()
    assert len(queue) == 1
    third = queue.submit(image(3))
    assert not first.cancel()  # it has begun
    gate.set()
    third.result(10)
    assert engine.calls == [[0], [2], [3]]
    with pytest.raises(CancelledError):
        waiting[0].result()


def test_a_failure_reaches_all_of_its_batch_and_nobody_else(make):
    _, queue, engine, gate, _ = occupied(make, max_batch=2)
    infer = engine.infer
    engine.infer = lambda images: 1 / 0 if images[0, 0, 0, 0] == 1 else infer(images)
    futures = [queue.submit(image(value)) for value in (1, 2, 3)]
    gate.set()
    for future in futures[:2]:
        with pytest.raises(ZeroDivisionError):
            future.result(10)
    np.testing.assert_array_equal(futures[2].result(10).confidence, 3)


def test_a_replaced_engine_still_answers_what_was_meant_for_it(make):
    _, queue, old, gate, first = occupied(make, max_batch=4)
    before = queue.submit(image(1))
    queue.engine = new = Gated()
    after = queue.submit(image(2))
    gate.set()
    assert [first.result(10).engine, before.result(10).engine, after.result(10).engine] == [old, old, new]
    assert (old.calls, new.calls) == ([[0], [1]], [[2]])


def test_models_share_the_device_by_time_not_by_requests(make):
    batcher = make()
    slow, fast = ColorEngine(seconds=0.04), ColorEngine(seconds=0.01)
    queues = [batcher.queue(slow, "slow"), batcher.queue(fast, "fast")]
    # The slow one has had the device for a while, which must not count against it later, nor for the newcomer.
    for _ in range(5):
        queues[0].submit(image(0)).result(10)
    order: list[str] = []
    futures = []
    for queue in queues:
        for _ in range(40):
            futures.append(queue.submit(image(1)))
            futures[-1].add_done_callback(lambda _, name=queue.name: order.append(name))
    while order.count("fast") < 24:
        time.sleep(0.005)
    # Equal time: four fast ones for each slow one, although all the slow ones came first.
    assert 4 <= order.count("slow") <= 8
    for future in futures:
        future.cancel()


@pytest.mark.parametrize("workers", [1, 2])
def test_closing_finishes_what_waits_and_takes_nothing_more(workers):
    gate = threading.Event()
    engine = Gated(gate)
    batcher = Batcher(max_delay_s=60, max_batch=4, workers=workers)
    queue = batcher.queue(engine, "one")
    futures = [queue.submit(image(1))]
    assert engine.entered.wait(10)
    queue.expect(1)
    futures += [queue.submit(image(2)), queue.submit(image(3))]
    closing = threading.Thread(target=batcher.close)
    closing.start()
    gate.set()
    closing.join(10)
    assert all(future.done() for future in futures)
    with pytest.raises(RuntimeError, match="stopping"):
        queue.submit(image(4))


def test_whole_work_is_for_a_worker_that_is_idle_or_has_few_cores(make):
    _, queue, _, gate, first = occupied(make)
    assert not queue.submit_whole(lambda: None)
    gate.set()
    first.result(10)
    done = threading.Event()
    deadline = time.perf_counter() + 10
    while not queue.submit_whole(done.set):  # it says that the image is done a little before it is idle
        assert time.perf_counter() < deadline
    assert done.wait(10)


def test_whole_work_waits_its_turn(make):
    _, queue, engine, gate, _ = occupied(make, few_cores=True)
    runs = []
    assert queue.submit_whole(lambda: runs.append(queue.run_now(image(1), waited_s=0.5, confidence=True)))
    second = queue.submit_whole(lambda: runs.append(queue.run_now(image(9), waited_s=0, confidence=True)))
    assert second.cancel()
    assert queue.submit_whole(lambda: runs.append(queue.run_now(image(2), waited_s=0.25, confidence=True)))
    gate.set()
    last = queue.submit(image(3))
    assert last.result(10).batch == 1
    assert engine.calls == [[0], [1], [2], [3]]
    assert [run.confidence[0, 0] for run in runs] == [1, 2]
    assert 500 <= runs[0].wait_ms < 700
    assert 250 <= runs[1].wait_ms < 450


def test_exclusive_work_has_the_device_to_itself(make):
    batcher, _, engine, gate, first = occupied(make)
    done: list[int] = []
    exclusive = batcher.run_exclusive(lambda: done.append(len(engine.calls)))
    failing = batcher.run_exclusive(lambda: 1 / 0)
    time.sleep(0.02)
    assert not done
    gate.set()
    exclusive.result(10)
    with pytest.raises(ZeroDivisionError):
        failing.result(10)
    first.result(10)
    assert done == [1]


def test_one_alone_has_all_cores_and_two_at_a_time_have_half_of_them_each(make):
    gate = threading.Event()
    whole, half = Gated(gate), Half()
    queue = make(workers=2).queue(Halves(whole, half), "one")
    alone = queue.submit(image(1))
    assert whole.entered.wait(10)
    others = [queue.submit(image(2)), queue.submit(image(3))]
    while not half.calls:  # the first of them did not wait for the one that has all cores
        time.sleep(0.001)
    gate.set()
    runs = [future.result(10) for future in (alone, *others)]  # both are in the half at once, else it fails
    assert (whole.calls, half.calls) == ([[1]], [[2], [3]])
    assert [run.confidence[0, 0] for run in runs] == [1, 2, 3]
    assert queue.submit(image(4)).result(10).confidence[0, 0] == 4
    assert whole.calls[-1] == [4]


def test_whole_work_goes_two_at_a_time_too(make):
    half = Half()
    queue = make(workers=2, few_cores=True).queue(Halves(Gated(), half), "one")
    begun = threading.Barrier(2)

    def work(value: int) -> None:
        begun.wait(10)
        runs.append(queue.run_now(image(value), waited_s=0, confidence=False))

    runs = []
    assert all(queue.submit_whole(lambda value=value: work(value)) for value in (1, 2))
    queue.submit(image(3)).cancel()
    deadline = time.perf_counter() + 10
    while len(runs) < 2:
        assert time.perf_counter() < deadline
        time.sleep(0.001)
    assert sorted(half.calls) == [[1], [2]]


def test_an_engine_without_a_half_is_never_beside_others_and_gets_its_turn(make):
    inside: list[str] = []
    seen: list[tuple[str, ...]] = []

    class Watched(Gated):
        def __init__(self, name: str):
            super().__init__()
            self.kind = name

        def infer(self, images):
            inside.append(self.kind)
            seen.append(tuple(inside))
            time.sleep(0.002)
            inside.remove(self.kind)
            return ColorEngine().infer(images)

    batcher = make(workers=2)
    pairs = batcher.queue(Halves(Watched("whole"), Watched("half")), "pairs")
    plain = batcher.queue(Watched("plain"), "plain")
    futures = [pairs.submit(image(1)) for _ in range(40)]
    futures += [plain.submit(image(2)) for _ in range(5)]
    done = plain.submit(image(3))
    futures += [pairs.submit(image(1)) for _ in range(40)]
    done.result(10)
    assert sum(future.done() for future in futures) < 60
    for future in futures:
        future.result(10)
    assert ("half", "half") in seen
    assert {names for names in seen if "plain" in names} == {("plain",)}
