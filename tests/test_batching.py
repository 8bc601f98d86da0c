"""Batches that run out of memory are halved and go on; what fails alone is named; nothing else is lost."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stillsmall.config import ConfigError
from stillsmall.teachers.batching import Batches, Trouble


def above(most, error, sizes=None):
    def work(items):
        if sizes is not None:
            sizes.append(len(items))
        if len(items) > most:
            raise error
        return [item * 10 for item in items]

    return work


ERRORS = [
    torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    RuntimeError("CUDA failed with error out of memory"),  # ctranslate2
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
    MemoryError(),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_full_memory_halves_the_batch_and_the_size_that_works_is_kept_and_said(error, capsys):
    sizes = []
    batches = Batches(8, "pseudo_label")
    assert batches.run(range(10), above(3, error, sizes)) == [i * 10 for i in range(10)]
    assert sizes == [8, 4, 2, 2, 2, 2, 2]
    assert batches.size == 2
    assert "pseudo_label.batch_size: memory ran out; 2 works" in capsys.readouterr().err


@given(st.integers(0, 30), st.integers(1, 12), st.integers(1, 12))
def test_the_result_does_not_depend_on_the_size_that_fits(items, size, most):
    made = Batches(size, "x").run(list(range(items)), above(most, MemoryError()))
    assert made == [i * 10 for i in range(items)]


def test_what_does_not_fit_alone_is_named_and_the_rest_is_done():
    made = Batches(4, "x").run([1, 2, 3], above(0, MemoryError("a lot")))
    assert made == [Trouble("out_of_memory", "a lot")] * 3


def test_one_bad_item_does_not_take_its_batch_along():
    def work(items):
        if 3 in items:
            raise RuntimeError("bad\nitem")
        return items

    batches = Batches(4, "x")
    assert batches.run([1, 2, 3, 4, 5], work) == [1, 2, Trouble("RuntimeError", "bad item"), 4, 5]
    assert batches.size == 4, "a bad item is no reason for smaller batches"


def test_a_fault_of_the_configuration_is_not_an_items():
    def work(items):
        raise ConfigError("language: unknown")

    with pytest.raises(ConfigError, match="language"):
        Batches(2, "x").run([1, 2], work)
