"""Processes that die or hang over a row's text, before the model sees any of it."""

import multiprocessing
import os
import threading
import time

import numpy as np
import pytest

import mads_ray.capture.shard as shard_module
from mads_ray.capture.engines.engine import RunStats
from mads_ray.capture.history import heartbeats, read_history, record_deaths
from mads_ray.capture.journal import Journal
from mads_ray.capture.shard import tokenise, tokenised_windows
from mads_ray.corpus.conversation import Conversation, Message

KEY = "part-0"


def texts(rows, **deadly):
    """Conversations that say their number; `deadly`: what rows of these numbers say instead."""
    said = {f"row {i}": f"row {i}" for i in range(rows)} | {
        f"row {i}": word for word, numbers in deadly.items() for i in numbers
    }
    return [Conversation((Message("user", text),)).to_json() for text in said.values()]


def one_process(renderer, folder, messages, ends=lambda _: False):
    """({row: token ids}, windows that were run, failures) of a process over a shard."""
    stats, windows = RunStats(), []
    with Journal(folder, KEY, "p") as journal:
        stats.failures.update(journal.history.poison)
        found = {}
        for examples in tokenised_windows(renderer, messages, stats, journal):
            windows.append(list(examples))
            for row in journal.left(list(examples)):
                journal.begin([row])
                if ends(row):
                    os._exit(9)
                journal.end([row])
            found |= {i: e.ids_T.tolist() for i, e in examples.items()}
    return found, windows, stats.failures


class Deadly:
    """The real renderer, in a process that ends or hangs over some texts."""

    def __init__(self, renderer, folder):
        self._renderer, self._flag = renderer, folder / "hung"

    def __call__(self, conversation):
        if conversation.messages[0].content == "ends":
            os._exit(9)
        if conversation.messages[0].content == "hangs":
            self._flag.touch()
            time.sleep(600)
        if conversation.messages[0].content == "ahead" and threading.current_thread() is not MAIN:
            time.sleep(600)  # the model's process is faster
        return self._renderer(conversation)


MAIN = threading.main_thread()


def deaths_until_done(renderer, folder, messages, **model):
    """What the first process has that lives to the end, and how many died or hung before it."""
    context = multiprocessing.get_context("fork")
    open_, flag = folder / "open", folder / "hung"
    open_.mkdir()
    args = (Deadly(renderer, folder), open_, messages)
    for deaths in range(14):
        child = context.Process(target=one_process, args=args, kwargs=model, daemon=True)
        child.start()
        while child.is_alive() and not flag.exists():
            child.join(0.1)
        if flag.exists():
            child.kill()  # as the pool does after `ray.hang_s`
            flag.unlink()
        child.join(60)
        if child.exitcode == 0:
            return *one_process(*args), deaths
        record_deaths(open_, KEY, lambda owner: True)
    raise AssertionError("no process lived to the end")


@pytest.fixture(autouse=True)
def _small_groups(monkeypatch):
    monkeypatch.setattr(shard_module, "_GROUP_ROWS", 4)


@pytest.mark.parametrize("how", ["ends", "hangs"])
def test_a_row_whose_text_takes_its_process_is_given_up_after_four(renderer, tmp_path, how):
    messages = texts(20, **{how: [6]})
    found, windows, failures, deaths = deaths_until_done(renderer, tmp_path, messages)
    assert deaths == 4
    assert list(failures) == [6]
    assert failures[6].reason == "ends_the_process"
    assert "4 processes ended or hung while they rendered and tokenised this row" in str(
        failures[6]
    )
    wanted, planned, _ = one_process(renderer, None, texts(20))
    del wanted[6]
    assert found == wanted
    assert windows == [[i for i in window if i != 6] for window in planned]


def test_more_of_them_in_one_group_and_in_another(renderer, tmp_path):
    messages = texts(20, ends=[5, 6], hangs=[7, 13])
    found, _, failures, deaths = deaths_until_done(renderer, tmp_path, messages)
    assert sorted(failures) == [5, 6, 7, 13]
    assert sorted(found) == [i for i in range(20) if i not in failures]
    assert deaths == 12  # two together and two alone for each group, then two for each further row


def test_a_text_at_hand_while_the_model_dies_of_a_row_is_innocent(renderer, tmp_path):
    """The row is of the window that runs, the text of the next one, which a thread tokenises."""
    messages = texts(64, ahead=[40])
    messages[3] = Conversation((Message("user", "the longest " * 30),)).to_json()

    def ends(row):
        time.sleep(0.3 if row == 3 else 0)
        return row == 3

    found, windows, failures, deaths = deaths_until_done(renderer, tmp_path, messages, ends=ends)
    assert windows[0][:1] == [3]
    assert deaths == 4
    assert list(failures) == [3]
    assert "while the model ran this row" in str(failures[3])
    assert sorted(found) == list(range(64))
    history = read_history(tmp_path / "open", KEY)
    assert set(history.text_deaths.values()) == {1}


def test_every_group_of_texts_is_a_sign_of_life(renderer, tmp_path):
    seen = []

    def noting(messages):
        seen.append(heartbeats(tmp_path)[KEY])
        return renderer(messages)

    with Journal(tmp_path, KEY, "a") as journal:
        tokenise(noting, dict(enumerate(texts(20))), RunStats(), journal)
    assert len(set(seen)) == 5
    assert seen == sorted(seen)
    assert not read_history(tmp_path, KEY).suspicious


def test_a_long_text_is_a_group_of_its_own(renderer, tmp_path, monkeypatch):
    monkeypatch.setattr(shard_module, "_GROUP_CHARS", 400)
    groups = []

    class Noting(Journal):
        def reading(self, rows):
            groups.append(list(rows))
            return super().reading(rows)

    messages = texts(9)
    messages[2] = Conversation((Message("user", "word " * 100),)).to_json()
    examples = tokenise(renderer, dict(enumerate(messages)), RunStats(), Noting())
    assert groups == [[0, 1], [2], [3, 4, 5, 6], [7, 8]]
    assert list(examples) == list(range(9))


def test_a_text_that_was_told_of_is_no_death(tmp_path):
    journal = Journal(tmp_path, KEY, "a")
    with pytest.raises(KeyError), journal.reading([1]):
        raise KeyError
    record_deaths(tmp_path, KEY, lambda owner: True)
    assert not read_history(tmp_path, KEY).suspicious


def test_a_row_that_was_kept_and_is_deadly_since_is_given_up(tmp_path):
    """Else its text would end every process of the shard."""
    journal = Journal(tmp_path, KEY, "a")
    journal.keep([5], np.zeros((1, 4), np.int16))
    open_blocks = []  # that nobody leaves
    for _ in range(4):
        open_blocks.append(Journal(tmp_path, KEY, "b").reading([5]))
        open_blocks[-1].__enter__()
        record_deaths(tmp_path, KEY, lambda owner: True)
    history = read_history(tmp_path, KEY)
    assert list(history.poison) == list(history.unreadable) == [5]
    assert history.repeated == 0
