"""Objectives that weigh and mix, on live models of both families: shapes fit, gradients flow, losses fall."""

import pytest
import torch
from transformers import Wav2Vec2Config, Wav2Vec2ForCTC, WhisperConfig, WhisperForConditionalGeneration

from objective_signals import CE, KL, made
from stillsmall.objectives.base import IGNORED, Signals, reduce, sample_mean, task_loss

VOCABULARY = 20
HIDDEN = {"kind": "hidden", "weight": 1.0, "layers": "even", "project": True, "inner": KL}


def whisper(width, layers):
    torch.manual_seed(layers)
    return WhisperForConditionalGeneration(
        WhisperConfig(
            vocab_size=VOCABULARY,
            d_model=width,
            encoder_layers=1,
            decoder_layers=layers,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=32,
            decoder_ffn_dim=32,
            max_source_positions=20,
            max_target_positions=12,
            num_mel_bins=8,
            init_std=0.3,
            dropout=0.0,
            pad_token_id=0,
            bos_token_id=0,
            eos_token_id=0,
            decoder_start_token_id=0,
            suppress_tokens=[],
            begin_suppress_tokens=[],
        )
    ).eval()


def wav2vec2(width, layers):
    torch.manual_seed(layers)
    return Wav2Vec2ForCTC(
        Wav2Vec2Config(
            vocab_size=VOCABULARY,
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=2,
            intermediate_size=32,
            conv_dim=(8, 8),
            conv_kernel=(10, 4),
            conv_stride=(5, 4),
            num_conv_pos_embeddings=4,
            num_conv_pos_embedding_groups=2,
            num_feat_extract_layers=2,
            layerdrop=0.0,
        )
    ).eval()


def of_whisper(student, teacher, draw):
    mels = torch.randn(3, 8, 40, generator=draw)
    inputs = torch.randint(1, VOCABULARY, (3, 6), generator=draw)
    labels = inputs.roll(-1, 1)
    labels[2, 3:] = IGNORED
    ours, theirs = (
        model(input_features=mels, decoder_input_ids=inputs, output_hidden_states=True) for model in (student, teacher)
    )
    return signals(ours, theirs, labels, ours.decoder_hidden_states, theirs.decoder_hidden_states, None)


def of_wav2vec2(student, teacher, draw):
    sound = torch.randn(3, 400, generator=draw)
    ours, theirs = (model(sound, output_hidden_states=True) for model in (student, teacher))
    labels = torch.randint(1, VOCABULARY, (3, 4), generator=draw)
    frames = torch.arange(ours.logits.shape[1]) < torch.tensor([[99], [15], [12]])
    return signals(ours, theirs, labels, ours.hidden_states, theirs.hidden_states, frames)


def signals(ours, theirs, labels, student_hidden, teacher_hidden, frames):
    return Signals(
        ours.logits, labels, ("a", "b", "c"), 0.3, teacher_logits=theirs.logits, frames=frames,
        student_hidden=student_hidden, teacher_hidden=teacher_hidden,
    )  # fmt: skip


@pytest.mark.parametrize("family", [(whisper, of_whisper), (wav2vec2, of_wav2vec2)], ids=["whisper", "wav2vec2"])
@pytest.mark.parametrize(
    ("kind", "changed"),
    [
        ("hidden", {"inner": KL}),
        ("focal", {"inner": HIDDEN}),
        ("superloss", {"inner": HIDDEN, "tau": "log_classes"}),
        ("label_smoothing", {}),
        ("adakd", {"task": {"kind": "focal", "gamma": 1.0, "inner": CE}, "distillation": HIDDEN}),
    ],
)
def test_a_student_learns(family, kind, changed):
    build, ask = family
    student, teacher = build(16, 2), build(24, 4).requires_grad_(False)
    objective = made(kind, **changed)
    objective.attach(student, teacher)
    example = ask(student, teacher, torch.Generator().manual_seed(0))
    objective.before_training(lambda most: sample_mean(task_loss(example, example.teacher_logits), example.mask))
    trained = objective.trained()
    assert len(trained) == (0 if kind == "label_smoothing" else 2)
    optimizer = torch.optim.Adam([*student.parameters(), *trained.values()], lr=1e-2)
    losses = []
    for step in range(12):
        now = ask(student, teacher, torch.Generator().manual_seed(0))
        loss = reduce(objective(now).per_token, int(now.mask.sum()))
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in trained.values())
        optimizer.step()
        objective.after_step(student, step / 12)
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1 * abs(losses[0])
    assert all(p.grad is None for p in teacher.parameters())
