"""The pipeline computes what it computed: digests of its results, stored in digests.json.

Where this fails, results have changed. If that is meant, `python tests/golden --whole --write`
stores what they are now. If not, `python tests/golden --dump FOLDER`, on this code and on the code
before, writes all that the digests are of, for `diff -r`.
"""

import pytest
import stored
from machine import machine
from outcomes import of_integers, of_model, write_corpus
from scenarios import CAPTURE, EXCHANGED, OF_THE_MODEL, SUMMARIES, TOGETHER, WORKERS

ANYWHERE, MACHINES = (stored.load()[k] for k in ("anywhere", "machines"))


@pytest.fixture(scope="module")
def integers(ray_local, tmp_path_factory):
    return of_integers(tmp_path_factory.mktemp("integers"))


@pytest.fixture(scope="module")
def part(ray_local, tmp_path_factory):
    work = tmp_path_factory.mktemp("part")
    write_corpus(work / "corpus")
    return of_model(work, work / "corpus", CAPTURE)


@pytest.fixture(scope="module")
def here():
    """What is stored for machines of this kind."""
    kind = machine()
    known = MACHINES.get(kind, {})

    def stored_of(corpus, name):
        if name not in known.get(corpus, {}):
            pytest.skip(
                f"{corpus} / {name} is not stored for machines of the kind {kind!r}; on code that "
                "is known to be right, `python tests/golden --whole --write` stores it"
            )
        return known[corpus][name]

    return stored_of


@pytest.mark.parametrize("name", TOGETHER)
def test_selections_from_whole_numbers_on_any_machine(integers, name):
    assert integers.of(name, TOGETHER[name]) == ANYWHERE["integers"][name]


def test_any_number_of_workers_exchanges_to_the_same(integers):
    name = EXCHANGED[0]
    found = integers.of(f"{name}, 3 workers", TOGETHER[name] | WORKERS)
    assert found == ANYWHERE["integers"][name]


def test_rows_are_read_alike_on_any_machine(part):
    assert part.reading() == ANYWHERE["part"]["reading"]


def test_states(part, here):
    assert part.captured() == here("part", "states")


@pytest.mark.parametrize("name", OF_THE_MODEL)
def test_selections_from_states_of_the_model(part, here, name):
    assert part.of(name, OF_THE_MODEL[name]) == here("part", name)


@pytest.mark.parametrize("name", SUMMARIES)
def test_a_tree_of_summaries(integers, here, name):
    assert integers.of(name, SUMMARIES[name]) == here("integers", name)
