"""The queue of `viewfold serve`: whose turn it is, who has what, and what is left when somebody dies."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from viewfold.errors import InputError, OutputError
from viewfold.serve.database import QueueError
from viewfold.serve.job import is_id, new_id
from viewfold.serve.queue import ATTEMPTS, Queue, QueueFull, QueueLimits


@pytest.fixture
def queue(tmp_path: Path) -> Queue:
    return Queue(tmp_path / "queue.sqlite")


def put(queue: Queue, owner: str = "ann", title: str = "a red mug", **more: object):
    return queue.submit(owner, "make", title, {"prompt": title}, **more)


def claimed(queue: Queue, times: int) -> list[str]:
    found = []
    for number in range(times):
        job = queue.claim(f"w{number}")
        found.append("-" if job is None else job.title)
    return found


def test_names_sort_as_they_were_made_and_are_all_different():
    names = [new_id(now=moment) for moment in (1.0, 1.5, 2.0, 4e9)]
    assert names == sorted(names) and len({new_id(now=1.0) for _ in range(200)}) == 200
    assert all(map(is_id, names)) and not any(map(is_id, ("", "x" * 26 + "\n", "../" * 9, names[0].upper())))


def test_a_job_is_what_was_put_in_whoever_reads_it(queue: Queue, tmp_path: Path):
    job = put(queue)
    again = Queue(tmp_path / "queue.sqlite").get(job.id)
    assert again == job and again.request == {"prompt": "a red mug"} and again.state == "queued"


def test_nobody_sees_another_ones_jobs(queue: Queue):
    job = put(queue, "ann")
    assert queue.get(job.id, owner="bob") is None and queue.list("bob") == [] and queue.count("bob") == 0
    assert queue.cancel(job.id, "bob") is None and not queue.hide(job.id, "bob")
    assert queue.get(job.id).state == "queued" and not queue.get(job.id).cancel


def test_owners_take_turns_and_each_ones_jobs_keep_their_order(queue: Queue):
    for title in ("a1", "a2", "a3", "a4"):
        put(queue, "ann", title)
    for title in ("b1", "b2"):
        put(queue, "bob", title)
    put(queue, "cy", "c1")
    assert claimed(queue, 8) == ["a1", "b1", "c1", "a2", "b2", "a3", "a4", "-"]


def test_who_was_away_saves_up_no_turns(queue: Queue):
    put(queue, "bob", "b0")
    assert claimed(queue, 1) == ["b0"]
    queue.finish(queue.running()[0].id, "w0", "done")
    for number in range(6):
        put(queue, "ann", f"a{number}")
    assert claimed(queue, 4) == ["a0", "a1", "a2", "a3"]
    for number in range(1, 4):
        put(queue, "bob", f"b{number}")
    # One turn each from here on, though four were ann's while bob asked for nothing.
    assert claimed(queue, 5) == ["a4", "b1", "a5", "b2", "b3"]


def test_the_position_counts_those_that_are_surely_before(queue: Queue):
    jobs = [put(queue, "ann", f"a{n}") for n in range(3)] + [put(queue, "bob", f"b{n}") for n in range(2)]
    assert [queue.position(job) for job in jobs] == [1, 3, 4, 1, 3]
    first = queue.claim("w0")
    assert first is not None and queue.position(first) is None
    assert queue.position(jobs[3]) == 2


def test_an_owner_has_no_more_running_than_the_limit(tmp_path: Path):
    queue = Queue(tmp_path / "q", limits=QueueLimits(at_once_each=1))
    for title in ("a1", "a2"):
        put(queue, "ann", title)
    put(queue, "bob", "b1")
    assert claimed(queue, 3) == ["a1", "b1", "-"]


def test_full_is_said_of_one_and_of_all_and_running_jobs_take_no_room(tmp_path: Path):
    queue = Queue(tmp_path / "q", limits=QueueLimits(queued=3, queued_each=2))
    put(queue), put(queue)
    with pytest.raises(QueueFull, match="2 of you wait already, and 2 may"):
        put(queue)
    put(queue, "bob")
    with pytest.raises(QueueFull, match="3 of all"):
        put(queue, "cy")
    queue.claim("w")
    put(queue, "cy")


def test_the_same_key_is_the_same_job_and_another_request_under_it_is_refused(queue: Queue):
    first = put(queue, key="k" * 8)
    assert put(queue, key="k" * 8).id == first.id and queue.count("ann") == 1
    assert put(queue, "bob", key="k" * 8).id != first.id
    with pytest.raises(InputError, match="Idempotency-Key"):
        put(queue, title="a blue mug", key="k" * 8)


def test_a_waiting_job_is_cancelled_at_once_and_a_running_one_is_asked(queue: Queue):
    waits, runs = put(queue, title="waits"), put(queue, title="runs")
    assert queue.cancel(waits.id, "ann") == queue.get(waits.id)
    assert queue.get(waits.id).state == "cancelled" and queue.get(waits.id).finished is not None
    assert queue.claim("w").id == runs.id and queue.is_wanted(runs.id, "w") and not queue.is_wanted(runs.id, "other")
    queue.cancel(runs.id, "ann")
    assert queue.get(runs.id).state == "running" and not queue.is_wanted(runs.id, "w")
    assert queue.finish(runs.id, "w", "cancelled") and queue.get(runs.id).state == "cancelled"
    queue.cancel(runs.id, "ann")
    assert queue.get(runs.id).state == "cancelled"


def test_only_the_worker_that_has_a_job_ends_it(queue: Queue):
    job = put(queue)
    queue.claim("w")
    assert not queue.finish(job.id, "other", "done") and queue.get(job.id).state == "running"
    assert queue.finish(job.id, "w", "done", result={"faces": 3}) and queue.get(job.id).result == {"faces": 3}
    nan = put(queue)
    queue.claim("w")
    queue.finish(nan.id, "w", "done", result={"agreement": float("nan"), "loss": float("inf")})
    assert queue.get(nan.id).result == {"agreement": None, "loss": None}
    assert not queue.finish(job.id, "w", "failed") and queue.get(job.id).state == "done"


def test_what_a_dead_worker_had_comes_before_all_others_and_is_given_up_after_so_many_deaths(queue: Queue):
    job = put(queue, title="deadly")
    for number in range(ATTEMPTS):
        put(queue, "bob", f"b{number}")
        assert queue.claim("w").title == "deadly"
        assert queue.give_back("w", died=True) == [job.id]
    gone = queue.get(job.id)
    assert gone.state == "failed" and gone.error["code"] == "worker_died" and gone.resumed == ATTEMPTS == 3
    assert gone.finished is not None and "3 times" in gone.error["message"]


def test_a_worker_that_is_told_to_go_costs_its_job_no_attempt(queue: Queue):
    job = put(queue)
    for _ in range(ATTEMPTS + 2):
        queue.claim("w")
        queue.give_back("w", died=False)
    assert queue.get(job.id).state == "queued" and queue.get(job.id).resumed == 0


def test_a_job_that_was_cancelled_while_its_worker_died_is_cancelled(queue: Queue):
    job = put(queue)
    queue.claim("w")
    queue.cancel(job.id, "ann")
    queue.give_back("w", died=True)
    assert queue.get(job.id).state == "cancelled"


def test_the_list_is_newest_first_in_pages_by_state_and_by_words(queue: Queue):
    jobs = [put(queue, title=title) for title in ("a red mug", "a Blue car", "a red car", "100% _ red")]
    queue.cancel(jobs[0].id, "ann")
    assert [job.title for job in queue.list("ann", limit=2)] == ["100% _ red", "a red car"]
    assert [job.title for job in queue.list("ann", before=jobs[2].number)] == ["a Blue car", "a red mug"]
    assert [job.title for job in queue.list("ann", states=["cancelled"])] == ["a red mug"]
    assert [job.title for job in queue.list("ann", words="CAR blue")] == ["a Blue car"]
    assert [job.title for job in queue.list("ann", words="%")] == ["100% _ red"]
    assert queue.list("ann", words="' OR 1=1 --") == []


def test_deleted_jobs_are_gone_at_once_and_forgotten_once_they_are_over(queue: Queue):
    waits, runs = put(queue, title="waits"), put(queue, title="runs")
    queue.cancel(waits.id, "ann"), queue.claim("w")
    assert queue.hide(waits.id, "ann") and queue.hide(runs.id, "ann") and not queue.hide(runs.id, "ann")
    assert queue.list("ann") == [] and queue.get(runs.id) is None and queue.hidden() == [waits.id]
    assert not queue.is_wanted(runs.id, "w")
    queue.finish(runs.id, "w", "cancelled")
    assert sorted(queue.hidden()) == sorted([waits.id, runs.id])
    queue.forget(waits.id)
    assert queue.hidden() == [runs.id]


def test_a_clock_that_jumps_changes_no_turn_and_gives_nothing_to_two(queue: Queue, monkeypatch: pytest.MonkeyPatch):
    for moment, title in ((2e9, "from the future"), (0.0, "from the past"), (-5.0, "from before that")):
        monkeypatch.setattr("viewfold.serve.queue.time.time", lambda moment=moment: moment)
        put(queue, title=title)
    first = queue.claim("w")
    assert first is not None and first.title == "from the future"
    monkeypatch.setattr("viewfold.serve.queue.time.time", lambda: 4e9)  # a lease by the clock would be over
    assert claimed(queue, 3) == ["from the past", "from before that", "-"]
    assert queue.is_wanted(first.id, "w") and queue.finish(first.id, "w", "done")


def test_threads_that_claim_together_get_different_jobs(queue: Queue):
    names = [put(queue, f"owner{n % 7}").id for n in range(60)]
    found: list[str] = []

    def claim(worker: str) -> None:
        while (job := queue.claim(worker)) is not None:
            found.append(job.id)

    threads = [threading.Thread(target=claim, args=(f"w{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == sorted(names)


def test_a_process_that_is_killed_while_it_writes_leaves_the_queue_sound(queue: Queue, tmp_path: Path):
    put(queue)
    code = (
        "import os, signal\n"
        "from viewfold.serve.queue import Queue\n"
        f"queue = Queue({str(tmp_path / 'queue.sqlite')!r})\n"
        "with queue.file.writing() as db:\n"
        "    db.execute(\"UPDATE job SET state = 'running', worker = 'w'\")\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    assert queue.claim("next").title == "a red mug"


def test_a_number_tells_that_another_connection_wrote(queue: Queue, tmp_path: Path):
    before = queue.revision()
    assert queue.revision() == before
    put(Queue(tmp_path / "queue.sqlite"))
    assert queue.revision() != before


def test_a_damaged_file_is_named_and_left_as_it_is(tmp_path: Path):
    path = tmp_path / "queue.sqlite"
    queue = Queue(path)
    for _ in range(50):
        put(queue, f"owner{_}")
    queue.close()
    damaged = bytearray(path.read_bytes())
    damaged[4096:12288] = b"\xff" * 8192
    path.write_bytes(damaged)
    with pytest.raises(QueueError, match="must be a sound SQLite file"):
        Queue(path)
    assert path.read_bytes() == bytes(damaged)
    path.write_bytes(b"no database" * 100)
    with pytest.raises(QueueError, match="not a database"):
        Queue(path)


def test_a_damaged_file_names_the_copy_that_was_made_of_it_and_that_one_works(tmp_path: Path):
    path = tmp_path / "queue.sqlite"
    queue = Queue(path)
    job = put(queue)
    copy = queue.file.back_up()
    put(queue)
    queue.close()
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(QueueError, match=r"Put `.*queue\.backup\.sqlite` of 20\d\d-.* in its place"):
        Queue(path)
    copy.replace(path)
    assert [found.id for found in Queue(path).list("ann")] == [job.id]


def test_a_file_of_another_version_is_refused(tmp_path: Path):
    path = tmp_path / "queue.sqlite"
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 7")
    db.close()
    with pytest.raises(QueueError, match="version 1; got 7"):
        Queue(path)


def test_a_full_disk_is_said_in_words_and_nothing_is_half_written(queue: Queue):
    put(queue)
    pages = queue.file.connection().execute("PRAGMA page_count").fetchone()[0]
    queue.file.connection().execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(OutputError, match="full"):
        for _ in range(200):
            put(queue, f"owner{_}", "long " * 150)
    assert queue.claim("w") is not None
    assert queue.counts()["running"] == 1
