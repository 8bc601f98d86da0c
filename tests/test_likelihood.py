"""Mean log-probabilities of a causal language model: against a sum by hand, with and without padding."""

import math

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import tiny
from small import params
from stillsmall import cache, compute, likelihood, manifest


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    tokenizer = tiny.tokenizer()
    torch.manual_seed(0)
    end = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    shape = {"n_positions": 24, "n_embd": 16, "n_layer": 2, "n_head": 2, "bos_token_id": end, "eos_token_id": end}
    GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), initializer_range=0.5, **shape)).save_pretrained(
        folder / "lm"
    )
    tokenizer.save_pretrained(folder / "lm")
    return folder


def changed(**values):
    return params(**{"score.language_model": "lm", "score.device": "cpu", **values})


def test_the_mean_is_over_every_token_after_the_beginning(models):
    at = changed()
    scorer = likelihood.Likelihood(at.score, at.run, str(models))
    texts = ["the cat", "a much longer text", "the"]
    found = scorer.mean_logprobs(texts)
    for text, mean in zip(texts, found, strict=True):
        ids = [scorer.tokenizer.bos_token_id, *scorer.tokenizer(text, add_special_tokens=False)["input_ids"]]
        with torch.inference_mode():
            probabilities = scorer.model(torch.tensor([ids])).logits[0].softmax(-1)
        by_hand = [math.log(probabilities[n, token]) for n, token in enumerate(ids[1:])]
        assert mean == pytest.approx(sum(by_hand) / len(by_hand), abs=1e-4)
    one_by_one = [scorer.mean_logprobs([text])[0] for text in texts]
    assert found == pytest.approx(one_by_one, abs=1e-4)  # padding does not matter


def test_an_empty_text_and_one_beyond_the_positions_have_none(models):
    at = changed()
    scorer = likelihood.Likelihood(at.score, at.run, str(models))
    assert scorer.mean_logprobs(["", "  ", "long " * 200]) == [None, None, None]


def test_labels_are_measured_once(models, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "ROOT", tmp_path / "cache")
    row = {"utt_id": "a", "parent": "a", "start_s": 0.0, "end_s": 1.0, "language": "en", "text": "the cat"}
    path = tmp_path / "labels" / "shard-0-x.parquet"
    manifest.write(path, [row | {"segments": [], "tokens": []}], manifest.HYPOTHESIS)
    at = changed()
    (made,) = likelihood.measured([path], at.score, at.run, str(models)).values()
    ((only,), before) = manifest.rows(made, manifest.LIKELIHOOD), made.read_bytes()
    assert only["utt_id"] == "a" and only["lm_logprob"] < 0
    monkeypatch.setattr(likelihood, "Likelihood", lambda *_: pytest.fail("the model was loaded again"))
    assert likelihood.measured([path], at.score, at.run, str(models))[path.name].read_bytes() == before


def test_a_folder_that_is_not_there_is_named(models):
    with pytest.raises(compute.ModelError, match=r"score\.language_model: no folder 'lmm' under models\.root="):
        likelihood.locate(changed(**{"score.language_model": "lmm"}).score, str(models))
