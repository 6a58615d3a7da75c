"""The queue in a file that holds what ClearML did not get yet."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detloom_integrations.clearml import spool as module
from detloom_integrations.clearml.spool import Spool

LARGE = 1 << 30


def numbers(spool: Spool) -> list[int]:
    return [entry.record["n"] for entry in spool.peek(count=10_000, size_bytes=LARGE)]


def records(*given: int) -> list[dict[str, int]]:
    return [{"n": number} for number in given]


def take(spool: Spool, count: int) -> list[int]:
    entries = spool.peek(count)
    if entries:
        spool.acknowledge(entries[-1], len(entries))
    return [entry.record["n"] for entry in entries]


def test_records_come_out_in_the_order_in_which_they_went_in(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.jsonl", LARGE)
    assert spool.append(records(1, 2)) == 0
    assert spool.append(records(3)) == 0
    assert take(spool, 2) == [1, 2]
    assert take(spool, 2) == [3]
    assert take(spool, 2) == []


def test_what_was_acknowledged_does_not_come_again_after_a_restart(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.jsonl", LARGE)
    spool.append(records(*range(10)))
    take(spool, 4)
    again = Spool(tmp_path / "spool.jsonl", LARGE)
    assert again.waiting == 6
    assert numbers(again) == [4, 5, 6, 7, 8, 9]


def test_a_line_that_was_torn_by_a_crash_is_dropped_and_the_rest_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "spool.jsonl"
    Spool(path, LARGE).append(records(1, 2))
    with path.open("ab") as file:
        file.write(b'{"n": 3, "half')
    spool = Spool(path, LARGE)
    assert spool.waiting == 2
    spool.append(records(4))
    assert numbers(Spool(path, LARGE)) == [1, 2, 4]


def test_a_file_torn_in_its_first_line_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "spool.jsonl"
    path.write_bytes(b'{"spo')
    spool = Spool(path, LARGE)
    spool.append(records(1))
    assert numbers(Spool(path, LARGE)) == [1]


def test_a_spoiled_line_in_the_middle_costs_itself_only(tmp_path: Path) -> None:
    path = tmp_path / "spool.jsonl"
    Spool(path, LARGE).append(records(1, 2, 3))
    path.write_bytes(path.read_bytes().replace(b'{"n": 2}', b'{"n"# 2}'))
    spool = Spool(path, LARGE)
    assert (spool.waiting, numbers(spool)) == (2, [1, 3])


def test_beyond_its_limit_it_keeps_the_first_and_counts_the_others(tmp_path: Path) -> None:
    path = tmp_path / "spool.jsonl"
    line = len(json.dumps({"n": 10}) + "\n")
    head = len(json.dumps({"spool": "0" * 32}) + "\n")
    spool = Spool(path, head + 5 * line)
    assert spool.append(records(*range(10, 20))) == 5
    assert spool.append(records(20)) == 1
    assert numbers(spool) == [10, 11, 12, 13, 14]
    assert path.stat().st_size <= head + 5 * line


def test_what_was_delivered_makes_room(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.jsonl", 200)
    lost = spool.append(records(*range(100, 120)))
    kept = 20 - lost
    assert 0 < kept < 20
    take(spool, kept)
    assert spool.append(records(*range(200, 200 + kept))) == 0
    assert numbers(spool) == list(range(200, 200 + kept))


def test_a_position_in_another_file_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "spool.jsonl"
    spool = Spool(path, LARGE)
    spool.append(records(1, 2, 3))
    take(spool, 2)
    path.unlink()
    again = Spool(path, LARGE)
    again.append(records(7, 8, 9))
    assert numbers(Spool(path, LARGE)) == [7, 8, 9]


def test_a_spoiled_position_sends_again_rather_than_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "spool.jsonl"
    spool = Spool(path, LARGE)
    spool.append(records(1, 2))
    take(spool, 1)
    path.with_suffix(".ack").write_text("{", encoding="utf-8")
    assert numbers(Spool(path, LARGE)) == [1, 2]


def test_a_full_disk_loses_what_it_refuses_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "spool.jsonl"
    spool = Spool(path, LARGE)
    spool.append(records(1))
    whole = module._write_all

    def half(handle: int, data: bytes) -> None:
        whole(handle, data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_write_all", half)
    assert spool.append(records(2, 3)) == 2
    monkeypatch.setattr(module, "_write_all", whole)
    assert spool.append(records(4)) == 0
    assert numbers(Spool(path, LARGE)) == [1, 4]


def test_a_record_that_is_no_json_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.jsonl", LARGE)
    with pytest.raises(ValueError, match="JSON"):
        spool.append([{"n": 1}, {"n": float("nan")}])
    assert spool.waiting == 0
    assert numbers(spool) == []


def test_an_empty_spool_leaves_no_file_behind(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.jsonl", LARGE)
    spool.append(records(1, 2))
    take(spool, 2)
    spool.close()
    assert list(tmp_path.iterdir()) == []


def test_what_waits_stays_on_the_disk(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.jsonl", LARGE)
    spool.append(records(1, 2))
    take(spool, 1)
    spool.close()
    assert numbers(Spool(tmp_path / "spool.jsonl", LARGE)) == [2]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["append", "take", "reopen", "tear"]), st.integers(1, 7)), max_size=25))
def test_it_behaves_like_a_list_whatever_happens_in_between(actions: list[tuple[str, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_COMPACT_BYTES", 120)  # so that files are cut off all the time
        path = Path(folder) / "spool.jsonl"
        spool, model, next_number = Spool(path, LARGE), [], 0
        for action, count in actions:
            if action == "append":
                fresh = list(range(next_number, next_number + count))
                next_number += count
                assert spool.append(records(*fresh)) == 0
                model += fresh
            elif action == "take":
                assert take(spool, count) == model[:count]
                model = model[count:]
            else:
                if action == "tear":
                    with path.open("ab") as file:
                        file.write(b'{"n": 99999')
                spool = Spool(path, LARGE)
            assert (spool.waiting, numbers(spool)) == (len(model), model)
